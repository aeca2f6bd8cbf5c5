# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica on several hosts: who has which rank, what the nodes are told, and what is refused without a host."""

from __future__ import annotations

import ipaddress
import json
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import gang
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.replica import (
    gangs,
    listens,
    served,
    triton_services,
)

ENGINE = "/var/lib/trtllm/engines/big/2f0c"
SETTINGS = {
    "release": LAST,
    "image": "registry/triton@sha256:" + "a" * 64,
    "scripts": {"run.sh": "run", "probe.sh": "probe", "stop.py": "stop", "gang.py": "gang"},
}


def node(number: int, **extra: Any) -> dict[str, Any]:
    """The replica as one of its two nodes is told."""
    return {
        "name": "big-0",
        "model": "big",
        "repository_dir": "/var/lib/trtllm/repositories/big/77",
        "engine_dirs": [ENGINE],
        "world_size": 4,
        "gpus": [0, 1],
        "nodes": [{"name": "g1", "address": "10.0.0.5"}, {"name": "g2", "address": "10.0.0.6"}],
        "node": number,
        **extra,
    }


def unit(number: int, **extra: Any) -> dict[str, Any]:
    (service,) = triton_services([node(number, **extra)], SETTINGS)
    return service


def test_ranks_follow_the_order_of_the_nodes() -> None:
    assert [gang.own_ranks(node(number)) for number in (0, 1)] == [[0, 1], [2, 3]]
    command = unit(0)["unit"]["Container"]["Exec"]
    contexts = " ".join(command).split(" : ")
    hosts = [context.split("--host ")[1].split()[0] for context in contexts]
    assert hosts == ["10.0.0.5:2"] * 2 + ["10.0.0.6:2"] * 2
    assert command[:5] == ["python3", "-I", "-S", command[3], "lead"] and command[5] == "mpirun"


def test_the_first_rank_alone_listens() -> None:
    first, *others = " ".join(unit(0)["unit"]["Container"]["Exec"]).split(" : ")
    assert "--http-address=127.0.0.1" in first and "--allow-http=false" not in first
    for other in others:
        assert "--allow-http=false --allow-grpc=false --allow-metrics=false" in other
        assert "--http-address" not in other and "--load-model=tensorrt_llm" in other


def test_a_worker_waits_and_has_the_devices_and_mounts_of_its_ranks() -> None:
    leader, worker = unit(0), unit(1)
    container = worker["unit"]["Container"]
    assert container["Exec"][-1] == "wait"
    assert "HealthCmd" not in container and "Notify" not in container
    for key in ("Image", "AddDevice", "Volume", "Ulimit", "ShmSize", "DropCapability"):
        assert container[key] == leader["unit"]["Container"][key]
    assert worker["unit"]["Service"]["Restart"] == "always" and "ExecStop" not in worker["unit"]["Service"]
    assert "http" not in worker["record"] and worker["record"]["nodes"] == ["g1", "g2"]
    assert [listen["port"] for listen in worker["listen"]] == [18700, 18701]
    assert [listen["port"] for listen in leader["listen"]] == [8000, 8001, 8002, 18701]


@pytest.mark.parametrize(
    ("options", "seconds"),
    [({}, 53), ({"stop_timeout": 8}, 5), ({"exit_timeout": 56}, 57), ({"exit_timeout": 90}, 60)],
)
def test_what_is_in_flight_ends_so_early_that_the_ranks_of_all_nodes_end_in_time(
    options: dict[str, Any], seconds: int
) -> None:
    assert f" python3 -I -S - {seconds} 8000 < /" in unit(0, **options)["unit"]["Service"]["ExecStop"]


def test_what_nodes_are_told_is_the_same_but_for_what_is_their_own() -> None:
    told = [json.loads(unit(number)["unit"]["Container"]["Environment"]["TRTLLM_GANG"]) for number in (0, 1)]
    own = ("node", "ranks")
    assert [{key: one.pop(key) for key in own} for one in told] == [
        {"node": 0, "ranks": [0, 1]},
        {"node": 1, "ranks": [2, 3]},
    ]
    assert told[0] == told[1]
    assert told[0]["is"]["image"] == SETTINGS["image"] and told[0]["is"]["engine"] == ENGINE
    assert told[0]["secret"] == "/etc/trtllm/gangs/triton-big-0/secret"


RDMA = {
    "devices": [
        {"name": "mlx5_0", "nodes": ["/dev/infiniband/uverbs0"]},
        {"name": "mlx5_1", "nodes": ["/dev/infiniband/uverbs1"]},
        {"name": "without_a_node", "nodes": []},
    ],
    "manager": "/dev/infiniband/rdma_cm",
}


