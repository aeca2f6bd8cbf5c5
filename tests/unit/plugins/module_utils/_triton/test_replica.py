# SPDX-License-Identifier: GPL-3.0-or-later
"""From a replica as described to the service that an operator gets."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._host.gpu import cdi_name
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._service import quadlet
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import replica as triton_replica

SETTINGS: dict[str, Any] = {
    "release": LAST,
    "image": "nvcr.io/nvidia/tritonserver@sha256:" + "1" * 64,
    "address": "127.0.0.1",
    "mode": "leader",
    "world_size": 1,
    "shm_size": "2g",
    "stop_timeout": 60,
    "probe_interval": 10,
    "probe_timeout": 60,
    "probe_retries": 2,
    "hang_timeout": 25,
    "scripts": {"run.sh": 'exec "$@"', "probe.sh": "exit 0", "stop.py": "pass"},
}
SCRIPTS_DIR = triton_replica.scripts_dir(SETTINGS)


def replica(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "model": "codellama",
        "repository_dir": "/var/lib/trtllm/repositories/codellama/1f",
        "engine_dirs": ["/var/lib/trtllm/engines/codellama/2e"],
        "checkpoint_dirs": ["/var/lib/trtllm/checkpoints/codellama"],
        "gpus": [],
        **more,
    }


def services(*replicas: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    return triton_replica.triton_services(replicas, {**SETTINGS, **settings})


def test_the_container_gets_what_the_documents_ask_for_and_nothing_more() -> None:
    container = services(replica("codellama-0", gpus=[0, 1], world_size=2))[0]["unit"]["Container"]
    assert container["AddDevice"] == ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    assert container["Ulimit"] == ["memlock=-1:-1", "stack=67108864:67108864"]
    assert (container["ShmSize"], container["Network"], container["Pull"]) == ("2g", "host", "never")
    assert (container["DropCapability"], container["AddCapability"], container["NoNewPrivileges"]) == ("all", [], True)
    assert all(volume.endswith(":ro,z") for volume in container["Volume"])
    assert container["Exec"][:3] == ["sh", f"{SCRIPTS_DIR}/run.sh", "mpirun"]
    assert container["Exec"].count("--http-address=127.0.0.1") == 2
    assert "shm-region-prefix-name=codellama-0_1_" in " ".join(container["Exec"])


def test_ranks_of_one_host_open_no_port_of_their_own_and_users_may_decide_otherwise() -> None:
    plain, own = services(replica("a", world_size=2), replica("b", environment={"OMPI_MCA_btl": "tcp,self"}))
    assert plain["unit"]["Container"]["Environment"]["OMPI_MCA_btl"] == "self,vader"
    assert own["unit"]["Container"]["Environment"]["OMPI_MCA_btl"] == "tcp,self"


def test_paths_are_the_same_inside_and_nested_ones_are_mounted_once() -> None:
    container = services(replica("a", engine_dirs=["/var/lib/trtllm/repositories/codellama/1f/engine"]))[0]["unit"][
        "Container"
    ]
    assert container["Volume"] == [
        f"{SCRIPTS_DIR}:{SCRIPTS_DIR}:ro,z",
        "/var/lib/trtllm/checkpoints/codellama:/var/lib/trtllm/checkpoints/codellama:ro,z",
        "/var/lib/trtllm/repositories/codellama/1f:/var/lib/trtllm/repositories/codellama/1f:ro,z",
    ]


@pytest.mark.parametrize(
    ("options", "seconds"), [({}, 50), ({"stop_timeout": 8}, 4), ({"stop_timeout": 1}, 1), ({"exit_timeout": 7}, 7)]
)
def test_triton_gives_up_on_requests_before_it_is_given_up(options: dict[str, Any], seconds: int) -> None:
    command = services(replica("a", world_size=2, **options))[0]["unit"]["Container"]["Exec"]
    assert command.count(f"--exit-timeout-secs={seconds}") == 2


@pytest.mark.parametrize(
    ("gpu", "device"),
    [
        (0, "nvidia.com/gpu=0"),
        ("0:1", "nvidia.com/gpu=0:1"),
        ("MIG-5b3c", "nvidia.com/gpu=MIG-5b3c"),
        ("vendor.com/net=eth0", "vendor.com/net=eth0"),
        ("/dev/nvidia0", "/dev/nvidia0"),
    ],
)
def test_devices_by_cdi_name(gpu: object, device: str) -> None:
    container = services(replica("a", gpus=[gpu]))[0]["unit"]["Container"]
    assert container["AddDevice"] == [device] == [cdi_name(gpu)], "an engine and its replica get the same device"


@pytest.mark.parametrize(
    ("first", "second"), [([0], [0]), ([0, 1], ["1"]), (["0:1"], ["0:1"]), ([0], ["0:1"]), (["all"], [3])]
)
def test_a_gpu_given_to_two_replicas_is_refused(first: list[Any], second: list[Any]) -> None:
    with pytest.raises(FleetError, match=r"GPU .* of replica b is already given to a"):
        services(replica("a", gpus=first), replica("b", gpus=second))


def test_mig_instances_of_one_gpu_may_go_to_two_replicas() -> None:
    assert len(services(replica("a", gpus=["0:0"]), replica("b", gpus=["0:1"]))) == 2


def test_ports_are_chosen_clear_of_those_given() -> None:
    made = services(replica("a"), replica("b", http_port=8010), replica("c"))
    ports = [[listen["port"] for listen in service["listen"]] for service in made]
    assert ports == [[8000, 8001, 8002], [8010, 8011, 8012], [8020, 8021, 8022]]
    assert len({port for triple in ports for port in triple}) == 9


def test_a_port_given_twice_is_refused() -> None:
    with pytest.raises(FleetError, match=r"Port 8001 is given to a.grpc_port and to b.http_port"):
        services(replica("a", grpc_port=8001), replica("b", http_port=8001))


def test_changing_one_replica_leaves_the_others_unit_as_it_is() -> None:
    before = services(replica("a"), replica("b"))
    after = services(replica("a"), replica("b", log_verbose=1))
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_the_probe_goes_through_every_process_of_the_repository() -> None:
    def asked(**options: Any) -> str:
        command: str = services(replica("a", **options))[0]["unit"]["Container"]["HealthCmd"]
        return command.partition(" steady ")[2]

    assert asked() == "tensorrt_llm_bls"
    assert asked(entry_models=["ensemble"]) == "ensemble"
    pair = ["ensemble", "tensorrt_llm_bls", "b_ensemble", "b_tensorrt_llm_bls"]
    assert asked(entry_models=pair) == "tensorrt_llm_bls b_tensorrt_llm_bls"
    assert asked(probe_models=["x", "y"]) == "x y"


def test_the_llmapi_probe_speaks_its_tensors() -> None:
    container = services(replica("a", mode="llmapi"), release="1.3.0")[0]["unit"]["Container"]
    assert container["HealthCmd"].endswith(" steady tensorrt_llm")
    assert "sampling_param_max_tokens" in container["HealthCmd"]


def test_the_probe_is_told_the_patience_that_the_operator_has() -> None:
    container = services(replica("a", probe_timeout=40, hang_timeout=15, probe_retries=3))[0]["unit"]["Container"]
    words = shlex.split(container["HealthCmd"])
    assert {"token_timeout=40", "hang_timeout=15", "retries=3", "metrics_url=http://127.0.0.1:8002"} <= set(words)
    assert words[-3:] == [f"{SCRIPTS_DIR}/probe.sh", "steady", "tensorrt_llm_bls"]
    assert shlex.split(container["HealthStartupCmd"])[-2:] == ["start", "tensorrt_llm_bls"]


def test_the_time_limit_of_a_probe_is_beyond_all_that_it_waits_for() -> None:
    """podman takes a probe that it had to end for a failure, and a busy server must not be killed."""
    container = services(replica("a", probe_models=["x", "y"], probe_timeout=50, probe_retries=3))[0]["unit"][
        "Container"
    ]
    assert int(container["HealthTimeout"].removesuffix("s")) > 3 * 2 * (50 + 5) + 2 * 50


def test_scripts_are_where_their_text_says_so_that_a_running_replica_keeps_its_own() -> None:
    now, later = services(replica("a"))[0], services(replica("a", scripts={"probe.sh": "exit 1"}))[0]
    assert now["files"] == {f"{SCRIPTS_DIR}/{name}": f"{text}\n" for name, text in SETTINGS["scripts"].items()}
    assert now["unit"]["Container"]["Volume"].count(f"{SCRIPTS_DIR}:{SCRIPTS_DIR}:ro,z") == 1
    assert set(now["files"]) & set(later["files"]) == set()
    assert now["unit"]["Container"]["HealthCmd"] != later["unit"]["Container"]["HealthCmd"]


def test_the_stop_is_told_its_time_and_the_port_whose_idle_connections_are_closed() -> None:
    stop = services(replica("a", stop_timeout=33, http_port=9000))[0]["unit"]["Service"]["ExecStop"]
    assert f" python3 -I -S - 33 9000 < {SCRIPTS_DIR}/stop.py" in stop


def test_the_unit_of_a_replica_says_nothing_secret_and_survives_every_podman() -> None:
    service = services(replica("a", gpus=[0], memory="64g", cpus=8, environment={"NCCL_DEBUG": "WARN"}))[0]
    for version in ("4.3.1", "4.4", "4.6", "4.9.3", "5.0", "5.4.2", "5.6"):
        rendered = quadlet.render(service["name"], service["unit"], version)
        assert rendered.notes == []
        assert "memory=4g" not in rendered.text and re.search(r"[Mm]emory=64g", rendered.text)
        assert "--cpus=8" in rendered.text
        assert "Restart=on-failure" in rendered.text


def test_what_changes_a_running_triton_takes_a_word_that_nobody_knows() -> None:
    words = services(replica("a", world_size=2, gpus=[0, 1]))[0]["unit"]["Container"]["Exec"]
    restricted = [word for word in words if "restricted" in word]
    assert restricted == [
        "--http-restricted-api=logging,trace,shared-memory:trtllm-fleet=@word@",
        "--grpc-restricted-protocol=logging,trace,shared-memory:trtllm-fleet=@word@",
    ]
    # run.sh replaces it, so it must be what runs; an API cannot be restricted twice, so yours stands alone.
    assert words[:2] == ["sh", f"{SCRIPTS_DIR}/run.sh"]
    own = "--http-restricted-api=model-repository:x=y"
    words = services(replica("a", extra_args=[own]))[0]["unit"]["Container"]["Exec"]
    assert [word for word in words if word.startswith("--http-restricted-api")] == [own]


def test_an_orchestrator_and_explicit_loading() -> None:
    container = services(
        replica("a", mode="orchestrator", gpus=[0, 1], model_control_mode="explicit", load_models=["ensemble"])
    )[0]["unit"]["Container"]
    assert container["Environment"]["TRTLLM_ORCHESTRATOR"] == "1"
    assert "OMPI_MCA_btl" not in container["Environment"]
    assert "--cuda-memory-pool-byte-size=1:0" in container["Exec"]
    assert container["Exec"][-6:-1].count("--load-model=ensemble") == 1
    with pytest.raises(FleetError, match="mode is 'boss'"):
        services(replica("a", mode="boss"))
    with pytest.raises(FleetError, match="set world_size to 1"):
        services(replica("a", mode="llmapi", world_size=2))
