# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules find on the hosts of a fleet in which everything that a report shows has happened."""

from __future__ import annotations

from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST

NOW = 1_795_700_000.0  # 2026-11-26T13:33:20Z
DIGEST = "4c5f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7"
IMAGE = f"registry.example.com/nvidia/tritonserver@sha256:{DIGEST}"
OPTIONS = {"dtype": "float16", "max_batch_size": 64, "max_input_len": 4096, "max_seq_len": 5120, "tp_size": 2}


def gpu(index: int, used: int = 0) -> dict[str, Any]:
    return {"index": index, "name": "NVIDIA H100 80GB HBM3", "uuid": f"GPU-{index}", "memory_mib": 81559,
            "memory_free_mib": 81559 - used, "pci_id": "2330"}  # fmt: skip


def facts(gpus: int = 4, used: int = 4) -> dict[str, Any]:
    return {
        "os": {"id": "ubuntu", "version": "24.04", "name": "Ubuntu 24.04.3 LTS"},
        "kernel": {"release": "6.8.0-149-generic"},
        "driver": {"version": "580.95.05"},
        "podman": {"version": "5.4.2"},
        "fabric": "nvswitch",
        "memory": {"total_bytes": 2 * 1024**4},
        "disk": {"/boot": {"free_bytes": 1, "total_bytes": 2},
                 "/var/lib/containers": {"free_bytes": 3 * 1024**4, "total_bytes": 7 * 1024**4}},
        "gpus": [gpu(index, 71000 if index < used else 480) for index in range(gpus)],
        "reboot": {"required": False, "reasons": []},
    }  # fmt: skip


def engine(model: str, fingerprint: str, **more: Any) -> dict[str, Any]:
    return {
        "name": model, "fingerprint": fingerprint, "engine_dir": f"/var/lib/trtllm/engines/{model}/{fingerprint}",
        "size": 26_300_000_000, "release": LAST, "world_size": 2, "built_at": "2026-11-20T10:00:00Z",
        "made_from": {"options": OPTIONS}, "problems": [], **more,
    }  # fmt: skip


def replica(model: str, number: int, fingerprint: str, gpus: list[str], **more: Any) -> dict[str, Any]:
    port = 8000 + 10 * number
    return {
        "service": f"triton-{model}-{number}", "replica": f"{model}-{number}", "model": model, "release": LAST,
        "image": IMAGE, "repository": f"/var/lib/trtllm/repositories/{model}/9a1b",
        "engines": [f"/var/lib/trtllm/engines/{model}/{fingerprint}"], "fingerprints": [fingerprint], "gpus": gpus,
        "http_url": f"http://10.0.0.11:{port}", "metrics_url": f"http://10.0.0.11:{port + 2}", "api": "triton",
        "active": "active", "sub": "running", "health": "healthy", "restarts": 0, "since": "2026-11-24T08:12:00Z",
        "requests": 18211, "gpu_memory_mib": [142000, 163118], "previous": "2026-11-01T10:00:00Z", "problem": "",
        "nodes": [], "node": 0, **more,
    }  # fmt: skip


def planned(model: str, number: int, gpus: list[int]) -> dict[str, Any]:
    return {"name": f"{model}-{number}", "model": model, "gpus": gpus, "address": "10.0.0.11",
            "http_port": 8000 + 10 * number}  # fmt: skip


def plan(*replicas: dict[str, Any], **options: Any) -> dict[str, Any]:
    models = dict.fromkeys(replica["model"] for replica in replicas)
    return {
        "release": LAST, "serves": True, "root": "/var/lib/trtllm", "replicas": list(replicas),
        "engines": [{"name": model, "options": {**OPTIONS, **options}} for model in models],
    }  # fmt: skip


def gateway(*models: str, **more: Any) -> dict[str, Any]:
    listed = "".join(f"- name: {model}\n  urls: ['http://10.0.0.11:8000']\n" for model in models)
    return {"service": "openai-gateway", "url": "http://127.0.0.1:3000", "models": list(models), "active": "active",
            "config": f"port: 3000\napi_keys: [sk-very-secret]\nmodels:\n{listed}", "names": {}, **more}  # fmt: skip


def line(rollout: str, time: str, step: str, service: str = "triton-codellama-13b-0", **more: Any) -> dict[str, Any]:
    return {"rollout": rollout, "time": time, "step": step, "services": [service], "who": "alice@deploy-01", **more}


def journal() -> list[dict[str, Any]]:
    first, second, third = "20261101T100000Z-11", "20261112T141500Z-12", "20261124T080000Z-13"
    return [
        line(first, "2026-11-01T10:06:00Z", "started"),
        line(second, "2026-11-12T14:17:00Z", "switching", why="its unit changed: Volume; max_batch_size: 32 -> 64"),
        line(second, "2026-11-12T14:21:00Z", "rolled back", seconds=241.2, why="gate: 3 tokens/s, and 20 are expected"),
        line(third, "2026-11-24T08:02:00Z", "switching", why="max_batch_size: 32 -> 64"),
        line(third, "2026-11-24T08:12:00Z", "passed", seconds=598.4),
    ]