def handed(number: int, **extra: Any) -> list[str]:
    """What the container of a node gets beside its GPUs."""
    return list(unit(number, **extra)["unit"]["Container"]["AddDevice"][2:])


@pytest.mark.parametrize("number", [0, 1])
def test_rdma_devices_are_handed_over_where_the_host_has_them(number: int) -> None:
    assert handed(number) == handed(number, host_rdma={"devices": [], "manager": RDMA["manager"]}) == []
    both = ["/dev/infiniband/uverbs0", "/dev/infiniband/uverbs1", "/dev/infiniband/rdma_cm"]
    assert handed(number, host_rdma=RDMA) == both
    assert handed(number, host_rdma=RDMA, rdma=[]) == []
    assert handed(number, host_rdma=RDMA, rdma=["mlx5_1"]) == both[1:]
    assert handed(number, host_rdma=RDMA, rdma=["nvidia.com/mofed=all"]) == ["nvidia.com/mofed=all", both[2]]
    container = unit(number, host_rdma=RDMA, rdma=["mlx5_1"], environment={"NCCL_DEBUG": "INFO"})["unit"]["Container"]
    assert container["Environment"]["NCCL_IB_HCA"] == "=mlx5_1" and container["Environment"]["NCCL_DEBUG"] == "INFO"
    assert "memlock=-1:-1" in container["Ulimit"]
    own = {"rdma": ["mlx5_1"], "environment": {"NCCL_IB_HCA": "mlx5"}}
    assert unit(number, host_rdma=RDMA, **own)["unit"]["Container"]["Environment"]["NCCL_IB_HCA"] == "mlx5"


def test_an_rdma_device_that_a_node_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(FleetError, match=r"big-0: rdma has mlx5_9, which g2 does not have; it has mlx5_0, mlx5_1\."):
        unit(1, host_rdma=RDMA, rdma=["mlx5_0", "mlx5_9"])
    with pytest.raises(FleetError, match=r"big-0: rdma has '../x'; it takes an RDMA device"):
        unit(1, rdma=["../x"])
    assert handed(1, rdma=["mlx5_0"]) == [], "a host that was not looked at is not judged"


def test_hosts_with_other_rdma_devices_are_told_the_same_settings() -> None:
    told = [
        json.loads(unit(0, host_rdma=host)["unit"]["Container"]["Environment"]["TRTLLM_GANG"])["settings"]
        for host in ({}, RDMA)
    ]
    assert told[0] == told[1]


def test_a_change_of_any_setting_changes_the_unit_of_each_node() -> None:
    for number in (0, 1):
        assert unit(number)["unit"] != unit(number, log_verbose=1)["unit"]
    assert unit(1)["unit"]["Container"] == unit(1, http_port=9000)["unit"]["Container"]


def test_a_secret_is_never_in_a_unit() -> None:
    text = json.dumps([unit(0), unit(1)])
    assert text.count("/etc/trtllm/gangs/triton-big-0/secret") == 2


def test_a_replica_of_one_host_is_what_it_was() -> None:
    alone = {key: value for key, value in node(0).items() if key not in ("nodes", "node")}
    (replica,) = served([alone], SETTINGS)
    assert "gang.py" not in replica["scripts"]
    text = json.dumps(triton_services([alone], SETTINGS))
    assert "gang" not in text and "--host" not in text and "OMPI_MCA_oob" not in text
    assert '"OMPI_MCA_btl": "self,vader"' in text
    assert gangs([alone], SETTINGS) == {}


@pytest.mark.parametrize(
    ("addresses", "network"),
    [
        (["10.0.0.5", "10.0.0.6"], "10.0.0.4/30"),
        (["10.0.0.5", "10.0.1.6"], "10.0.0.0/23"),
        (["10.0.0.5"], "10.0.0.5/32"),
    ],
)
def test_the_network_is_the_smallest_with_all_nodes(addresses: list[str], network: str) -> None:
    assert gang.network(addresses) == network
    assert all(ipaddress.ip_address(address) in ipaddress.ip_network(network) for address in addresses)


