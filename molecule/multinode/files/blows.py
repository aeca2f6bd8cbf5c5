# SPDX-License-Identifier: GPL-3.0-or-later
"""Strike a replica whose ranks are on two hosts, and measure on the controller until clients have a token again.

blows.py TESTBED GATEWAY_URL LEADER WORKER

For each blow it prints, as one JSON object, the seconds until the leader's unit had left its state of before
(``noticed``) and until a chat was answered again (``repaired``), and how many ranks of the start before were left then.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request

TESTBED, URL, LEADER, WORKER = sys.argv[1:]
UNIT = "triton-tiny-llama-0"
BODY = json.dumps({"model": "tiny-llama", "max_tokens": 2, "messages": [{"role": "user", "content": "What is a GPU?"}]})
# A blow: on which host, and what does it. The network is away for 20 s, and comes back by itself.
AWAY = "systemd-run --collect --quiet sh -c 'ip link set eth0 down; sleep 20; ip link set eth0 up'"
# A moment later, when nobody is in the host any more, which would keep podman from starting it again.
REBOOT = "systemd-run --collect --quiet --on-active=1 --timer-property=AccuracySec=100ms systemctl reboot"
BLOWS = {
    "rank on the worker killed": (WORKER, "kill -9 $(pgrep -x tritonserver)"),
    "mpirun of the leader killed": (LEADER, "kill -9 $(pgrep -x mpirun)"),
    "first rank killed": (LEADER, "kill -9 $(pgrep -x tritonserver)"),
    "container of the worker killed": (WORKER, f"podman kill --signal KILL {UNIT}"),
    "network of the worker away for 20 s": (WORKER, AWAY),
    "worker rebooted": (WORKER, REBOOT),
    "leader rebooted": (LEADER, REBOOT),
}


def on(host: str, command: str) -> str:
    """Run a command of the shell on a host; one that the blow cuts off tells nothing."""
    done = subprocess.run(
        [TESTBED, "exec", host, "--", "sh", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.strip()


def chat() -> bool:
    """Whether a client gets an answer."""
    request = urllib.request.Request(f"{URL}/v1/chat/completions", BODY.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=3) as answer:
            return bool(json.load(answer)["choices"][0]["message"]["content"])
    except (OSError, ValueError, KeyError):
        return False


def since(begun: float, what: object, limit: float) -> float | None:
    """Seconds from *begun* until *what* is true, None where it is not within *limit*."""
    while time.monotonic() - begun < limit:
        if what():  # type: ignore[operator]
            return round(time.monotonic() - begun, 1)
        time.sleep(0.2)
    return None


def start_of() -> str:
    """Which start of the leader this is."""
    return on(
        LEADER, f"systemctl show --property=NRestarts --property=InvocationID --property=ActiveState --value {UNIT}"
    )


def ranks(host: str) -> list[str]:
    """The servers on a host."""
    return on(host, "pgrep -x tritonserver").split()


def main() -> None:
    report = {}
    for name, (host, command) in BLOWS.items():
        if since(time.monotonic(), chat, 60) is None:
            sys.exit(f"no answer before: {name}; so far {json.dumps(report)}")
        time.sleep(1)
        before, old = start_of(), {node: ranks(node) for node in (LEADER, WORKER)}
        begun = time.monotonic()
        on(host, command)
        noticed = since(begun, lambda before=before: start_of() != before, 90)
        repaired = since(begun, chat, 90) if noticed is not None else None
        left = sum(len(set(ranks(node)) & set(pids)) for node, pids in old.items())
        # A reboot counts from 1 again, so that a number may come twice.
        report[name] = {"noticed": noticed, "repaired": repaired, "left": 0 if "reboot" in name else left}
        print(f"{name}: {report[name]}", file=sys.stderr, flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