def host(*replicas: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One host on which all is as described."""
    engines = {one["fingerprints"][0]: engine(one["model"], one["fingerprints"][0]) for one in replicas}
    described = [planned(one["model"], int(one["replica"].rpartition("-")[2]), [int(gpu) for gpu in one["gpus"]])
                 for one in replicas]  # fmt: skip
    return {
        "host": facts(), "replicas": list(replicas), "workers": [],
        "gateways": [gateway(*dict.fromkeys(one["model"] for one in replicas))] if replicas else [],
        "rollouts": journal(), "holder": {}, "unsettled": {}, "engines": list(engines.values()), "builds": [],
        "plan": plan(*described), "verdict": {"reasons": []}, "problems": [],
        "settled": True, "settled_since": "2026-11-24T09:30:00Z", "settled_why": [],
        "image": "registry.example.com/nvidia/tritonserver:26.07-trtllm-python-py3", **more,
    }  # fmt: skip


def code(**more: Any) -> dict[str, Any]:
    return {**replica("codellama-13b", 0, "2f0c9a1b" + DIGEST[8:], ["0", "1"]), **more}


def chat(**more: Any) -> dict[str, Any]:
    return replica("qwen3-32b", 1, "77aa01bc" + DIGEST[8:], ["2", "3"], **{"requests": 90412, **more})


def percentiles(middle: float) -> dict[str, float]:
    return {"mean": middle * 1.1, "p50": middle, "p90": middle * 1.6, "p95": middle * 1.9, "p99": middle * 2.4}


def point(concurrency: int, rate: float, first: float, shape: tuple[int, int] = (512, 128)) -> dict[str, Any]:
    return {
        "concurrency": concurrency, "input_tokens": shape[0], "output_tokens": shape[1], "requests": 40 * concurrency,
        "errors": 0, "good_share": max(0.0, 1.0 - concurrency / 80),
        "output_tokens_per_second": {"mean": rate, "runs": [rate * 0.98, rate, rate * 1.02]},
        "requests_per_second": {"mean": rate / shape[1], "runs": [rate / shape[1]] * 3},
        "time_to_first_token_ms": percentiles(first), "inter_token_latency_ms": percentiles(9 + concurrency / 8),
        "request_latency_ms": percentiles(first + 128 * (9 + concurrency / 8)),
    }  # fmt: skip


def run(time: str, faster: float = 1.0, **more: Any) -> dict[str, Any]:
    rates = {1: 105, 4: 390, 16: 1310, 32: 2060, 64: 2610}
    return {
        "format": 1, "time": time, "label": "", "tool": "aiperf 0.13.0", "repeats": 3,
        "target": {"kind": "gateway", "host": "gpu-01", "url": "http://10.0.0.11:3000", "model": "codellama-13b"},
        "points": [point(count, rate * faster, (38 + 2.6 * count) / faster) for count, rate in rates.items()], **more,
    }  # fmt: skip


def found() -> dict[str, dict[str, Any]]:
    """By host what modules found, of a fleet where much is amiss."""
    changed = host(code(), chat(active="failed", sub="failed", health="", requests=None, restarts=5, since=""))
    changed["engines"][0]["made_from"] = {"options": {**OPTIONS, "max_batch_size": 32}}
    changed["engines"][1]["problems"] = ["rank1.engine is 12 bytes, and its manifest says 26300000000"]
    changed["rollouts"] = [*journal(), line("20261126T130000Z-14", "2026-11-26T13:20:00Z", "switching", why="GPUs")]
    changed |= {"settled": False, "settled_why": ["units: /etc/containers/systemd/x.container differs in size"]}
    changed["unsettled"] = {"triton-codellama-13b-0": "ab" * 32}
    unknown = {**code(), "http_url": "", "model": "", "release": "", "image": "", "fingerprints": [], "engines": []}
    foreign = {**host(code()), "replicas": [unknown]}
    foreign |= {"settled": False, "settled_since": "", "settled_why": ["no whole run has found nothing to change yet"]}
    foreign["verdict"] = {"reasons": ["GPU 3 is asked for, and the host has 2"]}
    foreign["host"] = {**facts(2), "reboot": {"required": True, "reasons": ["the driver was upgraded"]}}
    bare = {**host(), "host": {}, "plan": None, "rollouts": [], "problems": ["it could not be asked all: no python"]}
    del bare["settled"]
    return {
        "gpu-01": host(code(), chat()),
        "gpu-02": host(code(), chat()),
        "gpu-03": changed,
        "gpu-04": foreign,
        "gpu-05": bare,
        "gpu-06": {},
    }


LOST = {"gpu-06": "it does not answer: Connection timed out"}
BENCHMARKS = [
    run("2026-11-12T15:00:00Z", 0.9, label="max_batch_size 32"),
    run("2026-11-24T09:00:00Z", label="max_batch_size 64",
        verdict={"against": "max_batch_size 32", "says": "better: tokens a second 11 % more (8 to 14 %)."}),
]  # fmt: skip
