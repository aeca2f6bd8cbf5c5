#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run on a host: end or halt a process of each replica at once, and measure until a token comes back.

Arguments: PORT:SERVICE:PROCESS[:SIGNAL] ...; prints JSON {SERVICE: {process, hit, noticed, seconds, restarts,
ready_while_dead}}. *noticed* is when the container was gone, in seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

BODY = json.dumps({"text_input": "What is machine learning?", "max_tokens": 2, "bad_words": "", "stop_words": ""})
LIMIT = 90.0


def token(port: int) -> bool:
    """Whether the replica gives a token through all its processes."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/tensorrt_llm_bls/generate",
        BODY.encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return b'"text_output"' in answer.read()
    except OSError:
        return False


def ready(port: int) -> bool:
    """What Triton itself says."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def shown(service: str, name: str) -> str:
    done = subprocess.run(
        ["systemctl", "show", f"--property={name}", "--value", service], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def processes(service: str, name: str) -> list[int]:
    """The processes of a service called *name*; for the stub one of several of the BLS model."""
    group = Path("/sys/fs/cgroup") / shown(service, "ControlGroup").lstrip("/")
    pids = [int(pid) for file in group.rglob("cgroup.procs") for pid in file.read_text().split()]
    found: list[int] = []
    for pid in pids:
        proc = Path("/proc") / str(pid)
        try:
            if (proc / "comm").read_text().strip() == name[:15]:
                found.append(pid)
        except OSError:
            continue
    if name == "triton_python_backend_stub":
        found = [pid for pid in found if b"tensorrt_llm_bls" in (Path("/proc") / str(pid) / "cmdline").read_bytes()]
        assert len(found) > 1, f"{service} has {len(found)} stubs of the BLS model, so that one would be all"
        found = found[:1]
    return found


def fault(port: int, service: str, name: str, number: signal.Signals, results: dict[str, Any]) -> None:
    before = int(shown(service, "NRestarts"))
    hit = processes(service, name)
    begin = time.monotonic()
    for pid in hit:
        os.kill(pid, number)
    said_ready, noticed = False, 0.0
    while time.monotonic() - begin < LIMIT:
        time.sleep(0.1)
        restarted = int(shown(service, "NRestarts")) > before
        if restarted and not noticed:
            noticed = time.monotonic() - begin
        if not restarted:
            said_ready = said_ready or ready(port)
        elif shown(service, "ActiveState") == "active" and token(port):
            break
    results[service] = {
        "process": name,
        "hit": len(hit),
        "noticed": round(noticed, 1),
        "seconds": round(time.monotonic() - begin, 1),
        "restarts": int(shown(service, "NRestarts")) - before,
        "ready_while_dead": said_ready,
    }


def main() -> None:
    results: dict[str, Any] = {}
    threads = []
    for argument in sys.argv[1:]:
        port, service, name, *given = argument.split(":")
        number = signal.Signals[given[0]] if given else signal.SIGKILL
        threads.append(threading.Thread(target=fault, args=(int(port), service, name, number, results)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(results, sort_keys=True))


if __name__ == "__main__":
    main()
