# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do about the jobs of one name, given what should run. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from .cluster import ENDED, Job, drained_words

NONE, SUBMIT, REPLACE = "none", "submit", "replace"


@dataclass(frozen=True)
class Decision:
    """*action*: leave it alone, submit a job, or submit one that takes the place of others. *job*: what is left alone.

    *reason* is a sentence. *others* are the jobs that have to go once the wanted one serves.
    """

    action: str
    reason: str = ""
    job: Optional[Job] = None
    others: tuple[Job, ...] = ()


def decide(
    name: str,
    wanted: str,
    jobs: Sequence[Job],
    drained: Mapping[int, Mapping[str, str]],
    last: Optional[int] = None,
) -> Decision:
    """*wanted*: the fingerprint; *drained*: by job its nodes that take no new jobs; *last*: what was submitted last."""
    live = [job for job in jobs if job.live]
    same = [job for job in live if job.fingerprint == wanted and not drained.get(job.id)]
    if same:
        # A run that died between two steps leaves more than one: what serves already is kept, then what is first.
        kept = min(same, key=lambda job: (not job.verified, not job.running, job.id))
        return Decision(NONE, "", kept, tuple(job for job in live if job is not kept))
    if live:
        return Decision(REPLACE, _why_replaced(name, wanted, live, drained), None, tuple(live))
    return Decision(SUBMIT, _why_none(name, jobs, last))


def _why_replaced(name: str, wanted: str, live: Sequence[Job], drained: Mapping[int, Mapping[str, str]]) -> str:
    for job in live:
        if job.fingerprint == wanted:
            return f"job {job.id} of {name} runs on nodes that are drained: {drained_words(drained[job.id])}."
    return f"job {live[-1].id} of {name} runs something else than what is described."


def _why_none(name: str, jobs: Sequence[Job], last: Optional[int]) -> str:
    ended = [job for job in jobs if job.state in ENDED]
    if ended:
        return f"job {ended[-1].id} of {name} {ended[-1].sentence()}."
    if last is not None:
        return f"Slurm knows nothing of job {last} of {name} any more."
    return f"there is no job of {name} yet."


def free_slot(jobs: Sequence[Job], slots: int) -> Optional[int]:
    """The lowest slot that no job has which may still be on a node; None where all are taken."""
    taken = {job.slot for job in jobs if job.state not in ENDED}
    return next((slot for slot in range(slots) if slot not in taken), None)
