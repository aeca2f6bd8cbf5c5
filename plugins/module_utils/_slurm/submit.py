# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One kind of job of a cluster: found again by its name and the fingerprint in its comment, submitted, waited for.

What a job runs stands in a directory that all nodes see, ``<directory>/<name>/<fingerprint>``: the script, what it
reads, and what it says, in ``<number>.log``. What runs is known from Slurm alone; the file beside it that names the
job submitted last is there for a sentence.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

from .._base.errors import FleetError
from .._base.files import read_object, remove, write_atomically
from .._base.names import check_name, check_path
from .._triton.client import GenerateClient, TritonError
from .cluster import COMPLETING, ENDED, Cluster, Job, comment, drained_of, drained_words
from .jobs import NONE, Decision, decide, free_slot

# In a script and its files: the directory where they stand.
PLACE = "@DIRECTORY@"
SCRIPT = "job.sh"
LAST = "submitted.json"
# What a job leaves that makes something.
RESULT = "result.json"
# The ports of a job are those of its replica and this much for each slot above, so that two jobs may be on one node.
SLOTS, PORTS_PER_SLOT = 2, 5
POLL = 1.0
# Slurm kills what does not end after KillWait (30), and tells a node that is lost after SlurmdTimeout (300).
GONE_WITHIN = 120.0
ASK_TIMEOUT = 30.0
LOG_LINES = 20