def test_the_agent_is_a_command_that_a_shell_splits_as_mpirun_does() -> None:
    found = gang.environment({**node(0), "gang_port": 18700}, "/etc/trtllm/triton/ab")
    agent = found["OMPI_MCA_plm_rsh_agent"]
    assert agent.split(" ") == shlex.split(agent) == ["python3", "-I", "-S", "/etc/trtllm/triton/ab/gang.py", "call"]
    assert found["OMPI_MCA_oob_tcp_static_ipv4_ports"] == "18701"
    assert found["OMPI_MCA_btl_tcp_port_min_v4"] == "18710"
    assert not [value for value in found.values() if "{" in value]


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"nodes": [{"name": "g1", "address": "10.0.0.5"}]}, "big-0: nodes has one host, g1; name two or more"),
        ({"nodes": [{"name": "g1", "address": "10.0.0.5"}] * 2}, "big-0: nodes has g1 twice; name each host once"),
        (
            {"world_size": 3},
            "has 3 ranks (tp_size * pp_size * cp_size), which do not split evenly over 2 nodes (g1, g2)",
        ),
        (
            {"nodes": [{"name": "g1", "address": "10.0.0.5"}, {"name": "g2", "address": "fd00::1"}]},
            "the address of g2 is 'fd00::1'; the nodes of a replica reach each other at IPv4 addresses",
        ),
        (
            {"nodes": [{"name": "g1", "address": "127.0.0.1"}, {"name": "g2", "address": "10.0.0.6"}]},
            "trtllm_node_address",
        ),
        ({"gang_port": 80}, "big-0.gang_port is 80; give a port from 1024 to"),
        ({"mode": "orchestrator", "world_size": 4}, "ranks are on several hosts in mode leader alone"),
        ({"node": 2}, "big-0: node is 2; its 2 nodes are numbered from 0 on"),
    ],
)
def test_what_cannot_share_ranks_is_refused_in_a_sentence(extra: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FleetError) as refused:
        unit(int(extra.pop("node", 0)) if "node" not in extra else 0, **extra)
    assert sentence in str(refused.value)


def test_two_replicas_of_a_host_share_no_port_between_their_nodes() -> None:
    other = node(0, name="big-1", gpus=[2, 3])
    with pytest.raises(
        FleetError, match="big-1 and big-0 have the ports between their nodes from 18700 and from 18700"
    ):
        triton_services([node(0), other], SETTINGS)
    found = served([node(0), {**other, "gang_port": 18800}], SETTINGS)
    ports = [listen["port"] for replica in found for listen in listens(replica)]
    assert len(ports) == len(set(ports))


def test_nodes_that_are_not_alike_are_named_with_both_values() -> None:
    own = gangs([node(1)], SETTINGS)
    leader = gangs([node(0)], SETTINGS)
    assert gang.gang_problem("big-0", own["big-0"], {"g1": leader, "g2": own}) == ""
    other = gangs([node(1)], {**SETTINGS, "image": "registry/triton@sha256:" + "b" * 64})
    for mine in (own, leader, other):
        assert gang.gang_problem("big-0", mine["big-0"], {"g1": leader, "g2": other}) == (
            f"big-0: image is {SETTINGS['image']} on g1 and registry/triton@sha256:{'b' * 64} on g2, but both are "
            "nodes of one replica; make them the same. Nothing of the replica was changed."
        )


@pytest.mark.parametrize("there", [None, {}])
def test_a_node_that_is_lost_or_was_not_asked_is_a_reason_to_start_none(there: Any) -> None:
    leader = gangs([node(0)], SETTINGS)
    sentence = gang.gang_problem("big-0", leader["big-0"], {"g1": leader, "g2": there})
    assert sentence.startswith("big-0: its node g2 is lost, or is not in this run")


def test_what_is_not_known_yet_is_no_difference() -> None:
    leader, worker = (
        gangs([node(number, engine_dirs=dirs)], SETTINGS) for number, dirs in ((0, [ENGINE]), (1, [None]))
    )
    assert gang.gang_problem("big-0", leader["big-0"], {"g1": leader, "g2": worker}) == ""


def test_a_secret_is_made_once_and_handed_on(tmp_path: Path) -> None:
    leader, worker = tmp_path / "leader" / "gang", tmp_path / "worker" / "gang"
    assert gang.keep_secret(leader, None, check=True) == (True, "") and not leader.exists()
    changed, secret = gang.keep_secret(leader, None)
    assert changed and len(secret) == 64
    assert gang.keep_secret(leader, None, check=True) == gang.keep_secret(leader, None) == (False, secret)
    assert gang.keep_secret(worker, "", check=True) == (True, "")
    with pytest.raises(FleetError, match="is empty; the leader has to make one first"):
        gang.keep_secret(worker, "")
    assert gang.keep_secret(worker, secret, check=True) == (True, secret) and not worker.exists()
    assert gang.keep_secret(worker, secret) == (True, secret)
    assert gang.keep_secret(worker, secret) == (False, secret)
    for directory in (leader, worker):
        assert (directory / "secret").read_text() == f"{secret}\n"
        assert [stat.S_IMODE(path.stat().st_mode) for path in (directory, directory / "secret")] == [0o700, 0o600]
