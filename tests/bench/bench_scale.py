#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of site.yml that changes nothing costs the controller, by the number of hosts: a table, JSON with --json.

    tests/bench/bench_scale.py [--real 1 10] [--replayed 10 100 1000] [--pairs 3] [--json FILE] [--keep]
    tests/bench/bench_scale.py --real 10 --replayed --pairs 2 --no-full --at-once 2     ten hosts on a small machine

Real test hosts are brought up and deployed; then the run that changes nothing is counted twice: one in which all
hosts are settled, and a full one (`trtllm_skip_settled=false`). One host's answers are recorded, and answer in the
place of any number of hosts, with the recorded host's Triton and gateway behind all: so the controller's part is seen
for more hosts than fit on a machine. Told are tasks, commands on hosts and bytes sent to them per host, seconds, the
controller's CPU seconds (Ansible's main process and its workers) per host, its memory, and the machine's load.

In the same run and on the same hosts, the role `podman` of fedora.linux_system_roles with one Quadlet, where the
collection path has it; what a settled run takes of its time is told below the table, for each pair of runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "tools")]

import demo
from _stages import StageError, Stages, main_guard

CALLBACKS = REPO / "tests" / "bench" / "callback"
NET, FIRST = "10.200.0.", 61  # of the hosts' addresses
MOST_REAL = 30
MOST_FULL = 10  # replayed hosts in a full run: ten times as many take a quarter of an hour
# Replayed hosts whose replica is asked: it is one on this machine, and asking it takes more than all else.
MOST_ASKED = 10
ATTEMPTS = 4  # runs until all hosts are settled: what is new is changed, and then looked at
SITE = "playbooks/site.yml"
FULL = ("-e", "trtllm_skip_settled=false")
PEER = "fedora.linux_system_roles.podman"
PEER_PLAY = [
    {
        "hosts": "gpu_hosts",
        "gather_facts": True,
        "tasks": [
            {
                "ansible.builtin.include_role": {"name": PEER},
                "vars": {
                    "podman_quadlet_specs": [
                        {
                            "name": "peer", "type": "container", "activate_systemd_unit": False,
                            "Container": {"Image": "localhost/none:latest", "ContainerName": "peer"},
                        }
                    ],
                    "podman_fail_if_too_old": False, "podman_pull_image": False,
                },
            }
        ],
    }
]  # fmt: skip


