# SPDX-License-Identifier: GPL-3.0-or-later
"""Batches keep enough replicas of every model in service, and what cannot be kept is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.batches import (
    Change,
    batches,
    interrupted,
    members,
    size_of,
    slices,
    too_few,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.verdict import BROKEN, FAILED, PASSED, judge
from hypothesis import given
from hypothesis import strategies as st


def hosts(count: int, models: Mapping[str, int] | None = None) -> list[Change]:
    return [Change(f"h{number}", models or {"llama": 1}) for number in range(1, count + 1)]


def test_one_host_first_then_a_quarter_at_a_time() -> None:
    found = batches(hosts(9), {"llama": 9})
    assert [len(batch) for batch in found] == [1, 2, 2, 2, 2]
    assert [host for batch in found for host in batch] == [change.host for change in hosts(9)]


@pytest.mark.parametrize(
    ("serial", "sizes"), [([2], [2, 2, 1]), ([1, 3], [1, 3, 1]), (["100%"], [5]), (["1%"], [1] * 5), ([9], [5])]
)
def test_sizes_are_read_as_ansible_reads_serial(serial: list[Any], sizes: list[int]) -> None:
    assert [len(batch) for batch in batches(hosts(5), {"llama": 9}, serial)] == sizes


def test_a_host_waits_where_its_model_would_have_too_few_left() -> None:
    changes = [Change("a", {"llama": 1}), Change("b", {"llama": 1}), Change("c", {"gpt2": 1}), Change("d", {"gpt2": 1})]
    assert batches(changes, {"llama": 2, "gpt2": 3}, [4]) == [["a", "c", "d"], ["b"]]


def test_a_model_on_one_host_is_switched_and_said_to_be_interrupted() -> None:
    changes = [Change("a", {"llama": 2, "gpt2": 1})]
    assert batches(changes, {"llama": 2, "gpt2": 2}) == [["a"]]
    assert interrupted(changes, {"llama": 2, "gpt2": 2}) == ["llama"]


@pytest.mark.parametrize("minimum", [2, "2"])
def test_what_was_asked_for_is_refused_where_it_cannot_be_kept(minimum: Any) -> None:
    with pytest.raises(FleetError, match=r"llama would have 1 of 2 replicas .* while h1 is switched, .* asks for 2"):
        batches(hosts(2), {"llama": 2}, None, minimum)


@pytest.mark.parametrize("serial", [2, "2", "50%", [2], ["50%"]])
def test_one_size_is_given_with_and_without_a_list(serial: Any) -> None:
    assert [len(batch) for batch in batches(hosts(4), {"llama": 9}, serial)] == [2, 2]


@pytest.mark.parametrize("count", [0, "0%", "101%", "many", True, -1, 1.5, None])
def test_a_size_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(FleetError, match="rollout_serial has"):
        size_of(count, 10, "rollout_serial")


@pytest.mark.parametrize("count", [-1, True, "two", "-1", 1.5, ""])
def test_a_minimum_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(FleetError, match="rollout_min_available is"):
        batches(hosts(2), {"llama": 2}, None, count)


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), min_size=1), min_size=1, max_size=12),
    st.lists(st.one_of(st.integers(1, 6), st.sampled_from(["10%", "50%", "100%"])), min_size=1, max_size=3),
    st.integers(0, 4),
)
def test_every_host_is_in_one_batch_and_the_minimum_holds(
    models: list[dict[str, int]], serial: list[Any], elsewhere: int
) -> None:
    changes = [Change(f"h{number}", switched) for number, switched in enumerate(models)]
    in_service = {name: elsewhere + sum(switched.get(name, 0) for switched in models) for name in "abc"}
    found = batches(changes, in_service, serial)
    assert sorted(host for batch in found for host in batch) == sorted(change.host for change in changes)
    without = interrupted(changes, in_service)
    by_name = {change.host: change.switched for change in changes}
    for batch in found:
        for name in set("abc") - set(without):
            assert in_service[name] - sum(by_name[host].get(name, 0) for host in batch) >= (in_service[name] > 0)


@pytest.mark.parametrize(
    ("serial", "found"), [([1], ["a", "b", "c"]), ([1, "100%"], ["a", "bc"]), ([2], ["ab", "c"]), ([9], ["abc"])]
)
def test_hosts_are_cut_as_ansible_cuts_them(serial: list[Any], found: list[str]) -> None:
    assert slices(list("abc"), serial, "rollout_gateway_serial") == [list(batch) for batch in found]


def test_a_batch_whose_hosts_are_all_lost_has_a_member_left() -> None:
    found = members([["a", "b"], ["c"]], "rollout-switched")
    assert [one["name"] for one in found] == ["a", "b", "rollout-switched-1", "c", "rollout-switched-2"]
    assert [one["name"] for one in found if one["placeholder"]] == ["rollout-switched-1", "rollout-switched-2"]
    assert [one["batch"] for one in found] == [["a", "b"]] * 3 + [["c"]] * 2
    assert [one["name"] for one in members([["a", "b"], ["c"]])] == ["a", "b", "c"]


def test_a_batch_waits_where_lost_hosts_leave_too_few() -> None:
    one = {host: {"llama": 1} for host in "abc"}
    left = {host: {"llama": 1} for host in "bc"}
    assert too_few(["b"], one, left, {"llama": 1}) == ""
    assert too_few(["c"], one, {"c": {"llama": 1}}, {"llama": 1}).startswith(
        "llama would have 0 replicas in service while c is switched, as hosts are lost, and 1 had to stay; "
    )
    # What had no other replica from the beginning is switched all the same.
    assert too_few(["c"], one, {"c": {"llama": 1}}, {"llama": 0}) == ""


class TestVerdict:
    """What becomes of a batch."""

    def test_a_batch_that_passed_goes_on(self) -> None:
        assert judge(["a", "b"], {"a": PASSED, "b": PASSED}, 0, 0).end == ""

    def test_one_failure_takes_its_batch_back_and_ends_the_rollout(self) -> None:
        found = judge(["a", "b", "c"], {"a": FAILED, "b": PASSED, "c": PASSED}, 0, 0)
        assert (found.failed, found.roll_back) == (["a"], ["b", "c"])
        assert found.end.startswith("a failed and is rolled back; b, c of the same batch go back too; 1 failed in all")

    def test_a_host_that_could_not_go_back_is_said_to_be_so(self) -> None:
        found = judge(["a", "b"], {"a": BROKEN, "b": FAILED}, 0, 0)
        assert found.end.startswith("a failed and could not go back; b failed and is rolled back; 2 failed in all")

    def test_failures_are_counted_over_the_whole_rollout(self) -> None:
        outcomes = {"a": FAILED, "b": PASSED}
        assert judge(["a", "b"], outcomes, 0, 1).end == ""
        assert judge(["a", "b"], outcomes, 1, 1).roll_back == ["b"]
        assert judge(["a", "b"], outcomes, 0, "1").end == "", "as -e of the command line gives it"

    def test_a_host_that_went_silent_is_lost_and_not_failed(self) -> None:
        found = judge(["a", "b"], {"b": PASSED}, 0, 0)
        assert (found.lost, found.failed, found.end) == (["a"], [], "")

    @pytest.mark.parametrize("count", [-1, True, "many"])
    def test_a_limit_that_is_none_is_refused(self, count: Any) -> None:
        with pytest.raises(FleetError, match="rollout_max_failed is"):
            judge(["a"], {}, 0, count)


def test_nodes_of_a_replica_go_back_together_whatever_may_fail() -> None:
    together = {"a": ["a"], "b": ["c", "b"], "c": ["c", "b"], "d": ["d"]}
    outcomes = {"a": PASSED, "b": BROKEN, "c": PASSED, "d": PASSED}
    allowed = judge(["a", "c", "b", "d"], outcomes, 0, 1, together)
    assert (allowed.roll_back, allowed.end) == (["c", "b"], "")
    ended = judge(["a", "c", "b", "d"], outcomes, 0, 0, together)
    assert ended.roll_back == ["a", "c", "b", "d"] and ended.end
    assert judge(["a", "c", "b"], {"a": FAILED, "b": PASSED, "c": PASSED}, 0, 1, together).roll_back == []
    assert judge(["c", "b"], {"b": BROKEN}, 0, 1, together).roll_back == ["b"], "one that is lost cannot go back"
