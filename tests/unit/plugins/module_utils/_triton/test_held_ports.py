# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports once given to a replica stay with it, whatever happens to its neighbours in the list."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._plan import plan, plan_table
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._service import quadlet
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import replica as triton_replica
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.held import PREFIX, held_gpus
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.ports import held_ports
from unit.fleet_fakes import description, model
from unit.plugins.module_utils._triton.test_replica import SETTINGS

Ports = dict[str, dict[str, int]]
KINDS = ("http_port", "grpc_port", "metrics_port")


def planned(*models: dict[str, Any], held: Ports | None = None, **more: Any) -> dict[str, Any]:
    return plan(description(*models, held_ports=held or {}, **more))


def ports(fleet: dict[str, Any]) -> Ports:
    return {found["name"]: {kind: found[kind] for kind in KINDS} for found in fleet["replicas"]}


def first(fleet: dict[str, Any]) -> dict[str, int]:
    return {name: found["http_port"] for name, found in ports(fleet).items()}


def urls(fleet: dict[str, Any]) -> dict[str, list[str]]:
    return {entry["name"]: entry["urls"] for entry in fleet["gateway_models"]}


def test_a_model_put_between_others_moves_none_of_them() -> None:
    before = planned(model("a"), model("c"))
    after = planned(model("a"), model("b"), model("c"), held=ports(before))
    assert first(after) == {"a-0": 8000, "b-0": 8020, "c-0": 8010}
    assert {name: urls(after)[name] for name in ("a", "c")} == urls(before)


def test_a_model_that_leaves_moves_none_of_the_others() -> None:
    before = planned(model("a"), model("b"), model("c"))
    after = planned(model("a"), model("c"), held=ports(before))
    assert first(after) == {"a-0": 8000, "c-0": 8020}
    assert urls(after)["c"] == urls(before)["c"]


def test_a_new_replica_gets_no_port_of_one_that_is_still_on_the_host() -> None:
    gone = ports(planned(model("gone")))
    assert first(planned(model("a"), held=gone)) == {"a-0": 8010}


def test_given_ports_win_over_held_ones_and_the_others_follow() -> None:
    before = ports(planned(model("a"), model("b")))
    moved = planned(model("a", replicas=[{"http_port": 9000}]), model("b"), held=before)
    assert ports(moved)["a-0"] == {"http_port": 9000, "grpc_port": 9001, "metrics_port": 9002}
    assert ports(moved)["b-0"] == before["b-0"]
    one = planned(model("a", replicas=[{"grpc_port": 9001}]), model("b"), held=before)
    assert ports(one)["a-0"] == {"http_port": 8000, "grpc_port": 9001, "metrics_port": 8002}
    own = planned(model("a", replicas=[{"grpc_port": 8000}]), held=before)
    assert ports(own)["a-0"] == {"http_port": 8020, "grpc_port": 8000, "metrics_port": 8022}


def test_two_replicas_may_change_places() -> None:
    before = ports(planned(model("a"), model("b")))
    models = model("a", replicas=[before["b-0"]]), model("b", replicas=[before["a-0"]])
    assert first(planned(*models, held=before)) == {"a-0": 8010, "b-0": 8000}


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_a_given_port_that_another_holds_is_refused_with_both_names(order: tuple[str, ...]) -> None:
    models = {"a": model("a"), "b": model("b", replicas=[{"http_port": 8001}])}
    with pytest.raises(FleetError) as error:
        planned(*(models[name] for name in order), held=ports(planned(model("a"))))
    assert str(error.value) == (
        "Port 8001 is given to b-0.http_port, but a-0 has it on this host, as its grpc_port; "
        "give b-0 another port, or a-0 one of its own."
    )


def test_of_two_units_with_the_same_ports_the_first_keeps_them() -> None:
    same = ports(planned(model("a")))["a-0"]
    assert first(planned(model("a"), model("b"), held={"a-0": same, "b-0": same})) == {"a-0": 8000, "b-0": 8010}


@pytest.mark.parametrize("podman", ["5.4.0", "4.3.0"])
@pytest.mark.parametrize("release", ["0.7.1", LAST])
def test_the_unit_on_the_host_tells_the_ports(podman: str, release: str) -> None:
    settings = {**SETTINGS, "release": release}
    described = plan(description(model("a", {"tp_size": 2}, replicas=[{"http_port": 9000, "metrics_port": 8002}])))
    replicas = [{**replica, "repository_dir": "/r"} for replica in described["replicas"]]
    (service,) = triton_replica.triton_services(replicas, settings)
    text = quadlet.render(service["name"], service["unit"], podman).text
    held = held_ports({service["name"]: text, "triton-other": "[Container]\nExec=sleep 1\n"}, PREFIX)
    assert held == {"a-0": {"http_port": 9000, "grpc_port": 9001, "metrics_port": 8002}}
    assert held_gpus({service["name"]: text}) == {"a-0": ["0", "1"]}


def gpus(fleet: dict[str, Any]) -> dict[str, list[Any]]:
    return {found["name"]: found["gpus"] for found in fleet["replicas"]}


def test_gpus_that_are_not_given_stay_too() -> None:
    held = {"a-0": ["0"], "c-0": ["1"]}
    assert gpus(planned(model("a"), model("b"), model("c"), held_gpus=held)) == {"a-0": [0], "b-0": [2], "c-0": [1]}


@pytest.mark.parametrize(
    ("held", "chosen"),
    [
        (["0"], [1, 2]),  # the engine has more ranks now
        (["0", "3"], [1, 2]),  # one is given to another replica
        (["GPU-1f", "GPU-2f"], [1, 2]),  # given by name before, and not any more
        (["4", "5"], [4, 5]),
    ],
)
def test_gpus_stay_only_where_they_still_fit(held: list[str], chosen: list[int]) -> None:
    models = model("a", {"tp_size": 2}), model("b", replicas=[{"gpus": [0]}])
    held_gpus = {"a-0": held, "b-0": ["7"]}
    assert gpus(planned(*models, held_gpus=held_gpus)) == {"a-0": chosen, "b-0": [0]}


def test_the_ports_of_each_replica_can_be_seen() -> None:
    lines = plan_table({"h1": planned(model("a", {"tp_size": 2})), "h2": planned(model("a", replicas=[{"gpus": []}]))})
    assert [line.split() for line in lines[1:]] == [
        ["h1", "a-0", "0,1", "8000", "8001", "8002"],
        ["h2", "a-0", "-", "8000", "8001", "8002"],
    ]
