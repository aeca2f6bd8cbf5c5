# SPDX-License-Identifier: GPL-3.0-or-later
"""The rollout says per host what changes, why, whether it is a restart, and in which batch."""

from __future__ import annotations

from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.plan import (
    Host,
    drains_left,
    host_from,
    plan,
    rolled_back,
)


def host(name: str, unsettled: list[str] | None = None, reasons: list[str] | None = None, **replicas: Any) -> Host:
    results = {
        replica: {
            "service": f"triton-{replica}", "model": "llama", "http_url": f"http://{name}:8000",
            "active": "active", "action": action, "reason": "another image" if action != "none" else "", **extra,
        }
        for replica, (action, extra) in replicas.items()
    }  # fmt: skip
    return host_from(name, results, unsettled or [], reasons or [])


RESTARTED = ("restarted", {})
SAME = ("none", {})
STARTED = ("started", {"active": "inactive"})


def test_only_what_serves_and_changes_is_switched() -> None:
    found = plan([host("a", llama=RESTARTED), host("b", llama=SAME), host("c", llama=STARTED)], [1], None)
    assert dict(found.kinds) == {"a": "switched", "b": "unchanged", "c": "started"}
    assert found.batches == [["a"]]
    assert found.interrupted == []
    assert (found.of_kind("started"), found.of_kind("switched"), found.sizes()) == (["c"], ["a"], [1])


def test_who_only_builds_does_so_before_anything_is_switched() -> None:
    builder = host_from("z", {}, [], ["engine: max_batch_size 8 -> 16"], builds=True)
    found = plan([host("a", llama=RESTARTED), builder, host_from("y", {}, [], [])], [1], None)
    assert (found.of_kind("started"), found.of_kind("switched"), found.kinds["y"]) == (["z"], ["a"], "unchanged")
    assert list(found.table)[1:3] == [
        "-      z              build    for other hosts",
        "                               engine: max_batch_size 8 -> 16",
    ]


def test_what_is_not_described_any_more_is_removed_last_where_nothing_else_changes() -> None:
    def removing(name: str, action: str) -> Host:
        same = {"service": "triton-a", "model": "a", "http_url": "http://h", "active": "active", "action": action}
        services = {"triton-a": {"action": action}, "triton-b-0": {"action": "removed"}}
        return host_from(name, {"a": same}, [], [], False, services)

    found = plan([removing("x", "none"), removing("y", "restarted"), host("z", llama=SAME)], [1], None)
    assert (found.stale(), found.of_kind("switched")) == (["x"], ["y"]), "y removes it when it is switched"
    assert list(found.table) == [
        "batch  host  replica  what     why",
        "-      x     b-0      remove   it is not described",
        "1      y     a        restart",
        "1      y     b-0      remove   it is not described",
        "1 of 3 hosts do not change.",
    ]


def test_the_table_names_batch_host_replica_action_and_reason() -> None:
    hosts = [
        host("gpu-01", llama=RESTARTED),
        host("gpu-02", reasons=["engine: max_batch_size 8 -> 16"], llama=RESTARTED),
    ]
    assert list(plan(hosts, [1], None).table) == [
        "batch  host    replica  what     why",
        "1      gpu-01  llama    restart  another image",
        "2      gpu-02  llama    restart  another image",
        "                                 engine: max_batch_size 8 -> 16",
    ]


def test_a_fleet_that_does_not_change_is_one_line() -> None:
    found = plan([host("a", llama=SAME), host("b", llama=SAME)], None, None)
    assert list(found.table) == ["2 of 2 hosts do not change."]
    assert found.sizes() == [1]


def test_what_a_dead_controller_left_without_its_gate_is_looked_at_again() -> None:
    found = plan([host("a", unsettled=["triton-llama"], llama=SAME), host("b", llama=SAME)], None, None)
    assert found.kinds["a"] == "switched"
    assert "an earlier rollout ended before its gate" in found.table[1]


def test_what_may_still_be_drained_comes_first_and_bears_the_requests_of_the_others() -> None:
    hosts = [host("a", llama=RESTARTED), host("b", unsettled=["triton-llama"], llama=RESTARTED)]
    assert plan(hosts, [1], None).batches == [["b"], ["a"]]


