# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica that is trtllm-serve: the same kind of service as Triton's, and what is different about it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.filter.units import triton_listen, triton_results
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._plan import (
    crossing_table,
    plan,
    replica_inputs,
    repository_inputs,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._service import quadlet
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm.plan import repositories
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import replica as triton_replica
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.ports import held_ports
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.serve import refuse_elsewhere
from unit.fleet_fakes import description, model
from unit.plugins.module_utils._triton.test_replica import SETTINGS, replica

SCRIPTS = {
    name: name
    for name in ("run.sh", "probe.sh", "stop.py", "gang.py", "serve_run.sh", "serve_probe.sh", "serve_stop.sh")
}
OWN = {"release": "1.3.0", "image": {"name": "registry.example.com/release:1.3.0"}}


def served(**more: Any) -> dict[str, Any]:
    described = {**replica("m-0", model="m", engine_dirs=[]), "mode": "trtllm-serve", "release": "1.3.0", **more}
    return triton_replica.triton_services([described], {**SETTINGS, "scripts": SCRIPTS})[0]


def test_the_container_runs_the_server_on_the_checkpoint_by_the_name_of_the_model() -> None:
    service = served(gpus=[0, 1], extra_args=["--log_level=debug"])
    container = service["unit"]["Container"]
    scripts = container["Exec"][1].rpartition("/")[0]
    assert container["Exec"] == [
        "sh", f"{scripts}/serve_run.sh", "trtllm-serve", "serve", "/models/m", "--host=127.0.0.1", "--port=8000",
        "--extra_llm_api_options=/var/lib/trtllm/repositories/codellama/1f/llm_args.yaml", "--log_level=debug",
    ]  # fmt: skip
    assert "/var/lib/trtllm/checkpoints/codellama:/models/m:ro,z" in container["Volume"]
    assert container["AddDevice"] == ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    assert sorted(service["files"]) == [
        f"{scripts}/{name}" for name in ("run.sh", "serve_probe.sh", "serve_run.sh", "serve_stop.sh")
    ]
    assert service["load_paths"] == ["/var/lib/trtllm/checkpoints/codellama"]
    assert service["name"] == "triton-m-0" and service["record"]["api"] == "openai"
    assert not re.search("triton", service["unit"]["Unit"]["Description"], re.I)


OURS = f"/srv/llm/repositories/m/{'ab' * 32}"


def test_what_a_start_compiles_is_kept_for_the_next_start_of_the_same() -> None:
    service = served(repository_dir=OURS)
    unit = service["unit"]
    (cache,) = [volume for volume in unit["Container"]["Volume"] if ":/cache:" in volume]
    host = cache.partition(":")[0]
    assert re.fullmatch(r"/srv/llm/caches/m-0/[0-9a-f]{64}", host) and cache.endswith(":/cache:rw,z")
    assert unit["Service"]["ExecStartPre"] == f"/bin/mkdir -p {host}"
    assert service["files"][f"{host}/CACHEDIR.TAG"].startswith("Signature: "), "a path that is mounted must be there"
    environment = unit["Container"]["Environment"]
    assert environment["TLLM_AUTOTUNER_CACHE_PATH"] == "/cache/autotuner-@gpus@.json"
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == "/cache/inductor"
    same = served(repository_dir=OURS, http_port=8100)["unit"]["Container"]["Volume"]
    assert cache in same, "what is compiled follows from none of the ports"
    others = (
        {"image": "localhost/other@sha256:1"},
        {"repository_dir": OURS[:-2] + "00"},
        {"gpus": [0, 1]},
        {"name": "m-1"},
    )
    for other in others:
        assert cache not in served(**{"repository_dir": OURS, **other})["unit"]["Container"]["Volume"]


def test_only_what_a_release_reads_is_set_and_a_repository_of_others_has_no_cache() -> None:
    older = served(repository_dir=OURS, release="1.0.0")["unit"]["Container"]["Environment"]
    assert "TLLM_AUTOTUNER_CACHE_PATH" not in older and older["TRITON_CACHE_DIR"] == "/cache/triton"
    unit = served()["unit"]
    assert not any("/cache" in volume for volume in unit["Container"]["Volume"])
    assert "ExecStartPre" not in unit["Service"] and "TRITON_CACHE_DIR" not in unit["Container"]["Environment"]


def test_it_is_asked_for_a_token_and_has_time_for_what_is_in_flight() -> None:
    unit = served(stop_timeout=90)["unit"]
    assert re.match(
        r"""url=http://127\.0\.0\.1:8000 body='\{"model": "m", "prompt": "1", "max_tokens": 1\}' token_timeout=60 """
        r"hang_timeout=25 retries=2 sh /etc/trtllm/triton/\w+/serve_probe\.sh steady m$",
        unit["Container"]["HealthCmd"],
    )
    assert "serve_probe.sh start m" in unit["Container"]["HealthStartupCmd"]
    assert "sh -s 90 < " in unit["Service"]["ExecStop"] and unit["Service"]["TimeoutStopSec"] > 180


def test_it_listens_on_one_port_and_keeps_it() -> None:
    described = {**replica("m-0", model="m", engine_dirs=[]), "mode": "trtllm-serve", "release": "1.3.0"}
    settings = {**SETTINGS, "scripts": SCRIPTS}
    assert [(listen["port"], listen["what"]) for listen in triton_listen([described], settings)] == [(8000, "HTTP")]
    found = triton_results([described], settings, {})["m-0"]
    assert (found["api"], found["metrics_url"], found["entry_models"]) == ("openai", "", ["m"])
    text = quadlet.render("triton-m-0", served(http_port=8730)["unit"], "5.4.2").text
    held = held_ports({"triton-m-0": text}, "triton-")
    assert held == {"m-0": {"http_port": 8730}}
    # The other two are there for the engine that it may go back to.
    ports = plan(description({**model("m"), **OWN}, held_ports=held))["replicas"][0]
    assert [ports[key] for key in ("http_port", "grpc_port", "metrics_port")] == [8730, 8731, 8732]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"extra_args": ["--tp_size=2"]}, "m-0: extra_args has --tp_size, which the file of the LLM API says"),
        ({"checkpoint_dirs": []}, "m-0: trtllm-serve serves one checkpoint"),
        ({"release": "0.20.0"}, "flow is trtllm-serve, which TensorRT-LLM 0.20.0 is not known to have"),
    ],
)
def test_what_it_cannot_do_is_refused(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FleetError) as refused:
        served(**more)
    assert sentence in str(refused.value)


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_a_model_of_a_release_without_engines_has_none_in_the_plan() -> None:
    fleet = plan(description({**model("m", {"tp_size": 2, "max_seq_len": 512}), **OWN}, model("e")))
    assert [engine["name"] for engine in fleet["engines"]] == ["e"]
    served, engine = fleet["repositories"]
    assert served["layout"] == "trtllm-serve" and "layout" not in engine
    assert served["parameters"]["tensorrt_llm"]["tensor_parallel_size"] == 2
    assert [replica.get("mode") for replica in fleet["replicas"]] == ["trtllm-serve", None]
    assert [replica["gpus"] for replica in fleet["replicas"]] == [[0, 1], [2]]
    engines = {"e": {"engine_dir": "/e"}}
    assert "engine_dir" not in repository_inputs(fleet["repositories"], engines)[0]
    repositories = {"m": {"repository_dir": "/r", "mode": "trtllm-serve"}, "e": {"repository_dir": "/s"}}
    assert [one["engine_dirs"] for one in replica_inputs(fleet["replicas"], repositories, engines)] == [[], ["/e"]]


