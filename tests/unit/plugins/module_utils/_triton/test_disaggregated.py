# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica of servers that read prompts and servers that write answers: one replica for everybody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.filter.units import triton_listen
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._plan import plan
from ansible_collections.trtllm.fleet.plugins.module_utils._release import serve as release_serve
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._service import quadlet
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import disaggregated
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import replica as triton_replica
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.ports import held_ports
from ansible_collections.trtllm.fleet.plugins.plugin_utils._role_values import check_values
from unit.fleet_fakes import description, model
from unit.plugins.module_utils._triton.test_replica import SETTINGS

OWN = {"release": "1.3.0", "image": {"name": "registry.example.com/release:1.3.0"}}
NAMES = ("run.sh", "probe.sh", "stop.py", "serve_run.sh", "serve_parts.py", "serve_probe.sh", "serve_stop.sh")
KINDS = {"context": [[2], [0]], "generation": [[3]]}
FILES = Path(__file__).parents[5] / "roles" / "triton" / "files"
REPOSITORY = f"/srv/llm/repositories/m/{'ab' * 32}"


def planned(engine: dict[str, Any] | None = None, more: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    replicas = [given or KINDS]
    return plan(description({**model("m", engine, replicas=replicas), **OWN, **(more or {})}))


def service(**more: Any) -> dict[str, Any]:
    described = {**planned()["replicas"][0], "repository_dir": REPOSITORY, "image": "localhost/x@sha256:1", **more}
    settings = {**SETTINGS, "scripts": {name: name for name in NAMES}}
    return triton_replica.triton_services([described], settings)[0]


def test_the_plan_gives_the_replica_the_gpus_of_all_its_servers() -> None:
    (replica,) = planned()["replicas"]
    assert (replica["gpus"], replica["world_size"], replica["mode"]) == ([2, 0, 3], 3, "trtllm-serve")
    fleet = plan(description({**model("m", replicas=[KINDS]), **OWN}, model("e")))
    assert fleet["replicas"][1]["gpus"] == [1], "the others are taken"
    assert planned(context=[[]], generation=[[]])["replicas"][0]["gpus"] == []


def test_each_kind_is_told_what_it_needs_beside_all_else() -> None:
    (repository,) = planned({"max_seq_len": 512, "max_input_len": 300})["repositories"]
    said = repository["parameters"]
    transfer = {"backend": "UCX", "max_tokens_in_buffer": 300}
    assert "cache_transceiver_config" not in said["tensorrt_llm"]
    assert said["generation"] == {**said["tensorrt_llm"], "cache_transceiver_config": transfer}
    assert said["context"] == {**said["generation"], "disable_overlap_scheduler": True}
    args = {"llm_args": {"cache_transceiver_config": {"backend": "NIXL", "max_tokens_in_buffer": 9}}}
    (repository,) = planned(None, args)["repositories"]
    assert repository["parameters"]["context"]["cache_transceiver_config"] == {
        "backend": "NIXL", "max_tokens_in_buffer": 9
    }  # fmt: skip
    plain = plan(description({**model("m"), **OWN}))["repositories"][0]["parameters"]
    assert set(plain) == {"tensorrt_llm"}


def test_its_unit_runs_all_servers_and_the_one_before_them() -> None:
    unit = service(address="10.0.0.7", extra_args=["--log_level=debug"])["unit"]
    container = unit["Container"]
    told = json.loads(container["Environment"]["TRTLLM_PARTS"])
    assert [(one["name"], one["gpus"]) for one in told["servers"]] == [
        ("context-0", "1"), ("context-1", "0"), ("generation-0", "2")
    ], "as GPUs are counted in the container"  # fmt: skip
    assert told["servers"][2]["argv"] == [
        "trtllm-serve", "serve", "/models/m", "--host=127.0.0.1", "--port=8005",
        f"--extra_llm_api_options={REPOSITORY}/generation.yaml", "--log_level=debug",
    ]  # fmt: skip
    assert told["front"]["argv"][:3] == ["trtllm-serve", "disaggregated", "--config_file=@file@"]
    assert told["front"]["file"] == {
        "hostname": "10.0.0.7", "port": 8000,
        "context_servers": {"num_instances": 2, "urls": ["127.0.0.1:8003", "127.0.0.1:8004"]},
        "generation_servers": {"num_instances": 1, "urls": ["127.0.0.1:8005"]},
    }  # fmt: skip
    assert container["AddDevice"] == [f"nvidia.com/gpu={gpu}" for gpu in (2, 0, 3)]
    assert container["Exec"][-2].endswith("/serve_parts.py") and container["Exec"][-1] == "--port=8000"
    assert "servers='http://127.0.0.1:8003 http://127.0.0.1:8004 http://127.0.0.1:8005'" in container["HealthCmd"]
    # So it is found again, whatever else it runs.
    text = quadlet.render("triton-m-0", unit, "5.4.2").text
    assert held_ports({"triton-m-0": text}, "triton-") == {"m-0": {"http_port": 8000}}


def test_its_servers_listen_where_nobody_else_reaches_them() -> None:
    described = {**planned()["replicas"][0], "address": "10.0.0.7"}
    found = triton_listen([described], {**SETTINGS, "scripts": {name: name for name in NAMES}})
    assert [(one["address"], one["port"], one["what"]) for one in found] == [
        ("10.0.0.7", 8000, "HTTP"), ("127.0.0.1", 8003, "context-0"), ("127.0.0.1", 8004, "context-1"),
        ("127.0.0.1", 8005, "generation-0"),
    ]  # fmt: skip


PARTS_AT_8001 = {"context": [[1]], "generation": [[4]], "http_port": 8001, "grpc_port": 9001, "metrics_port": 9002}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"gpus": [1], "http_port": 8004}, "Port 8004 is that of m-1.http_port, but m-0, which has"),
        ({"gpus": [1], "http_port": 7993, "grpc_port": 8003}, "Port 8003 is that of m-1.grpc_port"),
        (PARTS_AT_8001, "Port 8004 is that of m-0.context-1, but m-1"),
    ],
)
def test_the_ports_of_its_servers_are_no_others(other: dict[str, Any], told: str) -> None:
    def both(**more: Any) -> Any:
        return plan(description({**model("m", replicas=[{**KINDS, "http_port": 8000}, {**other, **more}]), **OWN}))

    with pytest.raises(FleetError, match=told):
        both()
    assert both(http_port=8010, grpc_port=8011)