def test_what_a_dead_controller_left_stopped_passes_the_gate_too_before_it_serves() -> None:
    stopped = ("started", {"active": "inactive"})
    found = plan([host("a", unsettled=["triton-llama"], llama=stopped), host("b", llama=SAME)], None, 1)
    assert found.kinds["a"] == "switched"
    assert found.batches == [["a"]]


def test_a_replica_that_does_not_serve_counts_for_nothing() -> None:
    dead = ("restarted", {"active": "failed"})
    found = plan([host("a", llama=RESTARTED), host("b", llama=dead)], None, None)
    assert found.kinds["b"] == "started"
    assert found.interrupted == ["llama"]
    assert found.table[-1] == "llama: nothing serves it while its host is switched."


def test_only_replicas_of_hosts_of_this_rollout_that_wait_for_no_gate_are_left_over() -> None:
    replicas = [{"name": "a-0", "url": "http://h1:8000"}, {"name": "a-1", "url": "http://h1:8010"}]
    hosts = {
        "h1": {"gateways": ["g1", "g2"], "replicas": replicas},
        "h2": {"gateways": ["g1"], "replicas": [{"name": "a-0", "url": "http://h2:8000"}]},
    }
    settled: dict[str, list[str]] = {"h1": [], "h2": [], "g1": []}
    assert drains_left(hosts, settled, "g1") == ["http://h1:8000", "http://h1:8010", "http://h2:8000"]
    assert drains_left(hosts, settled, "g2") == ["http://h1:8000", "http://h1:8010"]
    assert drains_left(hosts, {"h1": ["triton-a-0"]}, "g1") == ["http://h1:8010"]
    assert drains_left({}, settled, "g1") == []


def nodes(names: list[str], action: Any = RESTARTED) -> list[Host]:
    """One replica on several hosts, the first of which leads."""
    each = {
        name: (action[0], {**action[1], "nodes": names, **({} if name == names[0] else {"http_url": ""})})
        for name in names
    }
    return [host(name, big=values) for name, values in each.items()]


def test_nodes_of_a_replica_are_changed_in_one_batch_the_leader_last() -> None:
    hosts = [host("a", llama=RESTARTED), *nodes(["b", "c", "d"]), *nodes(["e", "f"])]
    found = plan(hosts, [1], None)
    assert found.batches == [["a"], ["c", "d", "b"], ["f", "e"]]
    assert found.switched["b"] == {"llama": 1} and found.switched["c"] == {}, "one replica, whatever its nodes"
    assert plan(hosts, [4], None).batches == [["a", "c", "d", "b"], ["f", "e"]]
    assert found.interrupted == []


def test_what_happens_to_one_node_happens_in_the_play_of_all() -> None:
    leader, worker = nodes(["b", "c"])
    same = nodes(["b", "c"], SAME)
    assert dict(plan([leader, same[1]], [1], None).kinds) == {"b": "switched", "c": "switched"}
    assert dict(plan([same[0], worker], [1], None).kinds) == {"b": "switched", "c": "switched"}
    assert dict(plan(same, [1], None).kinds) == {"b": "unchanged", "c": "unchanged"}
    started = nodes(["b", "c"], STARTED)
    assert dict(plan([same[0], started[1]], [1], None).kinds) == {"b": "started", "c": "started"}


def test_nodes_go_back_in_one_batch_and_others_as_they_are_asked_to() -> None:
    def has(*replicas: list[str], workers: tuple[list[str], ...] = ()) -> dict[str, Any]:
        made = [[{"replica": "r", "service": "triton-r", "nodes": one} for one in some] for some in (replicas, workers)]
        return {"replicas": made[0], "workers": made[1]}

    both = ["b", "c"]
    found = rolled_back({"a": has([]), "b": has(both), "c": has(workers=(both,)), "d": has([])}, 1)
    assert (found["hosts"], found["sizes"]) == (["a", "c", "b", "d"], [1, 2, 1])
    assert found["together"] == {"a": ["a"], "b": ["c", "b"], "c": ["c", "b"], "d": ["d"]}
    assert rolled_back({}, "50%") == {"hosts": [], "sizes": [1], "together": {}}