def test_a_release_that_has_both_serves_the_checkpoint_where_that_is_asked_for() -> None:
    fleet = plan(description({**model("m"), "flow": "trtllm-serve"}))
    assert fleet["engines"] == [] and fleet["replicas"][0]["mode"] == "trtllm-serve"
    assert plan(description({**model("m"), "flow": "engine"})) == plan(description(model("m")))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"llm_args": {"dtype": "auto"}}, "m: llm_args is for the flows trtllm-serve and llmapi, and flow is engine"),
        ({**OWN, "flow": "llmapi"}, f"which TensorRT-LLM 1.3.0 is not known to have (it has trtllm-serve); "
         f"1.0.0 to {LAST} have it."),
        ({"flow": "llmapi", "engine": {"gemm_plugin": "auto"}}, "m: engine.gemm_plugin says how an engine is made, and "
         "llmapi makes none; leave it out, or set flow: engine, which has it."),
        ({"flow": "llmapi", "engine": {"tokens_per_block": 32}}, "it is for 1.3.0; leave it out, or set flow: engine"),
        ({"flow": "llmapi", "engine": {"log_level": "info"}}, "m: engine.log_level says how an engine is made"),
        ({"flow": "llmapi", "engine_image": {"name": "r.example.com/x:1"}}, "m: engine_image builds engines, and flow "
         "llmapi has none"),
        ({**OWN, "flow": "engine"}, f"which TensorRT-LLM 1.3.0 is not known to have (it has trtllm-serve); "
         f"0.7.1 to {LAST} have it."),
        ({**OWN, "engine": {"gemm_plugin": "auto"}}, "m: engine.gemm_plugin says how an engine is made"),
        ({**OWN, "engine_image": {"name": "r.example.com/x:1"}}, "m: engine_image builds engines, and flow"),
    ],
)  # fmt: skip
def test_a_flow_that_cannot_be_is_refused_in_the_plan(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FleetError) as refused:
        plan(description({**model("m"), **more}))
    assert sentence in str(refused.value)