def test_gpus_may_be_uuids() -> None:
    (replica,) = planned(context=[["GPU-a"]], generation=[["GPU-b"]])["replicas"]
    told = json.loads(service(**replica)["unit"]["Container"]["Environment"]["TRTLLM_PARTS"])
    assert [one["gpus"] for one in told["servers"]] == ["GPU-a", "GPU-b"]


@pytest.mark.parametrize(
    ("engine", "more", "given", "sentence"),
    [
        ({}, {}, {"context": [[0]]}, "m-0: it has servers of one kind alone; give generation too"),
        ({}, {}, {"generation": [[0]]}, "m-0: it has servers of one kind alone; give context too"),
        ({"tp_size": 2}, {}, KINDS, "context[0] has 1 GPUs, but each server has 2 ranks"),
        ({}, {}, {"context": [[0]], "generation": [["1:0"]]}, "generation names the GPU 1:0; give indices or UUIDs"),
        ({}, {}, {"context": [["GPU-a"]], "generation": [[0]]}, "some of its GPUs by index and some by UUID"),
        ({}, {}, {"context": [0], "generation": [[1]]}, "context[0] is 0; give the list of the server's GPUs"),
        ({}, {}, {"context": [[gpu] for gpu in range(7)], "generation": [[7]]}, "has 8 servers, and a replica has"),
        ({}, {}, {**KINDS, "gpus": [0, 1]}, "gpus are given beside context and generation"),
        ({"max_beam_width": 2}, {}, KINDS, "engine.max_beam_width is 2, but serving.replicas with context and"),
        ({}, {"flow": "llmapi", "release": LAST}, KINDS, "m: serving.replicas has context and generation servers, "
         "which flow llmapi has not; set flow: trtllm-serve"),
        ({}, {"flow": "engine", "release": LAST}, KINDS, "which flow engine has not; set flow: trtllm-serve"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    engine: dict[str, Any], more: dict[str, Any], given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(FleetError) as refused:
        planned(engine, more, **given)
    assert sentence in str(refused.value)


def test_a_release_without_it_is_refused_by_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_serve, "DISAGGREGATED", "1.0.0-1.2.0 | config_file\n")
    with pytest.raises(FleetError, match="m-0: context and generation need trtllm-serve disaggregated"):
        service()


def test_values_of_the_roles_are_judged_in_lists_of_lists_too() -> None:
    def judge(context: Any) -> None:
        one = {"name": "m", "serving": {"replicas": [{"context": context, "generation": [["GPU-a"]]}]}}
        check_values("fleet", {"trtllm_models": [one]})

    judge([[0], [1]])
    with pytest.raises(FleetError, match=r"context\[0\] is 0; give a list\.$"):
        judge([0])
    with pytest.raises(FleetError, match="control characters"):
        judge([["a\nb"]])


def test_a_gpu_is_given_once() -> None:
    with pytest.raises(FleetError, match="GPU 0 .*is already given"):
        planned(context=[[0]], generation=[[0]])


ENDS_EARLY = """
import os, runpy, signal, subprocess, sys
started, original = [], subprocess.Popen
def popen(*given, **more):
    process = original(*given, **more)
    started.append(process)
    if len(started) == 2:  # the one before the servers, of which nobody knows yet
        os.kill(os.getpid(), signal.SIGTERM)
    return process
subprocess.Popen = popen
sys.argv = ["serve_parts.py", "--port=1"]
runpy.run_path({script!r}, run_name="__main__")
"""


def test_told_to_end_while_the_one_before_the_servers_starts_all_end() -> None:
    sleeps = ["sleep", "60"]
    told = {"servers": [{"name": "context-0", "gpus": "", "argv": sleeps}], "front": {"argv": sleeps, "file": {}}}
    script = str(FILES / disaggregated.SCRIPT)
    done = subprocess.run(
        [sys.executable, "-c", ENDS_EARLY.format(script=script)], check=False, timeout=15,
        env={**os.environ, disaggregated.VARIABLE: json.dumps(told), "TRTLLM_PARTS_GRACE": "5"},
    )  # fmt: skip
    assert done.returncode == 0
