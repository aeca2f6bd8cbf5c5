#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run on a host: stop a service while it answers a streamed request, and start it again.

Arguments: PORT SERVICE; prints JSON {tokens, finished, stop_seconds, state, result, start_seconds}.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any

TOKENS = 300


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


def main() -> None:
    port, service = int(sys.argv[1]), sys.argv[2]
    answer: dict[str, Any] = {"tokens": 0, "finished": False}
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
    answer["state"], answer["result"] = shown(service, "ActiveState"), shown(service, "Result")
    begin = time.monotonic()
    subprocess.run(["systemctl", "start", service], check=True)
    answer["start_seconds"] = round(time.monotonic() - begin, 1)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