def test_triton_serves_the_checkpoint_where_that_is_asked_for() -> None:
    args = {"cuda_graph_config": None}
    fleet = plan(description({**model("m", {"tp_size": 2}), "flow": "llmapi", "llm_args": args}, model("e")))
    assert [engine["name"] for engine in fleet["engines"]] == ["e"]
    served, engine = fleet["repositories"]
    assert served["layout"] == "llmapi" and "layout" not in engine
    assert served["parameters"] == {
        "tensorrt_llm": {
            "tensor_parallel_size": 2, "cuda_graph_config": None, "kv_cache_config": {"free_gpu_memory_fraction": 0.9}
        }
    }, "nobody reads statistics of iterations there"  # fmt: skip
    replicas = fleet["replicas"]
    assert [(one.get("mode"), one["world_size"], one["gpus"]) for one in replicas] == [
        ("llmapi", 1, [0, 1]), (None, 1, [2])
    ], "the model starts its ranks itself"  # fmt: skip


def test_its_unit_is_tritons_and_keeps_what_a_start_compiles() -> None:
    described = {**replica("m-0", model="m", engine_dirs=[]), "mode": "llmapi", "repository_dir": OURS, "gpus": [0, 1]}
    (service,) = triton_replica.triton_services([described], {**SETTINGS, "scripts": SCRIPTS})
    container = service["unit"]["Container"]
    assert container["Environment"]["TRITON_CACHE_DIR"] == "/cache/triton"
    (cache,) = [volume for volume in container["Volume"] if ":/cache:" in volume]
    assert "/var/lib/trtllm/checkpoints/codellama:/var/lib/trtllm/checkpoints/codellama:ro,z" in container["Volume"]
    assert service["unit"]["Service"]["ExecStartPre"] == f"/bin/mkdir -p {cache.partition(':')[0]}"
    assert service["load_paths"] == ["/var/lib/trtllm/checkpoints/codellama"]
    assert (service["record"]["api"], service["record"]["entry_models"]) == ("llmapi", ["tensorrt_llm"])
    found = triton_results([described], {**SETTINGS, "scripts": SCRIPTS}, {})["m-0"]
    assert found["api"] == "llmapi" and "metrics_url" not in found and found["metrics_port"] == 8002
    engine = {**described, "mode": "leader"}
    (other,) = triton_replica.triton_services([engine], {**SETTINGS, "scripts": SCRIPTS})
    assert "TRITON_CACHE_DIR" not in other["unit"]["Container"]["Environment"] and "api" not in other["record"]


@pytest.mark.parametrize("flow", ["trtllm-serve", "llmapi"])
def test_it_runs_as_a_service_of_a_host_only(flow: str) -> None:
    fleet = plan(description({**model("m"), "flow": flow}))
    with pytest.raises(FleetError) as refused:
        refuse_elsewhere(fleet["replicas"], "as a job of Slurm")
    assert f"m-0: its flow is {flow}" in str(refused.value) and "not as a job of Slurm yet" in str(refused.value)
    with pytest.raises(FleetError) as refused:
        repositories(fleet["repositories"], [], LAST)
    assert "not as a job of Slurm yet" in str(refused.value)


def test_the_table_of_a_crossing_says_what_becomes_of_each_option_once() -> None:
    described = description(model("a", {"tp_size": 2, "gemm_plugin": "auto"}), {**model("m"), **OWN})
    fleet = plan(described)
    lines = crossing_table({"h1": fleet, "h2": fleet}, "1.3.0")
    assert lines[0].split() == ["model", "option", "value", "fate", "becomes"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["a", "engine.tp_size", "2", "changes"],
        ["a", "engine.gemm_plugin", "auto", "goes"],
    ]
    with pytest.raises(FleetError) as refused:
        crossing_table({"h1": fleet}, "0.20.0")
    assert "1.0.0 to 1.3.0 have it" in str(refused.value)
