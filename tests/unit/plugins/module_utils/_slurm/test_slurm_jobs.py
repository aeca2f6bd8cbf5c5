# SPDX-License-Identifier: GPL-3.0-or-later
"""What Slurm says of jobs, and what is done about it."""

from __future__ import annotations

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm.cluster import (
    ENDED,
    Job,
    Node,
    comment,
    parse_address,
    parse_jobs,
    parse_nodes,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm.jobs import decide, free_slot

OURS = comment("abc", 1, True)


def test_jobs_are_read_with_what_we_wrote_into_them() -> None:
    text = f"12|RUNNING|None|n[1-2]|n1|{OURS}\n11|PENDING|Resources||n/a|{comment('def', 0)}\n"
    assert parse_jobs(text) == [
        Job(11, "PENDING", "Resources", "", "", "def", 0, False),
        Job(12, "RUNNING", "None", "n[1-2]", "n1", "abc", 1, True),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "12|RUNNING|None|n1|n1|(null)",
        "12|RUNNING|None|n1|n1|trtllm.fleets slot=1",
        "12_3|RUNNING|None|n1|n1|x",
        "x",
    ],
)
def test_what_is_not_ours_is_left_out(line: str) -> None:
    assert parse_jobs(line) == []


def test_a_comment_of_others_cannot_break_a_line() -> None:
    (job,) = parse_jobs("12|RUNNING|None|n1|n1|trtllm.fleet fingerprint=a|b slot=x verified\n")
    assert (job.fingerprint, job.slot, job.verified) == ("a|b", 0, True)


def test_nodes_are_read_without_slurms_marks() -> None:
    text = "n1|draining@|new memory | fans\nn2|mixed*|none\nn2|mixed*|none\nn3|drained~|(null)\n"
    assert parse_nodes(text) == {
        "n1": Node("draining", "new memory | fans"), "n2": Node("mixed", silent=True), "n3": Node("drained")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "address"),
    [("n1: 10.0.0.1:6818\n", "10.0.0.1"), ("n1: [fd00::1]:6818\n", "fd00::1"), ("", ""), ("error", "")],
)
def test_an_address_is_read(text: str, address: str) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("state", ENDED)
def test_each_end_has_its_words(state: str) -> None:
    assert Job(1, state).sentence() == ENDED[state]
    assert not Job(1, state).live


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (Job(1, "RUNNING", nodes="n[1-2]"), "runs on n[1-2]"),
        (Job(1, "PENDING", "Resources"), "waits in the queue (Resources: no nodes are free for it)"),
        (Job(1, "PENDING", "ReqNodeNotAvail, UnavailableNodes:n1"), "waits in the queue (ReqNodeNotAvail, Unavailable"),
        (Job(1, "PENDING", "QOSMaxGRESPerUser"), "waits in the queue (QOSMaxGRESPerUser)"),
        (Job(1, "PENDING", "JobHeldUser"), "is held in the queue (JobHeldUser); release it with scontrol release 1"),
        (Job(1, "COMPLETING", nodes="n1"), "is ending on n1"),
    ],
)
def test_how_a_job_stands_is_said(job: Job, words: str) -> None:
    assert job.sentence().startswith(words)


RUNS = Job(5, "RUNNING", nodes="n1", host="n1", fingerprint="new", verified=True)
OLD = Job(4, "RUNNING", nodes="n2", host="n2", fingerprint="old", verified=True)
QUEUED = Job(6, "PENDING", "Priority", fingerprint="new", slot=1)


def test_a_job_that_runs_the_same_is_left_alone() -> None:
    found = decide("j", "new", [RUNS], {})
    assert (found.action, found.job, found.others) == ("none", RUNS, ())


def test_so_is_one_that_was_queued_again() -> None:
    assert decide("j", "new", [QUEUED], {}).job == QUEUED


def test_what_serves_is_kept_before_what_only_runs_or_waits() -> None:
    found = decide("j", "new", [QUEUED, RUNS], {})
    assert (found.job, found.others) == (RUNS, (QUEUED,))


def test_another_one_is_replaced() -> None:
    found = decide("j", "new", [OLD], {})
    assert (found.action, found.others) == ("replace", (OLD,))
    assert found.reason == "job 4 of j runs something else than what is described."


def test_the_successor_of_an_earlier_run_is_found_again() -> None:
    found = decide("j", "new", [OLD, QUEUED], {})
    assert (found.action, found.job, found.others) == ("none", QUEUED, (OLD,))


def test_one_on_a_drained_node_is_replaced() -> None:
    found = decide("j", "new", [RUNS], {5: {"n1": "new memory"}})
    assert (found.action, found.others) == ("replace", (RUNS,))
    assert found.reason == "job 5 of j runs on nodes that are drained: n1 (new memory)."


@pytest.mark.parametrize(
    ("jobs", "last", "reason"),
    [
        ([], None, "there is no job of j yet."),
        ([], 9, "Slurm knows nothing of job 9 of j any more."),
        ([Job(9, "NODE_FAIL", fingerprint="new")], 9, "job 9 of j lost a node."),
        ([Job(9, "CANCELLED", fingerprint="new")], 9, "job 9 of j was cancelled."),
    ],
)
def test_why_a_job_is_submitted_is_said(jobs: list[Job], last: int | None, reason: str) -> None:
    found = decide("j", "new", jobs, {}, last)
    assert (found.action, found.reason) == ("submit", reason)


def test_a_slot_is_free_when_no_job_may_still_be_on_a_node() -> None:
    assert free_slot([], 2) == 0
    assert free_slot([OLD], 2) == 1
    assert free_slot([QUEUED, Job(1, "COMPLETED")], 2) == 0
    assert free_slot([OLD, Job(7, "COMPLETING", slot=1)], 2) is None
