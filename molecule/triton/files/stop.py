#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run on a host: stop a service while it answers a streamed request and clients keep idle connections, and start it
again.

Arguments: PORT SERVICE; prints JSON {tokens, finished, idle, idle_closed, stop_seconds, state, result, start_seconds}.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any

TOKENS = 300
# Connections that a gateway keeps for its next request, silent for longer than a stream is.
IDLE, SILENT = 12, 11.0


def shown(service: str, name: str) -> str:
    done = subprocess.run(
        ["systemctl", "show", f"--property={name}", "--value", service], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def ask(port: int, answer: dict[str, Any]) -> None:
    body = {
        "text_input": "What is machine learning?", "max_tokens": TOKENS, "min_tokens": TOKENS, "stream": True,
        "bad_words": "", "stop_words": "",
    }  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/tensorrt_llm_bls/generate_stream",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as stream:
        for line in stream:
            if line.startswith(b"data:"):
                answer["tokens"] += 1
    answer["finished"] = True


def idle_connection(port: int) -> http.client.HTTPConnection:
    """A connection that was used, and is kept."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/v2/health/live")
    connection.getresponse().read()
    return connection


def was_closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the server ended the connection in order: there is nothing more to read."""
    connection.sock.settimeout(1)
    try:
        return connection.sock.recv(1) == b""
    except OSError:
        return False


def main() -> None:
    port, service = int(sys.argv[1]), sys.argv[2]
    answer: dict[str, Any] = {"tokens": 0, "finished": False}
    idle = [idle_connection(port) for _number in range(IDLE)]
    time.sleep(SILENT)
    client = threading.Thread(target=ask, args=(port, answer))
    client.start()
    while answer["tokens"] < 5:
        time.sleep(0.01)
    seen = answer["tokens"]
    begin = time.monotonic()
    subprocess.run(["systemctl", "stop", service], check=True)
    answer["stop_seconds"] = round(time.monotonic() - begin, 1)
    client.join()
    answer["tokens_when_stopped"] = seen
    answer["idle"], answer["idle_closed"] = IDLE, sum(was_closed(connection) for connection in idle)
    answer["state"], answer["result"] = shown(service, "ActiveState"), shown(service, "Result")
    begin = time.monotonic()
    subprocess.run(["systemctl", "start", service], check=True)
    answer["start_seconds"] = round(time.monotonic() - begin, 1)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
