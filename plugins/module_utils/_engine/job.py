# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A build as a detached container that a later run finds again.

A job is a directory ``<root>/jobs/<name>/<fingerprint>`` (what to run, how far it is) and a container whose name
follows from both. The container's name is what keeps two builds of one engine apart, whoever starts them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._artifact.artifact_store import FINGERPRINT
from .._base.background import CONTAINER
from .._base.errors import FleetError
from .._base.files import write_atomically
from .._base.labels import label
from .._podman import cli
from . import runner

TAIL_BYTES = 1 << 16
LAST_LINE_LENGTH = 120
# What upstream's tools put before each line: the time (ours is shown) and their own name.
LOG_PREFIX = re.compile(r"^\[[\d/:. -]+\] (\[TRT-LLM\] )?(\[[A-Z]\] )?")
KILLED = (137, 143)
# What upstream's documentation gives every container that runs on GPUs.
CONTAINER_OPTIONS = (
    "--shm-size=2g",
    "--ulimit=memlock=-1:-1",
    "--ulimit=stack=67108864:67108864",
    "--security-opt=label=disable",
    *CONTAINER,
)


@dataclass(frozen=True)
class JobState:
    """How a job stands: absent, running, done, failed or interrupted (killed before it could say why)."""

    state: str
    id: str = ""
    phase: str | None = None
    started: float = 0.0
    phase_started: float = 0.0
    phases: Mapping[str, float] | None = None
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    oom_killed: bool = False


def runner_source() -> str:
    """The text of the runner, from wherever this collection was loaded (a directory or a module's archive)."""
    loader: Any = runner.__loader__
    source = loader.get_source(runner.__name__) if hasattr(loader, "get_source") else None
    if not source:
        raise FleetError("The build runner is missing from the collection; install trtllm.fleet again.")
    return str(source)


