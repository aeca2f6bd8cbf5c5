# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that runs one long command (podman's pull, push, build) and tries again where that may help.

It belongs to the host and outlives the connection that started it. It is copied beside its ``spec.json`` and uses the
standard library alone; how it stands, it writes into ``status.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Optional

SPEC, STATUS, LOG, AUTH = "spec.json", "status.json", "log", "auth.json"
INTERVAL = 0.5  # seconds between two looks
LONGEST_PAUSE = 120.0  # seconds
LOG_TAIL = 65536  # bytes of the log that are read for the last line
# What a further try does not change: refusals, names that are not there, a host that is full.
FINAL = re.compile(
    r"manifest unknown|name unknown|unauthorized|denied|invalid username/password|authentication required|forbidden"
    r"|invalid reference format|did not resolve to an alias|x509:|certificate|HTTP response to HTTPS|no space left"
    r"|no image found in (manifest|image index)|payload does not match|not supported|unknown flag|no such file",
    re.IGNORECASE,
)


def tree_size(directory: str) -> int:
    """Bytes of all files below *directory*, which may change meanwhile."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def last_line(path: str) -> str:
    """The last line of a log that says something."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - LOG_TAIL))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


class Worker:
    """Runs the command of ``spec.json``: argv, env, cwd, scratch (its TMPDIR), attempts, delay (seconds, doubled)."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        with open(self.path(SPEC), encoding="utf-8") as stream:
            self.spec: dict[str, Any] = json.load(stream)
        self.begun = time.time()
        self.child: Optional[subprocess.Popen[bytes]] = None
        self.over = threading.Event()
        self.status: dict[str, Any] = {
            "state": "running", "step": self.spec["step"], "attempt": 0, "attempts": self.spec["attempts"],
            "bytes": 0, "total": self.spec.get("total", 0), "message": "", "code": 0,
        }  # fmt: skip

    def path(self, name: str) -> str:
        """A file beside the spec."""
        return os.path.join(self.directory, name)

    def tell(self, **changes: Any) -> None:
        """Write how it stands, so that a reader sees the old or the new."""
        self.status.update(changes, seconds=round(time.time() - self.begun, 1))
        with contextlib.suppress(OSError):
            with open(self.path(f"{STATUS}.new"), "w", encoding="utf-8") as stream:
                json.dump(self.status, stream)
            os.replace(self.path(f"{STATUS}.new"), self.path(STATUS))

    def run(self) -> int:
        """The whole work; the exit code of the last try."""
        signal.signal(signal.SIGTERM, self.stop)
        delay, code = float(self.spec["delay"]), 1
        for attempt in range(1, self.spec["attempts"] + 1):
            self.tell(state="running", attempt=attempt)
            code, said = self.once()
            last = code == 0 or attempt == self.spec["attempts"] or FINAL.search(said) is not None
            if last:  # before it is told that it has ended
                self.clear()
            if code == 0:
                self.tell(state="done", code=0, message="")
                break
            self.tell(state="failed" if last else "waiting", code=code, message=said)
            if last or self.over.wait(delay):
                break
            delay = min(delay * 2, LONGEST_PAUSE)
        self.clear()
        return code

    def once(self) -> tuple[int, str]:
        """One try: the exit code, and the last line of what the command said."""
        scratch = self.spec["scratch"]
        shutil.rmtree(scratch, ignore_errors=True)  # of a try that was killed
        os.makedirs(scratch, mode=0o700, exist_ok=True)
        environment = {**os.environ, **self.spec["env"], "LC_ALL": "C.UTF-8", "TMPDIR": scratch}
        with open(self.path(LOG), "wb") as log:
            self.child = subprocess.Popen(
                self.spec["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                cwd=self.spec.get("cwd"),
            )  # fmt: skip
            if self.over.is_set():  # told so while it was being started
                self.child.terminate()
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = self.child.wait(INTERVAL)
                    break
                size = tree_size(scratch) if self.spec["measured"] else 0
                self.tell(bytes=max(size, self.status["bytes"]), line=last_line(self.path(LOG)))
        return code, last_line(self.path(LOG))

    def stop(self, *_: Any) -> None:
        """SIGTERM: end the command too."""
        self.over.set()
        if self.child is not None and self.child.poll() is None:
            self.child.terminate()

    def clear(self) -> None:
        """Remove what only the work needed."""
        with contextlib.suppress(OSError):
            os.unlink(self.path(AUTH))
        shutil.rmtree(self.spec["scratch"], ignore_errors=True)


def main(directory: str) -> int:
    return Worker(directory).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
