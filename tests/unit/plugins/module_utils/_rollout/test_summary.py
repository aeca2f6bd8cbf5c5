# SPDX-License-Identifier: GPL-3.0-or-later
"""The last screen of a rollout says what became of each host, and whether something is left to do."""

from __future__ import annotations

from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.summary import gateways, summary

BATCHES = [["gpu-01"], ["gpu-02", "gpu-03"], ["gpu-04"]]


def test_a_rollout_that_went_through_asks_for_nothing() -> None:
    passed = {host: {"outcome": "passed", "seconds": 41.5} for batch in BATCHES for host in batch}
    found = summary("R", BATCHES, ["gpu-05"], {**passed, "gpu-05": {"outcome": "started"}})
    assert found == [
        "batch  host    outcome  seconds  why",
        "-      gpu-05  started",
        "1      gpu-01  passed   41.5",
        "2      gpu-02  passed   41.5",
        "2      gpu-03  passed   41.5",
        "3      gpu-04  passed   41.5",
        "Rollout R: 4 passed, 1 started.",
    ]


def test_a_host_that_only_builds_has_built_for_others() -> None:
    found = summary(
        "R", [["gpu-01"]], ["build-01"], {"gpu-01": {"outcome": "passed"}, "build-01": {"outcome": "built"}}
    )
    assert found[1].split() == ["-", "build-01", "built", "for", "others"]
    assert found[-1] == "Rollout R: 1 passed, 1 built for others."


def test_a_host_that_only_loses_replicas_is_told_of() -> None:
    found = summary("R", [], [], {"gpu-01": {"outcome": "removed"}}, ["gpu-01", "gpu-02"])
    assert found[1:] == [
        "-      gpu-01  rid of replicas",
        "-      gpu-02  not changed yet",
        "Rollout R: 1 rid of replicas, 1 not changed yet. Run it again to go on from here.",
    ]


def test_one_that_ended_early_says_who_failed_and_who_waits() -> None:
    hosts = {
        "gpu-01": {"outcome": "passed", "seconds": 40},
        "gpu-02": {"outcome": "failed", "seconds": 60, "why": "triton-llama did not\ncome up"},
        "gpu-03": {"outcome": "returned"},
        "gpu-04": {"outcome": None},
    }
    found = summary("R", BATCHES, [], hosts)
    assert [line.split("  ")[0] for line in found[1:5]] == ["1", "2", "2", "3"]
    assert found[2].endswith("failed and rolled back      60       triton-llama did not come up")
    assert "rolled back with its batch" in found[3]
    assert found[4].endswith("not changed yet")
    assert found[5] == (
        "Rollout R: 1 passed, 1 failed and rolled back, 1 rolled back with its batch, 1 not changed yet. "
        "Run it again to go on from here."
    )


def test_a_host_that_stopped_answering_is_lost_and_not_waiting() -> None:
    hosts = {"gpu-01": {"outcome": "passed"}, "gpu-02": {"outcome": ""}, "gpu-03": {"outcome": "passed"}}
    found = summary("R", BATCHES, ["gpu-05"], hosts)
    assert [line.split()[1:3] for line in found[1:6]] == [
        ["gpu-05", "lost"], ["gpu-01", "passed"], ["gpu-02", "lost"], ["gpu-03", "passed"], ["gpu-04", "not"],
    ]  # fmt: skip
    assert "2 lost, 1 not changed yet. Run it again" in found[-1]


def test_a_canary_that_is_broken_is_told_apart_from_one_that_went_back() -> None:
    found = summary("R", [["gpu-01"], ["gpu-02"]], [], {"gpu-01": {"outcome": "broken", "why": "no answer"}})
    assert " ".join(found[1].split()) == "1 gpu-01 failed and not rolled back no answer"
    assert found[-1].startswith("Rollout R: 1 failed and not rolled back, 1 not changed yet.")


def test_a_fleet_that_does_not_change_is_one_line() -> None:
    assert summary("R", [], [], {}) == ["Rollout R: no host had to be changed."]


def test_gateways_that_restart_are_told_from_those_that_read_their_configuration_again() -> None:
    found = {
        "gw-01": {"action": "restarted", "reason": "its unit changed: Image"},
        "gw-02": {"action": "none", "reason": "what it reads again itself changed"},
        "gw-03": {"action": "none", "reason": ""},
        "gw-04": {},
    }
    assert gateways(found) == [
        "gateway  outcome     why",
        "gw-01    restarted   its unit changed: Image",
        "gw-02    read again  what it reads again itself changed",
    ]
    assert gateways(found, check=True)[:2] == [
        "gateway  what        why",
        "gw-01    restart     its unit changed: Image",
    ]
    assert gateways({"gw-03": {"action": "none", "reason": ""}}) == []
