# SPDX-License-Identifier: GPL-3.0-or-later
"""One build for each class of hosts, and for everybody else an order in which to receive it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.filter.checkpoints import FilterModule
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.election import (
    CHECKPOINTS,
    checkpoint_offer,
    elect,
    having,
    offer,
)

A, B = "a" * 64, "b" * 64


def host(number: int, there: bool = False, serves: bool = False, **engines: str) -> dict[str, Any]:
    """A host that needs the engines NAME=FINGERPRINT."""
    reasons = [] if there else ["no engine of this name is published yet"]
    results = [
        {"item": {"name": name}, "fingerprint": fingerprint, "reasons": reasons}
        for name, fingerprint in engines.items()
    ]
    return offer(results, f"10.0.0.{number}", 18800, "/var/lib/trtllm", serves)


def builders(found: dict[str, Any]) -> dict[str, list[str]]:
    return {name: share["builds"] for name, share in found["hosts"].items() if share["builds"]}


def sources(found: dict[str, Any]) -> dict[str, list[str]]:
    return {name: item["sources"] for name, share in found["hosts"].items() for item in share["receives"]}


def test_the_first_builds_and_the_others_receive_in_a_chain() -> None:
    offers = {f"h{number}": host(number, m=A) for number in range(1, 5)}
    found = elect(offers, list(offers))
    assert builders(found) == {"h1": ["m"]}
    assert sources(found) == {
        "h2": ["http://10.0.0.1:18800"],
        "h3": ["http://10.0.0.2:18800", "http://10.0.0.1:18800"],
        "h4": ["http://10.0.0.3:18800", "http://10.0.0.1:18800"],
    }
    (received,) = found["hosts"]["h3"]["receives"]
    assert received == {
        "name": "m", "fingerprint": A, "builder": "h1", "first": "h2", "ranks": [], "sent": {},
        "source": {"address": "10.0.0.1", "port": 18800, "root": "/var/lib/trtllm"},
        "sources": ["http://10.0.0.2:18800", "http://10.0.0.1:18800"],
        "address": "10.0.0.3", "port": 18800, "root": "/var/lib/trtllm",
    }  # fmt: skip
    assert found["receivers"] == ["h2", "h3", "h4"]
    assert found["table"] == ["engine m (aaaaaaaaaaaa): h1 builds it, for h2, h3, h4"]


@pytest.mark.parametrize(
    ("offers", "preferred", "builder"),
    [
        ({"h1": host(1, m=A), "h2": host(2, there=True, serves=True, m=A), "h3": host(3, m=A)}, ["h3"], "h2"),
        ({"h1": host(1, m=A), "h2": host(2, m=A), "h3": host(3, serves=True, m=A)}, ["h3"], "h3"),
        ({"h1": host(1, serves=True, m=A), "h2": host(2, m=A), "h3": host(3, m=A)}, [], "h2"),
        ({"h1": host(1, serves=True, m=A), "h2": host(2, serves=True, m=A)}, [], "h1"),
        ({"h1": host(1, m=A), "h2": host(2, m=A)}, ["elsewhere"], "h1"),
    ],
    ids=["has it", "builder", "does not serve", "all serve", "builder that needs another"],
)
def test_who_builds(offers: dict[str, Any], preferred: list[str], builder: str) -> None:
    found = elect(offers, list(offers), preferred)
    assert {item["builder"] for share in found["hosts"].values() for item in share["receives"]} == {builder}
    has_it = offers[builder]["engines"]["m"]["there"]
    assert builders(found) == ({} if has_it else {builder: ["m"]})
    assert found["receivers"] == sorted(set(offers) - {builder})


def test_a_host_of_another_class_builds_its_own() -> None:
    found = elect({"h1": host(1, m=A), "h2": host(2, m=B), "h3": host(3, m=A)}, ["h1", "h2", "h3"])
    assert found["hosts"]["h2"] == {"builds": [], "receives": []}
    assert sources(found) == {"h3": ["http://10.0.0.1:18800"]}


def test_several_engines_are_built_by_several_hosts() -> None:
    offers = {f"h{number}": host(number, m=A, n=B) for number in (1, 2)}
    found = elect(offers, ["h1", "h2"])
    assert builders(found) == {"h1": ["m"], "h2": ["n"]}
    assert sources(found) == {"h2": ["http://10.0.0.1:18800"], "h1": ["http://10.0.0.2:18801"]}


def test_where_all_have_it_or_one_alone_needs_it_nothing_is_done() -> None:
    nothing = {"builds": [], "receives": []}
    everybody = {name: host(number, there=True, m=A) for number, name in enumerate(("h1", "h2"))}
    found = elect(everybody, ["h1", "h2"])
    assert found == {"hosts": {"h1": nothing, "h2": nothing}, "receivers": [], "table": []}
    assert elect({"h1": host(1, m=A)}, ["h1"])["receivers"] == []
    assert elect({}, []) == {"hosts": {}, "receivers": [], "table": []}


def test_a_host_beyond_the_batch_hands_out_what_it_has_and_is_asked_for_nothing_else() -> None:
    offers = {"canary": host(1, there=True, m=A), "h2": host(2, m=A), "later": host(3, m=A)}
    found = elect(offers, ["h2"])
    assert list(found["hosts"]) == ["h2"]
    assert sources(found) == {"h2": ["http://10.0.0.1:18800"]}
    assert found["hosts"]["h2"]["receives"][0]["first"] == "h2", "who tells the canary to begin"


@pytest.mark.parametrize(
    "result",
    [
        {"fingerprint": A, "provisional": True, "reasons": ["the image is not on this host yet"]},
        {"fingerprint": A, "item": {"name": "m", "rebuild": "always"}, "reasons": ["rebuild is always"]},
        {"msg": "failed", "failed": True},
    ],
)
def test_what_is_not_known_or_built_in_any_case_is_shared_with_nobody(result: dict[str, Any]) -> None:
    offered = offer([{"item": {"name": "m"}, **result}], "10.0.0.1", 1, "/srv")
    assert not offered["engines"]["m"]["shared"]
    assert elect({"h1": offered, "h2": offered}, ["h1", "h2"])["receivers"] == []


def node(number: int, *ranks: int, there: bool = False, whole: bool = True) -> dict[str, Any]:
    """A node of a replica on several hosts, that has the files of its ranks, or all of them."""
    result = {"item": {"name": "m", "ranks": list(ranks)}, "fingerprint": A, "whole": whole}
    return offer([{**result, "reasons": [] if there else ["no engine"]}], f"10.0.0.{number}", 18800, "/srv")


def test_nodes_with_the_same_ranks_hand_them_on_to_each_other() -> None:
    offers = {"a0": node(1, 0, 1), "a1": node(2, 2, 3), "b0": node(3, 0, 1), "b1": node(4, 2, 3)}
    found = elect(offers, list(offers))
    assert builders(found) == {"a0": ["m"]}
    assert sources(found) == {
        "a1": ["http://10.0.0.1:18800"],
        "b0": ["http://10.0.0.1:18800"],
        "b1": ["http://10.0.0.2:18800", "http://10.0.0.1:18800"],
    }
    assert [item["ranks"] for host in ("a1", "b0", "b1") for item in found["hosts"][host]["receives"]] == [
        [2, 3], [0, 1], [2, 3],
    ]  # fmt: skip


def test_a_node_that_has_its_ranks_alone_builds_nothing_and_hands_on_nothing() -> None:
    offers = {"a0": node(1, 0), "a1": node(2, 1, there=True, whole=False)}
    assert elect(offers, list(offers))["table"] == [], "the first makes it for itself"
    offers["b0"] = node(3, 0)
    assert builders(elect(offers, list(offers))) == {"a0": ["m"]}
    offers["c0"] = node(4, 0, there=True)
    found = elect(offers, list(offers))
    assert builders(found) == {} and found["table"] == ["engine m (aaaaaaaaaaaa): c0 has it, for a0, b0"]


@pytest.mark.parametrize(("whole", "expected"), [(True, True), (False, False)])
def test_what_was_received_is_a_part_and_what_was_built_is_whole(whole: bool, expected: bool) -> None:
    about = having(node(1, 0), ["m"], whole=whole)["engines"]["m"]
    assert (about["there"], about["whole"]) == (True, expected)
    assert having(host(1, m=A), ["m"], whole=whole)["engines"]["m"]["whole"]


def test_a_stale_engine_that_shall_stay_is_there() -> None:
    kept = {"item": {"name": "m"}, "fingerprint": A, "reasons": ["dtype: a -> b"], "stale": True}
    assert offer([kept], "10.0.0.1", 1, "/srv")["engines"]["m"]["there"]


def test_what_was_built_is_there() -> None:
    offered = host(1, m=A, n=B)
    assert [about["there"] for about in having(offered, ["m"])["engines"].values()] == [True, False]
    assert not offered["engines"]["m"]["there"]


def test_a_large_fleet_takes_no_time() -> None:
    offers = {f"h{number}": host(number, m=A, n=B) for number in range(2000)}
    begun = time.monotonic()
    found = elect(offers, list(offers))
    assert time.monotonic() - begun < 2
    assert len(found["receivers"]) == 2000, "two builders, each of which receives the other's"
    assert found["table"][0] == "engine m (aaaaaaaaaaaa): h0 builds it, for h1, h2, h3 and 1996 more"


def test_what_the_controller_sends_is_announced_and_what_comes_from_elsewhere_is_not() -> None:
    def host(number: int, **more: str) -> dict[str, Any]:
        wanted = [{"item": {"name": "m", **more}, "asked": A, "reasons": ["config.json: added"], **more}]
        return checkpoint_offer(wanted, f"10.0.0.{number}", 18850, "/var/lib/trtllm")

    def sent(**more: str) -> list[Any]:
        found = elect({f"h{number}": host(number, **more) for number in (1, 2)}, ["h1", "h2"], goods=CHECKPOINTS)
        return [entry["sent"] for entry in found["hosts"]["h2"]["receives"]]

    assert sent(pieces=B) == [{"digest": A, "origin": {}, "pieces": B}]
    assert sent() == [{}]


@pytest.mark.parametrize(
    ("refresh", "there"), [(False, True), ("false", True), ("no", True), (True, False), ("on", False)]
)
def test_a_refresh_may_be_a_word_of_the_command_line(refresh: Any, there: bool) -> None:
    offered = FilterModule().filters()["checkpoint_offer"]
    asked = [{"item": {"name": "m", "source": "huggingface"}, "asked": "a" * 64, "reasons": []}]
    assert offered(asked, "10.0.0.1", 18850, "/r", refresh)["checkpoints"]["m"]["there"] is there
