#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Strike a replica whose ranks are on several hosts, and measure on the controller until clients have a token again.

blows.py TESTBED TRITON_URL UNIT NODE,NODE[,...] BLOW...

The first node leads; the last is the worker that is struck. For each blow of `BLOWS` it prints, as one JSON object, the
seconds until the leader's unit had left its state of before (``noticed``) and until a token was given again
(``repaired``), and how many ranks of the start before were left then.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

BODY = json.dumps({"text_input": "What is a GPU?", "max_tokens": 2, "bad_words": "", "stop_words": ""}).encode()
# The processes of that name in the replica's container, among those of other replicas of the host.
OWN = "pid=$(podman inspect --format '{{{{.State.Pid}}}}' {unit}) && pgrep --ns $pid --nslist pid --exact"
# A moment later, when nobody is in the host any more, which would keep podman from starting it again.
REBOOT = "systemd-run --collect --quiet --on-active=1 --timer-property=AccuracySec=100ms systemctl reboot"
# By blow whether it strikes the leader, and what does it on the host; nothing there where its power is cut.
BLOWS: dict[str, tuple[bool, str]] = {
    "rank on the worker killed": (False, "kill -9 $({own} tritonserver | tail -n 1)"),
    "mpirun of the leader killed": (True, "kill -9 $({own} mpirun)"),
    # A script starts it.
    "first rank killed": (True, "rank=$({own} tritonserver | head -n 1); kill -9 $rank $(pgrep --parent $rank)"),
    "container of the worker killed": (False, "podman kill --signal KILL {unit}"),
    # It comes back by itself.
    "network of the worker away for 20 s": (
        False,
        "systemd-run --collect --quiet sh -c 'ip link set eth0 down; sleep 20; ip link set eth0 up'",
    ),
    "power of the worker away": (False, ""),
    "worker rebooted": (False, REBOOT),
    "leader rebooted": (True, REBOOT),
}
INVOCATION = r"\b[0-9a-f]{32}\b"  # of a start of a unit
PATIENCE = 180  # seconds until the replica serves again


def since(begun: float, what: Callable[[], Any], limit: float) -> float | None:
    """Seconds from *begun* until *what* is true, None where it is not within *limit*."""
    while time.monotonic() - begun < limit:
        if what():
            return round(time.monotonic() - begun, 1)
        time.sleep(0.2)
    return None


class Replica:
    """A replica on test hosts; with one node, all its ranks are there."""

    def __init__(self, testbed: str, url: str, unit: str, nodes: Sequence[str]) -> None:
        self.testbed, self.unit, self.nodes = testbed, unit, list(nodes)
        self.url = f"{url}/v2/models/tensorrt_llm_bls/generate"
        self.own = OWN.format(unit=unit)

    def on(self, host: str, command: str, limit: float = 60) -> str:
        """What a command of the shell says on a host; one that a blow cuts off tells nothing."""
        argv = [self.testbed, "exec", host, "--", "sh", "-c", command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=limit, check=False).stdout.strip()

    def power(self, what: str, host: str) -> None:
        """Cut the power of a host, or start it."""
        subprocess.run([self.testbed, what, host], check=True, capture_output=True)

    def answers(self) -> bool:
        """Whether it gives a token."""
        request = urllib.request.Request(self.url, BODY, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return bool(json.load(answer)["text_output"])
        except (OSError, ValueError, KeyError):
            return False

    def start_of(self) -> str:
        """Which start of the leader this is."""
        shown = "--property=NRestarts --property=InvocationID --property=ActiveState"
        return self.on(self.nodes[0], f"systemctl show {shown} --value {self.unit}")

    def is_new(self, before: str) -> bool:
        """Whether it was started since; a first rank that ends may answer for a moment yet."""
        now = re.findall(INVOCATION, self.start_of())
        return bool(now) and now != re.findall(INVOCATION, before)

    def ranks(self, own: bool = True) -> set[tuple[str, str]]:
        """The servers on each node with their host: those of the replica's containers, or all."""
        command = f"{self.own} tritonserver" if own else "pgrep -x tritonserver"
        return {(node, pid) for node in self.nodes for pid in self.on(node, command).split()}

    def strike(self, blow: str) -> dict[str, Any]:
        """One blow, and what follows. Raises SystemExit where nothing serves that could be struck."""
        leader, command = BLOWS[blow]
        if since(time.monotonic(), self.answers, PATIENCE) is None:
            sys.exit(f"no answer before: {blow}")
        time.sleep(1)
        before, old = self.start_of(), self.ranks()
        begun = time.monotonic()
        struck = self.nodes[0 if leader else -1]
        if command:
            self.on(struck, command.format(own=self.own, unit=self.unit))
        else:
            self.power("cut", struck)
        noticed = since(begun, lambda: self.start_of() != before, PATIENCE)
        if not command:
            self.power("start", struck)
        repaired = None
        if noticed is not None:
            repaired = since(begun, lambda: self.is_new(before) and self.answers(), PATIENCE)
        # A host that boots counts from 1 again, so that a number may come twice.
        left = 0 if command in ("", REBOOT) else len(old & self.ranks(own=False))
        return {"noticed": noticed, "repaired": repaired, "left": left}


def main(testbed: str, url: str, unit: str, nodes: str, *blows: str) -> None:
    replica, report = Replica(testbed, url, unit, nodes.split(",")), {}
    for blow in blows:
        report[blow] = replica.strike(blow)
        print(f"{blow}: {report[blow]}", file=sys.stderr, flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
