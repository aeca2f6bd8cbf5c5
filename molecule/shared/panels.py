#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a Prometheus what every panel of the dashboards asks, and say which get no data: panels.py URL [SECONDS]

Those panels that need nothing but replicas, gateways and Prometheus. Waits until all have data, at most SECONDS.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "collections")]

from ansible_collections.trtllm.fleet.plugins.plugin_utils._alerts import ALERTS, LIMITS, RECORDED
from ansible_collections.trtllm.fleet.plugins.plugin_utils._dashboards import ALL

# What Grafana puts in, with all chosen.
CHOSEN = {"$model": ".*", "$host": ".*", "$__rate_interval": "1m"}


def asked() -> Iterator[tuple[str, str]]:
    """What is asked, and the expression."""
    yield from RECORDED.items()
    for name, board in ALL.items():
        for panel in board.panels:
            for expr, _legend in panel.queries if not panel.needs else ():
                for variable, value in CHOSEN.items():
                    expr = expr.replace(variable, value)
                yield f"{name}: {panel.title}", expr


def answer(url: str, expr: str) -> list[object]:
    """The series that it gives. Raises OSError where Prometheus refuses it."""
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expr})}", timeout=20) as got:
        found: list[object] = json.load(got)["data"]["result"]
    return found


def main(url: str, seconds: str = "60") -> int:
    deadline = time.monotonic() + float(seconds)
    left = list(asked())
    count = len(left)
    while left := [(what, expr) for what, expr in left if not answer(url, expr)]:
        if time.monotonic() > deadline:
            break
        time.sleep(2)
    for alert in ALERTS:  # none is refused; most of them should have nothing to say
        answer(url, alert.expr % {name: limit.default for name, limit in LIMITS.items()})
    for what, expr in left:
        print(f"no data: {what}: {expr}")
    print(f"panels: {count - len(left)} of {count} queries have data; {len(ALERTS)} alerts can be asked")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
