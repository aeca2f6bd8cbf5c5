# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of rollouts, each asked four ways: in check mode, for real, in check mode again, and again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.action.rollout_lock import identity, runs
from ansible_collections.trtllm.fleet.plugins.action.rollout_note import add_line
from unit import modules


def four_ways(module: str, options: dict[str, Any]) -> list[bool]:
    """What changed in check mode, for real, in check mode again, and again."""
    results = [modules.call(module, options, check=check) for check in (True, False, True, False)]
    assert not any(result.get("failed") for result in results), results
    return [bool(result["changed"]) for result in results]


def test_a_lock_is_taken_once_and_given_back_once(tmp_path: Path) -> None:
    lock = {"root": str(tmp_path), "id": "r1", "owner": "alice@ctl"}
    assert four_ways("rollout_lock", lock) == [True, True, False, False]
    assert four_ways("rollout_lock", {**lock, "state": "absent"}) == [True, True, False, False]


def test_another_rollout_is_refused_with_the_name_of_the_holder(tmp_path: Path) -> None:
    modules.call("rollout_lock", {"root": str(tmp_path), "id": "r1", "owner": "alice@ctl"})
    for check in (True, False):
        refused = modules.call("rollout_lock", {"root": str(tmp_path), "id": "r2", "owner": "bob@ctl"}, check=check)
        assert refused["msg"].startswith("the rollout r1 of alice@ctl works on this host since ")
        assert refused["holder"]["id"] == "r1"
    assert (
        modules.call("rollout_lock", {"root": str(tmp_path), "id": "r2", "take_over": ["r1"]})["holder"]["id"] == "r2"
    )


def test_a_note_is_written_for_real_only_and_told_by_the_info_module(tmp_path: Path) -> None:
    note = {
        "root": str(tmp_path),
        "rollout": "r1",
        "step": "switching",
        "services": ["a"],
        "details": {"from": {"a": "1"}},
    }
    assert four_ways("rollout_note", note) == [False] * 4
    told = modules.call("rollout_info", {"root": str(tmp_path), "rollout": "r1"})
    assert [line["step"] for line in told["lines"]] == ["switching", "switching"]
    assert told["unsettled"] == {"a": "1"}
    assert told["point"] == {}
    assert modules.call("rollout_info", {"root": str(tmp_path), "limit": 1})["lines"] == told["lines"][-1:]


def test_a_rollout_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path) -> None:
    modules.call("rollout_note", {"root": str(tmp_path), "rollout": "r1", "step": "passed"})
    assert "there are r1." in modules.call("rollout_info", {"root": str(tmp_path), "rollout": "r2"})["msg"]


def test_a_process_that_ended_is_told_from_one_that_runs() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    one = identity(child.pid)
    assert runs(one)
    child.communicate()
    assert not runs(one)
    assert runs(identity(os.getpid()))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only /proc tells when a process began")
def test_another_process_of_the_same_number_is_another() -> None:
    assert not runs(f"{os.getpid()}:1")


def test_a_process_that_nobody_named_is_taken_to_run() -> None:
    assert runs("")


def test_lines_of_the_controller_are_added_at_the_end(tmp_path: Path) -> None:
    for number in range(2):
        add_line(tmp_path / "of" / "the" / "controller.jsonl", {"host": "a", "step": str(number)})
    assert (
        tmp_path / "of/the/controller.jsonl"
    ).read_text() == '{"host": "a", "step": "0"}\n{"host": "a", "step": "1"}\n'