@dataclass(frozen=True)
class Serves:
    """How it is known that a job serves: each of the *models* answers *body* with a token at *port*."""

    port: int
    models: Sequence[str]
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """What should run. *programs* are files that are no text, and do not count in the fingerprint.

    *result* is a file that the script writes at its end, an object with ``paths``: where it and they are there, there
    is nothing left to run. *stop_first*: cancel what runs before its successor is submitted.
    """

    name: str
    directory: Path
    script: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, bytes] = field(default_factory=dict)
    result: str = ""
    slots: int = SLOTS
    stop_first: bool = False

    @property
    def fingerprint(self) -> str:
        """Of all that determines what runs."""
        text = json.dumps([self.script, dict(self.files)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def home(self) -> Path:
        """Where everything of this name is."""
        return self.directory / self.name

    @property
    def work(self) -> Path:
        """Where this job's files are."""
        return self.home / self.fingerprint


class Submission:
    """The jobs of one name on one cluster. Methods return the module's result."""

    def __init__(self, request: Request, cluster: Optional[Cluster] = None, poll: float = POLL) -> None:
        check_name(request.name, "name")
        check_path(request.directory, "directory")
        for name in (*request.files, *request.programs):
            check_name(name, "files")
        self.request, self.cluster, self.poll = request, cluster or Cluster(), poll

    # -- what is there -------------------------------------------------------------------------------------

    def settled(self) -> list[Job]:
        """All jobs of the name, once none of them is on its way out, or back into the queue."""
        deadline = time.monotonic() + GONE_WITHIN
        jobs = self.cluster.jobs(self.request.name)
        while any(job.state == COMPLETING for job in jobs) and time.monotonic() < deadline:
            time.sleep(self.poll)
            jobs = self.cluster.jobs(self.request.name)
        return jobs

    def drained(self, jobs: Sequence[Job]) -> dict[int, dict[str, str]]:
        """By job that runs, the nodes of it that take no new jobs."""
        return {job.id: self.cluster.drained(job.nodes) for job in jobs if job.running}

    def finished(self) -> dict[str, Any]:
        """What a job of this fingerprint has left, while all of it is there; {} otherwise."""
        if not self.request.result:
            return {}
        found = read_object(self.request.work / self.request.result)
        return found if found and all(Path(path).exists() for path in found.get("paths", [])) else {}

    def _last(self) -> Optional[int]:
        last = read_object(self.request.home / LAST).get("job")
        return last if isinstance(last, int) else None

    def _result(self, decision: Decision, changed: bool) -> dict[str, Any]:
        return {
            "changed": changed,
            "action": decision.action,
            "reason": decision.reason,
            "fingerprint": self.request.fingerprint,
            "directory": str(self.request.work),
            "job": self.told(decision.job) if decision.job else {},
            "others": [job.id for job in decision.others],
            "serving": self._serving(decision),
        }

    def _serving(self, decision: Decision) -> dict[str, Any]:
        """The job that serves clients by now, and until the wanted one has passed its gate; {} where there is none."""
        jobs = [job for job in (decision.job, *decision.others) if job and job.running and job.verified]
        return self.told(jobs[0]) if jobs else {}

    def told(self, job: Job) -> dict[str, Any]:
        """A job for those who read the result: where it is reached too, while it runs."""
        place = self.request.home / job.fingerprint
        files = {"log": str(place / f"{job.id}.log"), "address_file": str(place / f"{job.id}.address")}
        found = {**asdict(job), **files, "address": ""}
        if job.running and job.host:
            found["address"] = self.cluster.address(job.host)
        return found

    # -- present -------------------------------------------------------------------------------------------

    def present(self, check: bool = False) -> dict[str, Any]:
        """Leave the job alone that runs what is wanted, or submit one."""
        finished = self.finished()
        if finished:
            return {**self._result(Decision(NONE), False), "result": finished}
        jobs = self.cluster.jobs(self.request.name) if check else self.settled()
        decision = decide(self.request.name, self.request.fingerprint, jobs, self.drained(jobs), self._last())
        if decision.action == NONE or check:
            return self._result(decision, decision.action != NONE)
        # What has passed no gate serves nobody, and keeps nodes from its successor.
        self.cluster.cancel([job for job in decision.others if self.request.stop_first or not job.verified])
        jobs = self.settled()
        slot = free_slot(jobs, self.request.slots)
        if slot is None:
            taken = ", ".join(str(job.id) for job in jobs if job.state not in ENDED)
            raise FleetError(
                f"All ports of {self.request.name} are taken, by jobs {taken}; cancel the one that should not be there "
                "with scancel."
            )
        job = Job(self._submit(slot), "PENDING", "None", fingerprint=self.request.fingerprint, slot=slot)
        live = tuple(other for other in jobs if other.live)
        return self._result(Decision(decision.action, decision.reason, job, live), True)

    def _submit(self, slot: int) -> int:
        request, place = self.request, str(self.request.work)
        if request.result:
            remove(request.work / request.result)
        for name, text in {**request.files, SCRIPT: request.script}.items():
            write_atomically(request.work / name, text.replace(PLACE, place).encode())
        for name, content in request.programs.items():
            write_atomically(request.work / name, content)
        number = self.cluster.submit(
            str(request.work / SCRIPT),
            [f"--job-name={request.name}", f"--comment={comment(request.fingerprint, slot)}",
             f"--output={place}/%j.log"],
            [str(slot)],
        )  # fmt: skip
        write_atomically(request.home / LAST, json.dumps({"job": number}).encode())
        return number

    # -- waiting -------------------------------------------------------------------------------------------

    def wait_serving(self, number: int, serves: Serves, timeout: float) -> dict[str, Any]:
        """Wait until a job gives tokens. It stays in the queue where that takes too long."""
        deadline, said = time.monotonic() + timeout, ""
        while True:
            job = self._alive(number)
            if job.running and job.host:
                said = self._asked(self.cluster.address(job.host), job, serves)
                if not said:
                    return self.told(job)
            if time.monotonic() > deadline:
                if job.running:
                    raise self.failure(job, f"{job.sentence()} and gives no token after {timeout:g} s: {said}")
                raise FleetError(
                    f"Job {number} of {self.request.name} {job.sentence()}, for longer than {timeout:g} s. It stays "
                    "queued, and the next run goes on with it; free nodes for it, or raise the time."
                )
            time.sleep(self.poll)

    def _asked(self, address: str, job: Job, serves: Serves) -> str:
        """What is wrong with the answers; empty where each model gives a token."""
        client = GenerateClient(f"http://{address}:{serves.port + PORTS_PER_SLOT * job.slot}", ASK_TIMEOUT)
        try:
            for model in serves.models:
                if "text_output" not in client.generate(model, serves.body):
                    return f"{model} answers without a text"
        except TritonError as error:
            return str(error)
        return ""

    def wait_finished(self, number: int, timeout: float) -> dict[str, Any]:
        """Wait until a job has written its result."""
        deadline = time.monotonic() + timeout
        while True:
            job = self.cluster.job(self.request.name, number)
            finished = self.finished()
            if finished and (job is None or not job.live):
                return finished
            job = self._alive(number)
            if time.monotonic() > deadline:
                raise FleetError(
                    f"Job {number} of {self.request.name} {job.sentence()}, for longer than {timeout:g} s. It goes on, "
                    "and the next run takes its result; raise the time to wait longer."
                )
            time.sleep(self.poll)

    def _alive(self, number: int) -> Job:
        """The job, or the reason why it is none any more."""
        job = self.cluster.job(self.request.name, number)
        if job is None:
            raise self.failure(Job(number, "", fingerprint=self.request.fingerprint), "is not known to Slurm any more")
        if job.state in ENDED:
            raise self.failure(job, job.sentence())
        return job

    def failure(self, job: Job, what: str) -> FleetError:
        """The error for a job that serves nothing, with the last words of its log."""
        path = self.request.home / (job.fingerprint or self.request.fingerprint) / f"{job.id}.log"
        try:
            lines = [line for line in path.read_text("utf-8", "replace").splitlines() if line.strip()][-LOG_LINES:]
        except OSError:
            lines = []
        last = f"Its last words: {lines[-1]}" if lines else "It has said nothing"
        return FleetError(
            f"Job {job.id} of {self.request.name} {what.rstrip('.')}. {last} (the whole log: {path}).",
            {"log_tail": lines, "job": asdict(job)},
        )

    # -- the other states ----------------------------------------------------------------------------------

    def verified(self, number: int, check: bool = False) -> dict[str, Any]:
        """Write into a job that its gate was passed."""
        job = self._alive(number)
        changed = not job.verified
        if changed and not check:
            self.cluster.note(job, comment(job.fingerprint, job.slot, True))
        return {"changed": changed, "action": "verified" if changed else NONE, "job": self.told(job)}

    def absent(self, keep: Sequence[int] = (), only: Sequence[int] = (), check: bool = False) -> dict[str, Any]:
        """Cancel all jobs of the name but those to *keep*, and remove what they ran; or cancel *only* some."""
        jobs, home = self.cluster.jobs(self.request.name), self.request.home
        going = [job for job in jobs if job.state not in ENDED and job.id not in keep and (not only or job.id in only)]
        left = {job.fingerprint for job in jobs if job.live and job not in going}
        stale = [] if only or not home.is_dir() else [home]
        if stale and left:
            stale = [path for path in sorted(home.iterdir()) if path.name not in {*left, LAST}]
        result = {"changed": bool(going or stale), "action": "cancel" if going else NONE,
                  "cancelled": [job.id for job in going]}  # fmt: skip
        if check or not result["changed"]:
            return result
        self.cluster.cancel([job for job in going if job.state != COMPLETING])
        self._gone({job.id for job in going})
        for path in stale:
            remove(path)
        return result

    def _gone(self, numbers: set[int]) -> None:
        """Wait until jobs have left their nodes."""
        deadline = time.monotonic() + GONE_WITHIN
        while True:
            left = [job for job in self.cluster.jobs(self.request.name) if job.id in numbers and job.state not in ENDED]
            if not left:
                return
            if time.monotonic() > deadline:
                raise FleetError(
                    f"Job {left[0].id} of {self.request.name} {left[0].sentence()} {GONE_WITHIN:g} s after it was "
                    "cancelled; look at its nodes with scontrol show node."
                )
            time.sleep(self.poll)


def status(directory: Path, cluster: Optional[Cluster] = None) -> list[dict[str, Any]]:
    """What has become of every job that was submitted from here: one row each, with a sentence."""
    cluster = cluster or Cluster()
    homes = sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
    return [row for home in homes for row in _rows(home, cluster)]


def _rows(home: Path, cluster: Cluster) -> list[dict[str, Any]]:
    jobs, last = cluster.jobs(home.name), read_object(home / LAST).get("job")
    live = [job for job in jobs if job.state not in ENDED]
    if live:
        return [_row(home, job, f"Job {job.id} of {home.name} {_stands(job, cluster)}.") for job in live]
    if any(home.glob(f"*/{RESULT}")):
        return [_row(home, Job(last or 0, ""), f"What {home.name} had to make is there.")]
    if jobs:
        job = jobs[-1]
        return [_row(home, job, f"Job {job.id} of {home.name} {job.sentence()}; the next run submits another.")]
    gone = f"Slurm knows nothing of job {last} of {home.name} any more" if last else f"{home.name} has no job"
    return [_row(home, Job(last or 0, ""), f"{gone}; the next run submits it.")]


def _stands(job: Job, cluster: Cluster) -> str:
    if not job.running:
        return job.sentence()
    nodes = cluster.nodes(job.nodes)
    drained, silent = drained_of(nodes), [name for name, node in nodes.items() if node.silent]
    moves = f"; drained: {drained_words(drained)}, so the next run moves it" if drained else ""
    if silent:
        moves += f"; Slurm gets no answer from {', '.join(silent)}, and starts the job elsewhere if that lasts"
    return f"{job.sentence()}{moves}{'' if job.verified else '; its gate is not passed yet'}"


def _row(home: Path, job: Job, sentence: str) -> dict[str, Any]:
    told = {"state": job.state, "nodes": job.nodes, "verified": job.verified}
    return {"name": home.name, "job": job.id, **told, "sentence": sentence}
