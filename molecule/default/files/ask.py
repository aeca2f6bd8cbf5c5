# SPDX-License-Identifier: GPL-3.0-or-later
"""Connect to the gateway again and again while it restarts; print what came of it as JSON."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter

LONGEST = 120.0  # seconds


def ask(host: str, port: int, over: threading.Event, found: Counter[str]) -> None:
    """A connection for each request, until it is over."""
    until = time.monotonic() + LONGEST
    while not over.is_set() and time.monotonic() < until:
        connection = http.client.HTTPConnection(host, port, timeout=60)
        try:
            connection.request("GET", "/v1/models")
            found[str(connection.getresponse().status)] += 1
        except OSError as error:
            found[type(error).__name__] += 1
        finally:
            connection.close()
        time.sleep(0.01)


def main(host: str, port: int) -> int:
    """The exit status of the restart."""
    over, found = threading.Event(), Counter[str]()
    threads = [threading.Thread(target=ask, args=(host, port, over, found)) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    begin = time.monotonic()
    status = subprocess.run(["systemctl", "restart", "openai-gateway"], check=False).returncode
    seconds = time.monotonic() - begin
    time.sleep(1)
    over.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"answers": found, "seconds": round(seconds, 1)}))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
