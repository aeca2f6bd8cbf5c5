# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Slurm says of jobs and nodes, asked through its commands on a login node.

The formats are those that every Slurm has: ``--json`` needs a plugin that distributions leave out, and sacct needs
accounting. One line is one job, and what others may have written (the comment) stands last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from .._base.command import run_command
from .._base.errors import FleetError
from .._base.labels import NAMESPACE

FORMAT = "%i|%T|%r|%N|%B|%k"
NODE_FORMAT = "%N|%T|%E"
# A job that ended is told of for MinJobAge seconds, 300 by default.
RUNNING = "RUNNING"
# It is ending, or on its way back into the queue; which of them, it does not say.
COMPLETING = "COMPLETING"
WAITING = (
    "PENDING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "SIGNALING",
    "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD",
)  # fmt: skip
# How a job ended, in words that follow its number.
ENDED = {
    "BOOT_FAIL": "ended as a node did not start",
    "CANCELLED": "was cancelled",
    "COMPLETED": "ended by itself",
    "DEADLINE": "was ended by its deadline",
    "FAILED": "failed",
    "NODE_FAIL": "lost a node",
    "OUT_OF_MEMORY": "was killed for its memory",
    "PREEMPTED": "was preempted and not queued again",
    "REVOKED": "was revoked",
    "TIMEOUT": "was ended by its time limit",
}
# Why a job waits, where Slurm's own word wants one.
WAITS = {
    "BeginTime": "it was queued again, and Slurm lets some time pass before it starts",
    "Cleaning": "its former run is not cleaned up yet",
    "Dependency": "another job of its name has to end first",
    "None": "Slurm has not looked at it yet",
    "Priority": "other jobs go first",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "Resources": "no nodes are free for it",
}
HELD = ("JobHeldUser", "JobHeldAdmin", "launch_failed_requeued_held")
# A node that takes no new jobs, though those that it has run on.
DRAINS = ("drained", "draining", "drng", "drain", "fail", "failing")
ADDRESS = re.compile(r"^\S+:\s+\[?([0-9A-Fa-f:.]+?)\]?:\d+\s*$", re.M)


@dataclass(frozen=True)
class Job:
    """A job of one name. *nodes*: as Slurm writes a list; *host*: the first of them, where rank 0 is, while it runs.

    What we know of it stands in its comment: the *fingerprint* of what it runs, the *slot* of ports that it has, and
    whether its gate was passed (*verified*).
    """

    id: int
    state: str
    reason: str = ""
    nodes: str = ""
    host: str = ""
    fingerprint: str = ""
    slot: int = 0
    verified: bool = False

    @property
    def live(self) -> bool:
        """Whether it runs, or will."""
        return self.state == RUNNING or self.state in WAITING

    @property
    def running(self) -> bool:
        """Whether it has its nodes."""
        return self.state == RUNNING

    def sentence(self) -> str:
        """What has become of it, as the rest of a sentence about it."""
        if self.running:
            return f"runs on {self.nodes}"
        if self.state in ENDED:
            return ENDED[self.state]
        if self.state == COMPLETING:
            return f"is ending on {self.nodes}"
        if self.reason in HELD:
            return f"is held in the queue ({self.reason}); release it with scontrol release {self.id}"
        words = WAITS.get(self.reason.split(",")[0])
        return f"waits in the queue ({self.reason}{': ' + words if words else ''})"


def comment(fingerprint: str, slot: int, verified: bool = False) -> str:
    """What we write into a job, for runs to come."""
    return f"{NAMESPACE} fingerprint={fingerprint} slot={slot}{' verified' if verified else ''}"


def parse_jobs(text: str) -> list[Job]:
    """The jobs of `squeue` with `FORMAT`; those without a comment of ours are somebody else's, and left out."""
    found = []
    for line in text.splitlines():
        fields = line.strip().split("|", 5)
        if len(fields) != 6 or not fields[0].isdigit():
            continue
        words = fields[5].split()
        if words[:1] != [NAMESPACE]:
            continue
        told = dict(word.split("=", 1) for word in words if "=" in word)
        slot = told.get("slot", "")
        host = "" if fields[4] in ("n/a", "(null)", "None") else fields[4]
        found.append(
            Job(
                id=int(fields[0]),
                state=fields[1],
                reason=fields[2],
                nodes=fields[3],
                host=host,
                fingerprint=told.get("fingerprint", ""),
                slot=int(slot) if slot.isdigit() else 0,
                verified="verified" in words,
            )
        )
    return sorted(found, key=lambda job: job.id)


