# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A long podman command as a transient unit of systemd: started, looked at, found again by a later run.

Its directory is below /run, which is in memory: the credentials in it are gone with the unit, and with a power cut.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Optional

from .._base import files, transient
from .._base.errors import FleetError
from . import cli, worker
from .worker import AUTH, LOG, SPEC, STATUS

RUN = Path("/run/trtllm-image")
SCRATCH = Path("/var/tmp")
PROGRAM = "worker.py"
BEGIN = 10.0  # seconds within which a started worker says so
POLL = 0.3
LOG_LINES = 40  # of podman, returned where it failed


class Running(Exception):
    """It is not done yet; *progress* says how far it is."""

    def __init__(self, progress: Mapping[str, Any]) -> None:
        super().__init__("still at work")
        self.progress = dict(progress)


class Job:
    """The long work on one image of this host, in whatever state an earlier run left it."""

    def __init__(self, image: str) -> None:
        key = hashlib.sha256(image.encode()).hexdigest()[:16]
        self.image, self.directory, self.unit = image, RUN / key, f"trtllm-image-{key}.service"
        self.scratch = SCRATCH / f"trtllm-image-{key}"
        self.context = SCRATCH / f"trtllm-image-{key}.context"  # what came from the controller to build from
        self.authfile = self.directory / AUTH

    def status(self) -> dict[str, Any]:
        """What the worker last said; {} where it said nothing."""
        return files.read_object(self.directory / STATUS)

    def running(self) -> bool:
        """Whether systemd runs it."""
        return (self.directory / SPEC).exists() and transient.running(self.unit)

    def prepare(self) -> Path:
        """Its directory, empty and for its owner alone."""
        files.remove(self.directory)
        files.remove(self.context)
        RUN.mkdir(mode=0o700, exist_ok=True)
        self.directory.mkdir(mode=0o700)
        return self.directory

    def start(
        self, argv: Sequence[str], *, step: str, attempts: int, delay: float, env: Mapping[str, str], total: int = 0,
        measured: bool = False, cwd: Optional[str] = None, about: Optional[Mapping[str, Any]] = None,
    ) -> None:  # fmt: skip
        """Run ``podman ARGV``, or in the directory *cwd* ARGV itself. What its directory has to hold for that was put
        there after `prepare`."""
        program = cli.executable()
        if program is None:
            raise FleetError("podman is not installed on this host; run the podman role first.")
        code: Any = importlib.import_module(worker.__name__).__loader__
        files.write_atomically(self.directory / PROGRAM, code.get_source(worker.__name__).encode(), mode=0o600)
        spec = {
            "argv": list(argv) if cwd else [program, *argv], "cwd": cwd, "step": step,
            "attempts": attempts, "delay": delay, "env": dict(env),
            "total": total, "measured": measured, "scratch": str(self.scratch), "about": dict(about or {}),
        }  # fmt: skip
        files.write_atomically(self.directory / SPEC, json.dumps(spec).encode(), mode=0o600)
        # Where the worker was killed, nobody else removes the credentials.
        properties = {"ExecStopPost": f"-/bin/rm -f {self.authfile}", "TimeoutStopSec": "20"}
        program_argv = [sys.executable, "-I", str(self.directory / PROGRAM), str(self.directory)]
        said = transient.start(self.unit, f"podman {step} for trtllm.fleet", properties, program_argv)
        if said.rc:
            files.remove(self.directory)
            raise FleetError(f"'podman {step}' cannot be started as a unit of systemd: {cli.last_line(said.err)}")
        deadline = time.monotonic() + BEGIN
        while not self.status() and time.monotonic() < deadline:
            time.sleep(0.05)

    @property
    def about(self) -> dict[str, Any]:
        """What was to be kept until it is done."""
        return dict(files.read_object(self.directory / SPEC).get("about") or {})

    def log(self) -> str:
        """What podman printed; empty where it printed nothing."""
        try:
            return (self.directory / LOG).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def collect(self, what: str, wait: bool) -> dict[str, Any]:
        """Its last status, once it is done; raises `Running` where that is not waited for, and `PodmanError`."""
        while True:
            alive, said = self.running(), self.status()
            if said.get("state") in ("done", "failed"):
                break
            if not alive:
                self.fail(what, {**said, "message": "it was stopped or killed", "code": 137})
            if not wait:
                raise Running(said)
            time.sleep(POLL)
        if said["state"] == "failed":
            self.fail(what, said)
        return said

    def fail(self, what: str, said: Mapping[str, Any]) -> NoReturn:
        """Say why it failed; nothing is left of it."""
        log, tool = self.log().splitlines()[-LOG_LINES:], self.about.get("tool", "podman")
        self.forget()
        tries = int(said.get("attempt") or 1)
        often = f", {tries} times" if tries > 1 else ""
        message = str(said.get("message") or "no message")
        code = int(said.get("code") or 1)
        error = cli.PodmanError(f"{tool} cannot {what} (exit code {code}{often}): {message}", code, message)
        error.details = {"log": log}
        raise error

    def forget(self) -> None:
        """Remove what it left. The unit itself is gone once it has ended."""
        for path in (self.directory, self.scratch, self.context):
            files.remove(path)
