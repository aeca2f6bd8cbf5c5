# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host knows of rollouts survives controllers that die, and two of them do not meet."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.state import RolloutState

ALICE = {"id": "r1", "owner": "alice@ctl-1", "controller": "ctl-1", "process": 10}
BOB = {"id": "r2", "owner": "bob@ctl-2", "controller": "ctl-2", "process": 20}


def test_one_works_and_the_other_is_told_who_does(tmp_path: Path) -> None:
    assert RolloutState(tmp_path, now=1000).acquire(ALICE, 60)
    with pytest.raises(FleetError, match=r"r1 of alice@ctl-1 works on this host since 1970-01-01T00:16:40Z") as refused:
        RolloutState(tmp_path, now=1030).acquire(BOB, 60)
    assert refused.value.details["holder"]["process"] == 10


def test_the_same_rollout_holds_on_and_keeps_its_beginning(tmp_path: Path) -> None:
    RolloutState(tmp_path, now=1000).acquire(ALICE, 60)
    assert not RolloutState(tmp_path, now=1030).acquire(ALICE, 60)
    assert RolloutState(tmp_path, now=1080).holder() == {**ALICE, "since": 1000, "until": 1090}


def test_a_lease_ends_by_itself_and_a_dead_holder_is_taken_over(tmp_path: Path) -> None:
    RolloutState(tmp_path, now=1000).acquire(ALICE, 60)
    assert RolloutState(tmp_path, now=1001).acquire(BOB, 60, take_over=["r1"])
    assert RolloutState(tmp_path, now=1062).acquire(ALICE, 60)


def test_only_the_holder_can_end_its_work(tmp_path: Path) -> None:
    state = RolloutState(tmp_path, now=1000)
    state.acquire(ALICE, 60)
    assert not state.release("r2")
    assert state.release("r1")
    assert not state.release("r1")
    assert state.holder() is None


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    state = RolloutState(tmp_path, now=1000)
    assert state.acquire(ALICE, 60, check=True)
    assert not state.release("r1", check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_lock_is_no_lock(tmp_path: Path) -> None:
    state = RolloutState(tmp_path, now=1000)
    state.acquire(ALICE, 60)
    (tmp_path / "rollouts" / "lock.json").write_text('{"id": "r1", "unt')
    assert state.acquire(BOB, 60)


def test_a_switch_without_an_end_is_unsettled(tmp_path: Path) -> None:
    state = RolloutState(tmp_path, now=0)
    state.note({"step": "switching", "services": ["a", "b"], "from": {"a": "1"}, "rollout": "r1"})
    assert state.unsettled() == {"a": "1", "b": ""}
    state.note({"step": "passed", "services": ["a"], "rollout": "r1"})
    state.note({"step": "drained", "services": ["b"], "rollout": "r1"})
    assert state.unsettled() == {"b": ""}
    state.note({"step": "rolled back", "services": ["b"], "rollout": "r1"})
    assert state.unsettled() == {}
    assert state.lines()[1] == {"time": "1970-01-01T00:00:00Z", "step": "passed", "services": ["a"], "rollout": "r1"}


def test_what_was_good_is_from_before_the_first_of_two_switches(tmp_path: Path) -> None:
    state = RolloutState(tmp_path)
    state.note({"step": "switching", "services": ["a"], "from": {"a": "good"}})
    state.note({"step": "switching", "services": ["a"], "from": {"a": "never seen"}})
    assert state.unsettled() == {"a": "good"}


def test_a_damaged_line_hides_no_other(tmp_path: Path) -> None:
    state = RolloutState(tmp_path)
    state.note({"step": "switching", "services": ["a"]})
    with open(state.journal, "a") as journal:
        journal.write('{"step": "passed", "servi\n[1]\n')
    state.note({"step": "switching", "services": ["b"]})
    assert list(state.unsettled()) == ["a", "b"]


def test_the_end_of_a_rollout_is_a_point_to_come_back_to(tmp_path: Path) -> None:
    state = RolloutState(tmp_path)
    for rollout, before in (("r1", {"a": ""}), ("r2", {"a": "1", "b": ""}), ("r3", {"a": "2"})):
        state.note({"step": "switching", "services": list(before), "from": before, "rollout": rollout})
        state.note({"step": "passed", "services": list(before), "rollout": rollout})
    assert state.point("r1") == {"a": "1", "b": ""}
    assert state.point("r2") == {"a": "2"}
    assert state.point("r3") == {}
    with pytest.raises(FleetError, match="knows no rollout r9; there are r1, r2, r3"):
        state.point("r9")


def test_a_host_goes_back_to_the_end_of_a_rollout_that_changed_nothing_on_it(tmp_path: Path) -> None:
    state = RolloutState(tmp_path)
    for rollout, before in (("20260114T093000Z-9", "0"), ("20260115T080000Z-10", "1"), ("20260115T080000Z-7", "2")):
        state.note({"step": "switching", "services": ["a"], "from": {"a": before}, "rollout": rollout})
    assert state.point("20260114T100000Z-1") == {"a": "1"}
    assert state.point("20260116T000000Z-1") == {}
    assert state.point("20260113T000000Z-1") == {"a": "0"}


def test_lines_written_at_once_are_all_there(tmp_path: Path) -> None:
    writers = [
        threading.Thread(target=lambda name=name: RolloutState(tmp_path).note({"step": "passed", "services": [name]}))
        for name in "abcdefgh"
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(line["services"][0] for line in RolloutState(tmp_path).lines()) == list("abcdefgh")
