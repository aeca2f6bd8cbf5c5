#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service costs over bare tritonserver: time from start to the first token, and memory that stays.

    tests/bench/bench_serving.py NAME [--service triton-tiny-llama-0] [--runs 5] [--json FILE]

NAME is a test host with a deployed replica. Both sides are measured in turn, in the same run, on that host: the
service by ``systemctl start``, which returns when the replica is healthy, and tritonserver alone, with the
service's own arguments and files, until it has given a token. The host runs this file with ``--on-host``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent.parent
BODY = {"text_input": "What is machine learning?", "max_tokens": 1, "bad_words": "", "stop_words": ""}
POLL = 0.01
GOAL_SECONDS, GOAL_MIB = 1.5, 10.0
BARE = "bench-bare"
# What a unit adds beside what upstream starts: the runtime, and process 1 of the container.
OURS = ("conmon", "sh")


def run(*argv: str) -> str:
    """Output of a command that must succeed."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def shown(service: str, name: str) -> str:
    """A property of a unit."""
    return run("systemctl", "show", f"--property={name}", "--value", service)


def first_token(url: str, model: str, begin: float, limit: float = 120) -> float:
    """Seconds from *begin* until the server gives a token."""
    request = urllib.request.Request(
        f"{url}/v2/models/{model}/generate", json.dumps(BODY).encode(), {"Content-Type": "application/json"}
    )
    while time.monotonic() - begin < limit:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                if b'"text_output"' in answer.read():
                    return time.monotonic() - begin
        except OSError:
            time.sleep(POLL)
    raise SystemExit(f"bench: no token from {url} within {limit:g} s")


def processes(service: str) -> dict[str, list[int]]:
    """The processes of a unit by name."""
    group = Path("/sys/fs/cgroup") / shown(service, "ControlGroup").lstrip("/")
    found: dict[str, list[int]] = {}
    for file in group.rglob("cgroup.procs"):
        for pid in file.read_text().split():
            found.setdefault(Path(f"/proc/{pid}/comm").read_text().strip(), []).append(int(pid))
    return found


def pss_mib(pids: list[int]) -> float:
    """Proportional memory of processes."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return round(total / 1024, 2)


def end_group(leader: subprocess.Popen[bytes]) -> None:
    """End a process and what it started, and wait until the last of them is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGTERM)
        while True:
            leader.poll()  # reap it
            os.killpg(leader.pid, 0)
            time.sleep(0.05)


class Bare:
    """Tritonserver without mpirun, unit, probe and container runtime: in the mounts of an idle container."""

    def __init__(self, container: dict[str, Any]) -> None:
        words = container["Config"]["Cmd"]
        start = next(index for index, word in enumerate(words) if word.endswith("tritonserver"))
        end = words.index(":", start) if ":" in words[start:] else len(words)
        self.argv = words[start:end]
        volumes = [f"--volume={mount['Source']}:{mount['Destination']}:ro" for mount in container["Mounts"]]
        run("podman", "run", "--detach", "--replace", f"--name={BARE}", "--network=host", "--shm-size=2g", *volumes,
            "--pull=never", "--entrypoint=sleep", container["Image"], "infinity")  # fmt: skip
        self.pid = run("podman", "inspect", "--format", "{{.State.Pid}}", BARE)
        environment = Path(f"/proc/{self.pid}/environ").read_bytes().decode().split("\0")
        self.environment = dict(line.split("=", 1) for line in environment if "=" in line)

    def seconds(self, url: str, model: str) -> float:
        """From exec to the first token."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--ipc", "--pid", "--root"]
        begin = time.monotonic()
        server = subprocess.Popen(
            [*enter, *self.argv], env=self.environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            return first_token(url, model, begin)
        finally:
            end_group(server)

    def remove(self) -> None:
        """Take the idle container away."""
        subprocess.run(["podman", "rm", "--force", "--time=0", BARE], check=False, capture_output=True)


def on_host(service: str, runs: int) -> dict[str, Any]:
    """The measurements, on the host of the service."""
    container = json.loads(run("podman", "inspect", service))[0]
    url, model = probed(container)
    steady = processes(service)
    ours = {name: pss_mib(steady.get(name, [])) for name in OURS}
    upstream = {name: pss_mib(pids) for name, pids in steady.items() if name not in OURS}
    bare = Bare(container)
    times: dict[str, list[float]] = {"service": [], "bare": []}
    try:
        for _turn in range(runs):
            run("systemctl", "stop", service)
            times["bare"].append(bare.seconds(url, model))
            begin = time.monotonic()
            run("systemctl", "start", service)
            times["service"].append(time.monotonic() - begin)
    finally:
        bare.remove()
        run("systemctl", "start", service)
    return {"service": service, "seconds": times, "added_mib": ours, "upstream_mib": upstream}


def probed(container: dict[str, Any]) -> tuple[str, str]:
    """URL and model that the service's own probe asks."""
    words = shlex.split(container["Config"]["Healthcheck"]["Test"][-1])
    url = next(word for word in words if word.startswith("url="))
    return url.partition("=")[2], words[-1]


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Figures and ratios; *ok* where the goals are met."""
    service, bare = (statistics.median(found["seconds"][side]) for side in ("service", "bare"))
    added = sum(found["added_mib"].values())
    return {
        **found,
        "service_seconds": round(service, 2),
        "bare_seconds": round(bare, 2),
        "difference_seconds": round(service - bare, 2),
        "ratio": round(service / bare, 2),
        "added_mib_total": round(added, 2),
        "mpirun_mib": found["upstream_mib"].get("mpirun", 0.0),
        "ok": service - bare <= GOAL_SECONDS and added <= GOAL_MIB,
    }


def lines(figures: dict[str, Any]) -> list[str]:
    """A table for people."""
    return [
        f"start to first token, median of {len(figures['seconds']['service'])}, {figures['service']}",
        f"  bare tritonserver     {figures['bare_seconds']:6.2f} s",
        f"  systemctl start       {figures['service_seconds']:6.2f} s  "
        f"{figures['ratio']:.2f} times, {figures['difference_seconds']:+.2f} s (goal: at most +{GOAL_SECONDS} s)",
        "memory beside Triton, steady (PSS)",
        f"  added: conmon, sh     {figures['added_mib_total']:6.2f} MiB (goal: at most {GOAL_MIB:g} MiB)",
        f"  upstream's mpirun     {figures['mpirun_mib']:6.2f} MiB",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="a test host with a deployed replica")
    parser.add_argument("--service", help="the replica's service; the first by default")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--on-host", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.on_host:
        print(json.dumps(on_host(options.service, options.runs)))
        return 0
    if not options.name:
        parser.error("name a test host")
    with tempfile.NamedTemporaryFile("w", suffix=".ssh") as config:
        config.write(run(str(REPO / "tests/testbed/testbed"), "ssh-config", options.name))
        config.flush()
        ssh = ["ssh", "-F", config.name, options.name]
        units = run(*ssh, "ls /etc/containers/systemd/triton-*.container").split()
        service = options.service or Path(units[0]).stem
        script = Path(__file__).read_bytes()
        remote = f"python3 - --on-host --service {shlex.quote(service)} --runs {options.runs}"
        done = subprocess.run([*ssh, remote], input=script, capture_output=True, check=False, env=os.environ)
        if done.returncode:
            print(done.stderr.decode(), file=sys.stderr)
            return done.returncode
    figures = summary(json.loads(done.stdout))
    print("\n".join(lines(figures)))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
