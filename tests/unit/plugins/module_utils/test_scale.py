# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's work for a fleet grows with the number of its hosts, and not with the square of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.election import elect, offer
from ansible_collections.trtllm.fleet.plugins.module_utils._fleet import fleet_map, fleet_table
from ansible_collections.trtllm.fleet.plugins.module_utils._plan import plan as plan_of
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.plan import host_from, plan
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.summary import summary
from unit.fleet_fakes import description, model

FEW, MANY = 40, 320
GATEWAYS = ("w1", "w2")


def mapped(hosts: int) -> Callable[[], Any]:
    found = {}
    for number in range(hosts):
        address = f"10.0.{number // 250}.{number % 250 + 1}"
        described = description(model("a"), model("b"), trtllm_triton_address=address)
        found[f"g{number:03}"] = {"plan": plan_of(described), "planned": True, "reached_at": address}
    # what the gateways had before, of all hosts
    urls = [url for host in found.values() for url in host["plan"]["gateway_models"][0]["urls"]]
    before = {"models": [{"name": "a", "urls": urls}]}
    gateway = {"fronts": "fleet", "asked": True, "root": "/var/lib/trtllm", "config": before}
    return lambda: fleet_table(fleet_map(found, dict.fromkeys(GATEWAYS, gateway)))


def elected(hosts: int) -> Callable[[], Any]:
    result = {"item": {"name": "a"}, "fingerprint": "a" * 64, "reasons": ["not there"]}
    offers = {f"g{number:03}": offer([result], f"10.0.0.{number}", 18800, "/var/lib/trtllm") for number in range(hosts)}
    return lambda: elect(offers, list(offers))


def rolled(hosts: int) -> Callable[[], Any]:
    names = [f"g{number:03}" for number in range(hosts)]
    replica = {
        "service": "triton-a-0",
        "model": "a",
        "active": "active",
        "action": "restarted",
        "reason": "another image",
    }
    found = [host_from(name, {"a-0": {**replica, "http_url": f"http://{name}:8000"}}, [], []) for name in names]
    passed = {name: {"outcome": "passed", "seconds": 40.0} for name in names}
    return lambda: summary("R", plan(found, None, None).batches, [], passed)


def calls(function: Callable[[], Any]) -> int:
    """How many functions are called, of Python and of C."""
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("work", [mapped, elected, rolled])
def test_eight_times_the_hosts_are_eight_times_the_work(work: Callable[[int], Callable[[], Any]]) -> None:
    assert calls(work(MANY)) < 1.25 * MANY / FEW * calls(work(FEW))