@dataclass(frozen=True)
class Node:
    """*state*: without the marks that Slurm adds; *reason*: what somebody gave; *silent*: it does not answer."""

    state: str
    reason: str = ""
    silent: bool = False


def parse_nodes(text: str) -> dict[str, Node]:
    """The nodes by name, from `NODE_FORMAT`."""
    found = {}
    for line in text.splitlines():
        fields = line.strip().split("|", 2)
        if len(fields) == 3:
            reason = "" if fields[2] in ("none", "(null)") else fields[2]
            found[fields[0]] = Node(re.sub(r"[^a-z]", "", fields[1].lower()), reason, "*" in fields[1])
    return found


def parse_address(text: str) -> str:
    """The address of `scontrol getaddrs` for one node; empty where there is none."""
    match = ADDRESS.search(text)
    return match.group(1) if match else ""


class Cluster:
    """The Slurm that this host is a login node of."""

    def _ask(self, *argv: str) -> str:
        said = run_command(argv)
        if said.rc == 127:
            raise FleetError(
                f"There is no {argv[0]} on this host; name a login node, where Slurm's commands are, in slurm_login."
            )
        if said.rc:
            told = (said.err or said.out).strip().splitlines()
            raise FleetError(f"{argv[0]} says: {told[-1] if told else f'exit code {said.rc}'}")
        return said.out

    def answers(self) -> None:
        """Raise `FleetError` where Slurm does not."""
        self._ask("squeue", "--noheader", "--user=0", "--states=RUNNING", "--format=%i")

    def jobs(self, name: str) -> list[Job]:
        """Our jobs of that name, of this user, by number; those too that ended a while ago."""
        return parse_jobs(
            self._ask(
                "squeue", "--noheader", "--states=all", f"--user={os.getuid()}", f"--name={name}", f"--format={FORMAT}"
            )
        )

    def job(self, name: str, number: int) -> Optional[Job]:
        """One of them; None where Slurm knows nothing of it any more."""
        return next((job for job in self.jobs(name) if job.id == number), None)

    def nodes(self, nodes: str) -> dict[str, Node]:
        """The *nodes*, as Slurm writes a list, by name."""
        if not nodes:
            return {}
        return parse_nodes(self._ask("sinfo", "--noheader", "--Node", f"--nodes={nodes}", f"--format={NODE_FORMAT}"))

    def drained(self, nodes: str) -> dict[str, str]:
        """Of the *nodes* those that take no new jobs, and why."""
        return drained_of(self.nodes(nodes))

    def address(self, node: str) -> str:
        """Where others reach a node."""
        found = parse_address(self._ask("scontrol", "getaddrs", node))
        if not found:
            raise FleetError(f"scontrol getaddrs {node} tells no address; see that Slurm knows the node's NodeAddr.")
        return found

    def submit(self, script: str, options: Sequence[str], arguments: Sequence[str]) -> int:
        """Submit a script; returns the number of its job."""
        said = self._ask("sbatch", "--parsable", *options, script, *arguments).strip().split(";")[0]
        if not said.isdigit():
            raise FleetError(f"sbatch answers {said[:80]!r}, which is no number of a job.")
        return int(said)

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Cancel jobs; one that has ended meanwhile is none."""
        if jobs:
            self._ask("scancel", *(str(job.id) for job in jobs))

    def note(self, job: Job, text: str) -> None:
        """Write another comment into a job."""
        self._ask("scontrol", "update", f"JobId={job.id}", f"Comment={text}")


def drained_of(nodes: Mapping[str, Node]) -> dict[str, str]:
    """Of *nodes* those that take no new jobs, and why."""
    return {name: node.reason for name, node in nodes.items() if node.state in DRAINS}


def drained_words(drained: Mapping[str, str]) -> str:
    """The nodes of `Cluster.drained` in words."""
    return ", ".join(f"{node} ({reason})" if reason else node for node, reason in drained.items())