class Job:
    """The build of one engine of one host, in whatever state an earlier run left it."""

    def __init__(self, root: Path, name: str, fingerprint: str) -> None:
        self.root, self.name, self.fingerprint = root, name, fingerprint
        self.directory = root / "jobs" / name / fingerprint
        self.container = f"trtllm-engine-{name}-{fingerprint[:12]}"
        self.log = root / "logs" / "engines" / f"{name}-{fingerprint[:12]}.log"

    @classmethod
    def of_name(cls, root: Path, name: str) -> list[Job]:
        """All jobs of the engines called *name*. Looks at directories only, so it is cheap when there are none.

        What is not called like one is not ours, and left alone.
        """
        home = root / "jobs" / name
        found = sorted(home.iterdir()) if home.is_dir() else []
        return [cls(root, name, path.name) for path in found if FINGERPRINT.fullmatch(path.name)]

    @property
    def exists(self) -> bool:
        """Whether a run has started it and none has collected it."""
        return self.directory.is_dir()

    def _status(self) -> dict[str, Any]:
        try:
            status = json.loads((self.directory / "status.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def spec(self) -> dict[str, Any]:
        """What the job was started with; {} where that cannot be read."""
        try:
            spec = json.loads((self.directory / "spec.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return spec if isinstance(spec, dict) else {}

    def state(self) -> JobState:
        """How the job stands, by its own account and by podman's."""
        if not self.exists:
            return JobState("absent")
        # podman first: a runner tells its end before it ends, so what it wrote is final once the container has.
        container = self._container()
        status = self._status()
        known = JobState(
            state=status.get("state", "interrupted"),
            id=status.get("id") or self.spec().get("id", ""),
            phase=status.get("phase"),
            started=status.get("started", 0.0),
            phase_started=status.get("phase_started", 0.0),
            phases=status.get("phases", {}),
            exit_code=status.get("exit_code"),
            reason=status.get("reason", ""),
            message=status.get("message", ""),
            oom_killed=bool(container and container.oom_killed),
        )
        if container is not None and container.running:
            return replace(known, state="running")
        if known.state in ("done", "failed"):
            return known
        code = container.exit_code if container else None
        ended = container is not None and (container.oom_killed or container.exit_code not in (0, *KILLED))
        reason = "exit" if ended else "killed"
        return replace(known, state="failed" if ended else "interrupted", exit_code=code, reason=reason)

    def start(
        self,
        image: str,
        steps: Sequence[Mapping[str, Any]],
        *,
        volumes: Sequence[str],
        devices: Sequence[str],
        network: str,
        environment: Mapping[str, str],
        timeout: int,
        about: Mapping[str, Any],
        lifeline: str = "",
    ) -> str:
        """Start the container and return the id of the job. *about* is kept for whoever collects the result."""
        self.discard()
        identity = uuid.uuid4().hex
        work = self.directory / "work"
        work.mkdir(parents=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        spec = {
            "id": identity,
            "status": str(self.directory / "status.json"),
            "log": str(self.log),
            "workdir": str(work),
            "timeout": timeout,
            "lifeline": lifeline,
            "steps": list(steps),
            "about": dict(about),
        }
        write_atomically(self.directory / "runner.py", runner_source().encode())
        write_atomically(self.directory / "spec.json", json.dumps(spec).encode())
        write_atomically(self.log, b"")
        try:
            own = [f"{path}:{path}" for path in (self.directory, self.log.parent, lifeline) if path]
            self._run(image, identity, [*own, *volumes], devices, environment, network)
        except cli.PodmanError:
            self.discard()
            raise
        return identity

    # -- the container, which a pod of Kubernetes is itself -----------------------------------------------------

    def _container(self) -> cli.ContainerState | None:
        """How podman has it; None where there is none."""
        return cli.container_state(self.container)

    def _run(
        self, image: str, identity: str, volumes: Sequence[str], devices: Sequence[str],
        environment: Mapping[str, str], network: str,
    ) -> None:  # fmt: skip
        cli.run_detached(
            image,
            ["python3", str(self.directory / "runner.py"), str(self.directory / "spec.json")],
            name=self.container,
            labels={
                label("engine"): self.name,
                label("fingerprint"): self.fingerprint,
                label("job"): identity,
            },
            volumes=volumes,
            devices=devices,
            environment=environment,
            network=network,
            options=CONTAINER_OPTIONS,
        )

    def _remove(self) -> None:
        cli.remove(self.container)

    def discard(self) -> bool:
        """End the container if it runs, remove it and the job's directory; the log stays. True if there was any."""
        existed = self.exists
        self._remove()
        shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.directory.parent.rmdir()
        return existed

    def log_lines(self, count: int) -> list[str]:
        """The last *count* lines of the log. Of a progress bar only its last state counts."""
        try:
            with open(self.log, "rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL_BYTES))
                text = stream.read().decode("utf-8", "replace")
        except OSError:
            return []
        lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
        return [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line) for line in lines if line.strip()][-count:]

    def progress(self, state: JobState) -> dict[str, Any]:
        """Where a running job is: phase, ranks done of all, seconds, last line of the log."""
        steps = {step["phase"]: step for step in self.spec().get("steps", [])}
        step = steps.get(state.phase or "", {})
        lines, now = self.log_lines(1), time.time()
        return {
            "phase": state.phase or "starting",
            "phase_number": list(steps).index(state.phase) + 1 if state.phase in steps else 0,
            "phases": len(steps),
            "ranks_done": finished_ranks(step.get("output", "")),
            "ranks": step.get("ranks", 0),
            "elapsed": int(now - state.started) if state.started else 0,
            "phase_elapsed": int(now - state.phase_started) if state.phase_started else 0,
            "last_line": LOG_PREFIX.sub("", lines[0])[:LAST_LINE_LENGTH] if lines else "",
        }


def finished_ranks(directory: str) -> int:
    """Ranks whose file stands in *directory*: rank0.safetensors, rank0.engine, llama_float16_tp2_rank0.engine."""
    try:
        names = os.listdir(directory) if directory else []
    except OSError:
        return 0
    return len({match.group(1) for name in names if (match := re.search(r"rank(\d+)\.(?:engine|safetensors)$", name))})
