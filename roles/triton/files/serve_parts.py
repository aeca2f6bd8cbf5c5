# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the servers of a replica of trtllm-serve that has two kinds of them, and the one before them:
python3 -I -S serve_parts.py --port=PORT

TRTLLM_PARTS says what runs, as JSON: ``servers`` with ``name``, ``gpus`` and ``argv`` of each, and ``front`` with its
``argv``, in which @file@ stands for the file that says where the servers are, and what is in that ``file``.

They are one replica: where one of them ends by itself, all do, and this ends with 1. Told to end, the one before the
servers ends first, once it has given its answers, as it needs them for that; then they do. Python 3.8.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

CACHE = "/cache/"
GRACE = float(os.environ.get("TRTLLM_PARTS_GRACE", "20"))  # seconds for those that have nothing to do any more


def environment(name: str, gpus: str) -> dict[str, str]:
    """What a server is told beside its command: its GPUs, and places of its own for what it compiles and tunes."""
    found = dict(os.environ)
    found.pop("TRTLLM_PARTS", None)
    found.pop("TRTLLM_SERVE_MORE", None)
    for variable, value in os.environ.items():
        if value.startswith(CACHE):
            found[variable] = f"{CACHE}{name}/{value[len(CACHE) :]}"
            os.makedirs(os.path.dirname(found[variable]), exist_ok=True)
    if gpus:
        found.update(CUDA_DEVICE_ORDER="PCI_BUS_ID", CUDA_VISIBLE_DEVICES=gpus)
    return found


def say(text: str) -> None:
    print(f"parts: {text}", file=sys.stderr, flush=True)


def end(parts: dict[int, str]) -> None:
    """End what still runs: asked first, and killed after a while."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        for pid in parts:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        until = time.monotonic() + GRACE
        while parts and time.monotonic() < until:
            for pid in list(parts):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    parts.pop(pid)
            time.sleep(0.05)


def main() -> int:
    told = json.loads(os.environ["TRTLLM_PARTS"])
    parts: dict[int, str] = {}
    more = os.environ.get("TRTLLM_SERVE_MORE", "").split()  # what serve_run.sh found that they take
    running = []  # so that nobody else takes note of an end
    stopping: list[int] = []
    front = 0

    def stop(signum: int, _frame: object) -> None:
        # A server before the others that is not there yet has no answers to give.
        stopping.append(signum)
        if front:
            os.kill(front, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with tempfile.NamedTemporaryFile("w", prefix="disaggregated-", suffix=".yaml", delete=False) as file:
        json.dump(told["front"]["file"], file)
    for server in told["servers"]:
        process = subprocess.Popen([*server["argv"], *more], env=environment(server["name"], server["gpus"]))
        running.append(process)
        parts[process.pid] = server["name"]
    argv = [word.replace("@file@", file.name) for word in told["front"]["argv"]]
    if not stopping:
        process = subprocess.Popen(argv, env=environment("front", ""))
        running.append(process)
        front = process.pid
        parts[front] = "front"
        if stopping:  # told while it was started
            os.kill(front, signal.SIGTERM)
        pid, status = os.waitpid(-1, 0)
        name = parts.pop(pid, str(pid))
        if stopping and name != "front":
            # It ended meanwhile, and whoever waits for it gets what it gets.
            say(f"{name} ended before the answers were given")
        elif not stopping:
            say(f"{name} ended by itself (wait status {status}), and so all end")
    end(parts)
    os.unlink(file.name)
    return 0 if stopping else 1


if __name__ == "__main__":
    sys.exit(main())