class Scale:
    """The hosts, and runs of playbooks that are counted."""

    def __init__(self, stages: Stages, scratch: Path, real: int, first: int) -> None:
        self.stages, self.scratch = stages, scratch
        self.hosts = {f"bsc{number + 1}": f"{NET}{first + number}" for number in range(real)}

    def up(self, at_once: int) -> None:
        """Boot the hosts and deploy to them, to so many at a time."""
        everyone = list(self.hosts.items())
        for start in range(0, len(everyone), at_once):
            some = everyone[start : start + at_once]
            words = [f"{name}={address}" for name, address in some]
            self.stages.run("hosts", [demo.TESTBED, "up", *words], f"booting {len(words)} test hosts")
            self.inventory(dict(some))
            self.run(f"deploy from {start + 1}", SITE)

    def down(self) -> None:
        """Remove the hosts."""
        self.stages.run("hosts", [demo.TESTBED, "down", *self.hosts], "removing the test hosts")

    def inventory(self, hosts: dict[str, str]) -> None:
        """Write the inventory of these hosts, each with what the demo's host has."""
        members = {name: {"ansible_host": address} for name, address in hosts.items()}
        # The demo's asks the registry each time, as its images move.
        asks = {"triton_image_pull": "missing", "openai_gateway_image_pull": "missing"}
        members = {name: {**given, **asks} for name, given in members.items()}
        text = json.dumps({"all": {"children": {"gpu_hosts": {"hosts": members}}}})
        (self.scratch / "hosts.yml").write_text(text, encoding="utf-8")
        link = self.scratch / "group_vars"
        if not link.is_symlink():
            link.symlink_to(REPO / "inventories" / "demo" / "group_vars")

    def run(self, name: str, playbook: str, mode: str = "count", *options: str, asks: bool = True) -> dict[str, Any]:
        """Run a playbook over the inventory; what the run was counted to take. *asks*: whether replicas are asked."""
        place = self.scratch / "counts" / name.replace(" ", "-")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        env = {
            **os.environ, "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS), "ANSIBLE_CALLBACKS_ENABLED": "host_answers",
            "HOST_ANSWERS": str(place), "HOST_ANSWERS_MODE": mode,
            "HOST_ANSWERS_ASKS": "yes" if asks else "no",
        }  # fmt: skip
        self.stages.say(f"{name}: {Path(playbook).name}")
        argv = ["ansible-playbook", "-i", str(self.scratch / "hosts.yml"), playbook, *options]
        load = os.getloadavg()[0]
        done = subprocess.run(argv, cwd=REPO, env=env, text=True, capture_output=True, check=False)
        if done.returncode:
            raise StageError(f"{name} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
        found: dict[str, Any] = json.loads((place / "run.json").read_text(encoding="utf-8"))
        calls = [json.loads(line) for line in (place / "calls.jsonl").read_text(encoding="utf-8").splitlines()]
        hosts = len(json.loads((self.scratch / "hosts.yml").read_text())["all"]["children"]["gpu_hosts"]["hosts"])
        return {
            **found, "hosts": hosts, "calls": len(calls) / hosts, "bytes": sum(call["sent"] for call in calls) / hosts,
            "guessed": sum(not call["exact"] for call in calls), "load": round(load, 1),
            # A whole run tells at its beginning that a host is not, and at its end that it is from now on.
            "settled": 0 if ": not settled" in done.stdout else done.stdout.count(": settled since "),
        }  # fmt: skip


def measured(
    scale: Scale, real: Sequence[int], replayed: Sequence[int], pairs: int, full: bool
) -> list[tuple[str, dict[str, Any]]]:
    """The rows of the table. *pairs*: of settled runs and of the peer's; none without the peer."""
    rows = []
    play = scale.scratch / "peer.yml"
    play.write_text(json.dumps(PEER_PLAY), encoding="utf-8")
    everyone = list(scale.hosts.items())
    for count in real:
        scale.inventory(dict(everyone[:count]))
        # A unit that the peer writes differs for us, so it comes first.
        beside = bool(pairs) and peer_run(scale, count, "first", play) is not None
        for pair in range(1, max(pairs, 1) + 1):
            rows.append((f"{count} real, settled ({pair})", settled_row(scale, f"{count} settled {pair}", "count")))
            found = peer_run(scale, count, str(pair), play) if beside else None
            if found is not None:
                rows.append((f"{count} real, {PEER} ({pair})", found))
        if full:
            rows.append((f"{count} real, full", scale.run(f"{count} full", SITE, "count", *FULL)))
    if not replayed:
        return rows
    scale.inventory(dict(everyone[:1]))
    # A full run has another question for the same look, so both are recorded.
    scale.run("record the full run", SITE, "record", *FULL)
    scale.run("record the settled run", SITE, "record")
    address = everyone[0][1]
    for count in replayed:
        scale.inventory({f"replay{number:04d}": address for number in range(count)})
        asks = count <= MOST_ASKED
        found = settled_row(scale, f"{count} replayed", "replay", asks)
        rows.append((f"{count} replayed, settled{'' if asks else ', requests replayed too'}", found))
        if count <= MOST_FULL:
            rows.append((f"{count} replayed, full", scale.run(f"{count} replayed in full", SITE, "replay", *FULL)))
    return rows


def peer_run(scale: Scale, count: int, name: str, play: Path) -> dict[str, Any] | None:
    """A run of the peer; None where it fails, as it is not ours, and the rest can be measured without it."""
    try:
        return scale.run(f"{count} peer {name}", str(play))
    except StageError as error:
        scale.stages.say(f"SKIPPED: {PEER} on {count} hosts: {str(error)[-2000:]}")
        return None


def settled_row(scale: Scale, name: str, mode: str, asks: bool = True) -> dict[str, Any]:
    """A run in which every host has to be settled."""
    for _attempt in range(ATTEMPTS if mode == "count" else 1):
        found = scale.run(name, SITE, mode, asks=asks)
        if found["settled"] == found["hosts"]:
            return found
    raise StageError(
        f"{name}: {found['settled']} of {found['hosts']} hosts were settled; see why in a run of site.yml."
    )


def table(rows: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """The lines of the table."""
    head = (
        f"{'hosts':<48} {'tasks':>6} {'calls':>6} {'KiB':>6} {'s':>7} {'CPU s':>7} {'a host':>7} {'MiB':>5} {'load':>5}"
    )
    lines = [head]
    for name, row in rows:
        cpu = row["cpu_main"] + row["cpu_workers"]
        lines.append(
            f"{name:<48} {row['tasks']:>6} {row['calls']:>6.1f} {row['bytes'] / 1024:>6.0f} {row['seconds']:>7.1f} "
            f"{cpu:>7.1f} {cpu / row['hosts']:>7.2f} {row['memory_mib']:>5} {row['load']:>5}"
        )
    found = dict(rows)
    for name, row in rows:
        settled = found.get(name.replace(f", {PEER}", ", settled"))
        if settled is not None and PEER in name:
            lines.append(
                f"{row['hosts']} hosts, settled, take {settled['seconds'] / row['seconds']:.2f} of the time of {PEER}."
            )
    return lines


def has_peer() -> bool:
    """Whether the collection path has the other role."""
    found = subprocess.run(
        ["ansible-doc", "-t", "role", "-l", PEER.rpartition(".")[0]], capture_output=True, text=True, check=False
    )
    return found.returncode == 0 and PEER in found.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=int, nargs="+", default=[1, 10], help="numbers of real hosts")
    parser.add_argument("--replayed", type=int, nargs="*", default=[10, 100, 1000], help="numbers of replayed hosts")
    parser.add_argument("--pairs", type=int, default=1, help=f"settled runs beside runs of {PEER}, in turn")
    parser.add_argument("--no-full", action="store_true", help="no full runs on real hosts")
    parser.add_argument("--at-once", type=int, default=MOST_REAL, help="real hosts that are deployed to at a time")
    parser.add_argument("--first", type=int, default=FIRST, help="last number of the first host's address")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--keep", action="store_true", help="leave the test hosts")
    args = parser.parse_args()
    if max(args.real) > MOST_REAL or min(args.real) < 1:
        raise StageError(f"--real takes 1 to {MOST_REAL} hosts.")
    if args.at_once < 1:
        raise StageError("--at-once takes 1 host or more.")
    stages = Stages("bench")
    os.environ.update(PATH=f"{demo.VENV / 'bin'}:{os.environ['PATH']}", ANSIBLE_CONFIG=str(REPO / "ansible.cfg"))
    peer = has_peer()
    if args.pairs and not peer:
        stages.say(f"SKIPPED: {PEER} is not in the collection path; install fedora.linux_system_roles for the peer.")
    demo.preflight()
    demo.testbed(stages)
    demo.images(stages)
    demo.checkpoint(stages)
    with tempfile.TemporaryDirectory() as scratch:
        scale = Scale(stages, Path(scratch), max(args.real), args.first)
        try:
            scale.up(args.at_once)
            rows = measured(scale, args.real, args.replayed, args.pairs if peer else 0, not args.no_full)
        finally:
            if not args.keep:
                scale.down()
    print("\n".join(table(rows)))
    if args.json:
        args.json.write_text(json.dumps(dict(rows), indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard("bench", main))
