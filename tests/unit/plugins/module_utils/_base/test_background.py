# SPDX-License-Identifier: GPL-3.0-or-later
"""What prepares has less than what serves, in each of the ways in which it runs."""

from __future__ import annotations

import os

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import transfer_unit
from ansible_collections.trtllm.fleet.plugins.module_utils._base import background, transient
from ansible_collections.trtllm.fleet.plugins.module_utils._engine import job, runner


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def test_a_process_gives_way_and_comes_back() -> None:
    before = niceness()
    with background.giving_way():
        assert niceness() == max(before, background.NICENESS)
        with background.giving_way():
            assert niceness() == max(before, background.NICENESS)
    assert niceness() == (before if os.geteuid() == 0 else max(before, background.NICENESS))


def test_transfers_and_builds_have_the_same_share() -> None:
    assert set(background.CONTAINER) <= set(job.CONTAINER_OPTIONS)
    assert background.CONTAINER == ("--cpu-shares=204",)
    assert runner.NICENESS == background.NICENESS, "the runner is copied alone into its container"


def test_every_transient_unit_has_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(transient, "run_command", asked.extend)
    transient.start("u.service", "what it is", transfer_unit.PROPERTIES, ["/bin/true"])
    given = {*background.UNIT.items(), *transfer_unit.PROPERTIES.items()}
    assert {f"--property={key}={value}" for key, value in given} <= set(asked)
    assert asked[0] == "systemd-run" and asked[-2:] == ["--", "/bin/true"]
