# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs inside a build container: the commands of one engine, one after the other.

It is copied beside the build and uses the standard library alone. It outlives the connection that started it,
so all that it has to tell stands in files: ``status.json`` (state, phase, times, exit code) and the log.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

COMPLETE = ".complete.json"  # in a converted checkpoint: it is whole, and these are its sizes
TERMINATED = 143
NICENESS = 10
# ioprio_set(2), which neither Python nor libc has: number of the call by machine, and "best effort, last".
IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
IOPRIO_WHO_PROCESS, IOPRIO_BEST_EFFORT_LAST = 1, 2 << 13 | 7


class Stopped(Exception):
    """SIGTERM arrived."""


class Failed(Exception):
    """A step did not end well. *reason*: exit, timeout or error."""

    def __init__(self, reason: str, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code


def write_json(path: str, value: Any) -> None:
    """Replace *path* so that a reader sees the old or the new content."""
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as stream:
        json.dump(value, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def give_way() -> None:
    """Let what serves on this host go first, for the processor and for the disk."""
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    call = IOPRIO_SET.get(platform.machine())
    if call is not None:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).syscall(call, IOPRIO_WHO_PROCESS, 0, IOPRIO_BEST_EFFORT_LAST)


def sizes(directory: str) -> dict[str, int]:
    """Relative path -> size of what a converted checkpoint holds."""
    found = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            if name != COMPLETE:
                found[os.path.relpath(path, directory)] = os.stat(path).st_size
    return found


def is_complete(directory: str) -> bool:
    """Whether a converted checkpoint was finished and still has the files that it had then."""
    try:
        with open(os.path.join(directory, COMPLETE), encoding="utf-8") as stream:
            return bool(json.load(stream) == sizes(directory))
    except (OSError, ValueError):
        return False


class Runner:
    """Runs the steps of ``spec.json`` and keeps ``status.json`` true."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.started = time.time()
        self.child: subprocess.Popen[bytes] | None = None
        self.orphaned = False
        self.status: dict[str, Any] = {
            "id": spec["id"], "state": "running", "phase": None, "started": self.started, "phases": {},
        }  # fmt: skip

    def update_status(self, **changes: Any) -> None:
        """Update the status file; a full disk must not end the build by itself."""
        self.status.update(changes)
        with contextlib.suppress(OSError):
            write_json(self.spec["status"], self.status)

    def note(self, text: str) -> None:
        """One line of our own into the log."""
        with contextlib.suppress(OSError), open(self.spec["log"], "a", encoding="utf-8") as log:
            log.write(f"[trtllm_engine] {text}\n")

    def remaining(self) -> float | None:
        """Seconds until the time-out, None without one."""
        limit = self.spec.get("timeout")
        return max(0.1, self.started + limit - time.time()) if limit else None

    def execute(self, step: dict[str, Any]) -> None:
        """Run one command to its end; whatever but exit code 0 raises `Failed`."""
        argv = list(step["argv"])
        places = [argv[1], *step.get("alternatives", [])] if argv[0].startswith("python") else []
        if places and not os.path.exists(argv[1]):
            argv[1] = next((place for place in places if os.path.exists(place)), argv[1])
        self.note("$ " + " ".join(argv))
        try:
            with open(self.spec["log"], "ab") as log:
                self.child = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    cwd=self.spec["workdir"], env={**os.environ, **step.get("env", {})}, start_new_session=True,
                )  # fmt: skip
            code = self.child.wait(self.remaining())
        except subprocess.TimeoutExpired:
            self.kill_child()
            raise Failed("timeout", 124, f"time-out after {self.spec['timeout']} s") from None
        except OSError as error:
            self.note(str(error))
            raise Failed("error", 127, str(error)) from error
        finally:
            self.child = None
        if code:
            raise Failed("exit", code, f"{argv[0]} ended with exit code {code}")

    def kill_child(self) -> None:
        """End the running command and everything it started."""
        child = self.child
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    def end_with(self, lifeline: str) -> None:
        """End at once, killed or not, when nobody holds the lock of *lifeline* any more."""
        with open(lifeline, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
        self.note("what started this build has ended, and so does the build")
        self.orphaned = True
        self.kill_child()
        os._exit(TERMINATED)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Book the time of one phase."""
        begun = time.time()
        self.update_status(phase=name, phase_started=begun)
        try:
            yield
        finally:
            self.status["phases"][name] = round(time.time() - begun, 3)

    def convert(self, step: dict[str, Any]) -> None:
        """Make a converted checkpoint, unless another build has made it; it appears by one rename.

        The lock is held by one converter at a time, so what stands under the temporary name is never in use.
        """
        final, partial = step["publish"], step["output"]
        with open(step["lock"] + ".making", "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_complete(final):
                self.note(f"{final} is there already")
                return
            for path in (partial, final):
                shutil.rmtree(path, ignore_errors=True)
            os.makedirs(partial)
            self.execute(step)
            if not sizes(partial):
                raise Failed("error", 1, f"{step['argv'][0]} ended well but wrote nothing into {partial}")
            write_json(os.path.join(partial, COMPLETE), sizes(partial))
            os.sync()
            os.rename(partial, final)

    def run_steps(self) -> None:
        """All steps. The converted checkpoint is held (shared) until the engine is built from it."""
        with contextlib.ExitStack() as held:
            for step in self.spec["steps"]:
                with self.phase(step["phase"]):
                    if step.get("publish"):
                        lock = held.enter_context(open(step["lock"] + ".used", "a", encoding="utf-8"))
                        fcntl.flock(lock, fcntl.LOCK_SH)
                        self.convert(step)
                    else:
                        self.execute(step)

    def main(self) -> int:
        """Run and return the exit code of the container."""

        def stop(number: int, frame: Any) -> None:
            raise Stopped

        signal.signal(signal.SIGTERM, stop)
        if self.spec.get("lifeline"):
            threading.Thread(target=self.end_with, args=(self.spec["lifeline"],), daemon=True).start()
        give_way()
        self.update_status()
        try:
            self.run_steps()
            os.sync()
        except Stopped:
            self.kill_child()
            self.note("stopped")
            self.update_status(state="failed", reason="stopped", exit_code=TERMINATED, finished=time.time())
            return TERMINATED
        except Failed as failure:
            if self.orphaned:  # the command was ended by us, and this thread heard of it first
                return TERMINATED
            self.note(str(failure))
            self.update_status(
                state="failed", reason=failure.reason, exit_code=failure.exit_code, message=str(failure),
                finished=time.time(),
            )  # fmt: skip
            return failure.exit_code if 0 < failure.exit_code < 126 else 1
        except OSError as error:
            self.kill_child()
            self.note(str(error))
            self.update_status(state="failed", reason="error", exit_code=1, message=str(error), finished=time.time())
            return 1
        self.update_status(state="done", phase=None, exit_code=0, finished=time.time())
        return 0


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        sys.exit(Runner(json.load(file)).main())
