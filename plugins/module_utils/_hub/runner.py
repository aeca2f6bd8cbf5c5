# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a download runs so that a later run finds it again: in a container, or on the controller as a process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .._base import files
from .._base.labels import label
from .._podman import cli

# It needs nothing but its directories and the network.
CONTAINER_OPTIONS = (
    "--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges",
    "--security-opt=label=disable",
)  # fmt: skip
LOCK, PID = "alive", "pid"
PATIENCE = 5.0  # seconds for a process that is ended to go


class Container:
    """A detached container of *image*, which sees *directories* of the host, and *cache* without writing there."""

    def __init__(self, name: str, image: str, network: str) -> None:
        self.name, self.image, self.network = name, image, network
        self.container = f"trtllm-checkpoint-{name}"

    def start(self, archive: Path, home: Path, directories: Sequence[Path], cache: str) -> None:
        """Run *archive* for what stands in *home*."""
        cli.run_detached(
            self.image,
            ["python3", str(archive), str(home)],
            name=self.container,
            labels={label("checkpoint"): self.name},
            volumes=[*(f"{path}:{path}" for path in directories), *([f"{cache}:{cache}:ro"] if cache else [])],
            environment={"HOME": "/tmp"},
            network=self.network,
            options=CONTAINER_OPTIONS,
        )

    def running(self) -> bool:
        """Whether it runs."""
        state = cli.container_state(self.container)
        return state is not None and state.running

    def last_words(self) -> str:
        """How it ended, for a sentence."""
        state = cli.container_state(self.container)
        if not state:
            return "no message"
        words = cli.last_line(cli.run(["logs", "--tail=3", self.container]).stderr)
        return f"exit code {state.exit_code}, {words or 'no message'}"

    def remove(self) -> None:
        """End it, and leave nothing of it."""
        cli.remove(self.container)


class Process:
    """A process with the Python that runs this, which has the hubs' clients; it outlives this one.

    It holds the lock of a file for as long as it lives, so that its number is never taken for that of another one.
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    def start(self, archive: Path, home: Path, directories: Sequence[Path], cache: str) -> None:
        """Run *archive* for what stands in *home*."""
        with open(self.home / LOCK, "w", encoding="utf-8") as alive, open(self.home / "output", "wb") as output:
            fcntl.flock(alive, fcntl.LOCK_EX)
            process = subprocess.Popen(
                [sys.executable, str(archive), str(home)], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, "HOME": str(home)}, start_new_session=True, pass_fds=[alive.fileno()],
            )  # fmt: skip
        files.write_atomically(self.home / PID, str(process.pid).encode())

    def running(self) -> bool:
        """Whether it runs."""
        try:
            with open(self.home / LOCK, encoding="utf-8") as alive:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def last_words(self) -> str:
        """How it ended, for a sentence."""
        with contextlib.suppress(OSError):
            lines = (self.home / "output").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return lines[-1] if lines else "no message"
        return "no message"

    def remove(self) -> None:
        """End it."""
        deadline = time.monotonic() + PATIENCE
        while self.running() and time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                os.killpg(int((self.home / PID).read_text(encoding="utf-8")), signal.SIGKILL)
            time.sleep(0.05)
