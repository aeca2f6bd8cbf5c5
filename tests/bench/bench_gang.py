#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs that the ranks of a replica are on two hosts: a table, and JSON with --json.

    tests/bench/bench_gang.py [--rounds 3] [--blow BLOW ...] [--minutes 20] [--json FILE] [--keep]

Three test hosts are brought up and deployed: a replica with one rank on each of two hosts, and one with the same two
ranks on the third. Each round stops and starts both, in turn: seconds until `systemctl stop` is back, and from
`systemctl start` to the first token. Then the first is struck as in molecule/multinode (molecule/shared/blows.py):
seconds until the blow is noticed, and until clients have a token again. Each figure is told as it is measured; where
one cannot be had, or --minutes are over, those before it are in the table all the same.

All hosts share the cores of this machine: what is told of seconds is what such a machine does, and only the columns of
one run compare.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "tools"), str(REPO / "molecule" / "shared"), str(Path(__file__).resolve().parent)]

import demo
from _stages import StageError, Stages, main_guard
from bench_distribution import Row, table
from blows import BLOWS, PATIENCE, Replica, since

HOSTS = {"bgg1": "10.200.0.229", "bgg2": "10.200.0.230", "bgg3": "10.200.0.231"}
SPREAD, TOGETHER = ("bgg1", "bgg2"), ("bgg3",)
RANKS = 2
UNIT = f"triton-{demo.MODEL}-0"


def variables(nodes: tuple[str, ...]) -> dict[str, object]:
    """The same engine of two ranks, on those hosts."""
    replica: dict[str, object] = {"nodes": list(nodes), "gpus": [0]} if len(nodes) > 1 else {"gpus": list(range(RANKS))}
    model = {
        "name": demo.MODEL,
        "checkpoint": {"source": "path", "path": "{{ demo_cache }}/demo/tiny-llama"},
        "engine": {"dtype": "float32", "tp_size": RANKS, "max_batch_size": 8, "max_input_len": 256, "max_seq_len": 512},
        "serving": {"replicas": [replica]},
    }
    return {"trtllm_models": [model], "trtllm_triton_address": "{{ ansible_host }}", "trtllm_gateway": False}


class Bench:
    """The hosts, and both replicas."""

    def __init__(self, stages: Stages, scratch: Path) -> None:
        self.stages, self.scratch = stages, scratch
        self.spread, self.together = (
            Replica(str(demo.TESTBED), f"http://{HOSTS[nodes[0]]}:8000", UNIT, nodes) for nodes in (SPREAD, TOGETHER)
        )

    def up(self) -> None:
        """Boot the hosts and deploy both replicas."""
        names = [f"{name}={address}" for name, address in HOSTS.items()]
        self.stages.run("hosts", [demo.TESTBED, "up", *names], f"booting {len(HOSTS)} test hosts")
        inventory = self.scratch / "inventory"
        inventory.mkdir()
        # Of each host, as variables of groups give way to the demo's, which has a model of that name with one rank.
        hosts = {
            name: {"ansible_host": HOSTS[name], **variables(nodes)} for nodes in (SPREAD, TOGETHER) for name in nodes
        }
        described = {"all": {"children": {"gpu_hosts": {"hosts": hosts}}}}
        (inventory / "hosts.yml").write_text(json.dumps(described), encoding="utf-8")
        (inventory / "group_vars").symlink_to(REPO / "inventories" / "demo" / "group_vars")
        argv = ["ansible-playbook", "-i", str(inventory), "playbooks/site.yml"]
        argv += ["-e", json.dumps({"rollout_journal": str(self.scratch / "rollouts.jsonl")})]
        self.stages.run("site.yml", argv, "deploying both replicas")
        for replica in (self.spread, self.together):
            self.judge_ranks(replica)

    @staticmethod
    def judge_ranks(replica: Replica) -> None:
        """Raise StageError where the ranks are not as many on each node as described: other figures would be no use."""
        names = f"for pid in $({replica.own} tritonserver); do tr '\\0' '\\n' < /proc/$pid/environ; done"
        command = f"{names} | sed -n 's/^OMPI_COMM_WORLD_RANK=//p' | sort --unique"
        found = {node: replica.on(node, command).split() for node in replica.nodes}
        share = RANKS // len(replica.nodes)
        described = {
            node: [str(number * share + rank) for rank in range(share)] for number, node in enumerate(replica.nodes)
        }
        if found != described:
            raise StageError(f"The ranks of {replica.unit} by node are {found}, and should be {described}.")

    def down(self) -> None:
        """Remove the hosts."""
        self.stages.run("hosts", [demo.TESTBED, "down", *HOSTS], "removing the test hosts")

    def stop(self, replica: Replica) -> float:
        """Stop it on its leader: the seconds. Raises StageError where ranks are left."""
        begun = time.monotonic()
        replica.on(replica.nodes[0], f"systemctl stop {replica.unit}", PATIENCE)
        seconds = time.monotonic() - begun
        if since(begun, lambda: not replica.ranks(), PATIENCE) is None:
            left = ", ".join(sorted({node for node, _pid in replica.ranks()}))
            raise StageError(f"{left} still have ranks {PATIENCE} s after {replica.unit} was stopped.")
        return seconds

    def start(self, replica: Replica) -> float:
        """Seconds from its start on the leader to a token. Raises StageError where none comes."""
        begun = time.monotonic()
        replica.on(replica.nodes[0], f"systemctl start --no-block {replica.unit}")
        seconds = since(begun, replica.answers, PATIENCE)
        if seconds is None:
            raise StageError(
                f"{replica.unit} on {', '.join(replica.nodes)} gives no token {PATIENCE} s after its start."
            )
        self.judge_ranks(replica)
        return seconds


def compared(name: str, spread: list[float], together: list[float]) -> Row:
    """One row: medians, and their ratio."""
    two, one = median(spread), median(together)
    return Row(
        f"{name}, two hosts", f"{two:.1f} s ({min(spread):.1f} to {max(spread):.1f})",
        f"one host: {one:.1f} s ({min(together):.1f} to {max(together):.1f})", two / one,
    )  # fmt: skip


def measured(bench: Bench, rounds: int, blows: list[str], until: float) -> Iterator[Row]:
    """Starts and stops of both, in turn, and what follows each blow; no more is begun after *until*."""

    def begin(what: str) -> None:
        if time.monotonic() > until:
            raise StageError(f"the time was over before {what}; give fewer --rounds, or more --minutes.")
        bench.stages.say(what)

    stops: dict[Replica, list[float]] = {bench.spread: [], bench.together: []}
    starts: dict[Replica, list[float]] = {bench.spread: [], bench.together: []}
    for number in range(rounds):
        begin(f"round {number + 1} of {rounds}")
        for replica in (bench.spread, bench.together):
            stops[replica].append(bench.stop(replica))
        for replica in (bench.spread, bench.together):
            starts[replica].append(bench.start(replica))
    yield compared("start to first token", starts[bench.spread], starts[bench.together])
    yield compared("stop", stops[bench.spread], stops[bench.together])
    for blow in blows:
        begin(blow)
        found = bench.spread.strike(blow)
        if found["repaired"] is None or found["left"]:
            raise StageError(f"{blow}: not repaired within {PATIENCE} s, or ranks were left: {found}.")
        yield Row(blow, f"noticed after {found['noticed']} s", f"a token after {found['repaired']} s")


def told(rows: list[Row], file: Path | None) -> None:
    """The table, and the same as JSON in a file."""
    print(table(rows), flush=True)
    if file:
        facts = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg(), "rows": [asdict(row) for row in rows]}
        file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def run(arguments: argparse.Namespace) -> int:
    # So that the hosts are removed too where somebody ends it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(f"bench: ended by signal {number}"))
    stages, rows = Stages("bench"), list[Row]()
    demo.own_commands()
    demo.preflight()
    demo.testbed(stages)
    demo.images(stages)
    demo.checkpoint(stages)
    os.environ.update(ANSIBLE_NOCOLOR="1", ANSIBLE_FORCE_COLOR="0")
    with tempfile.TemporaryDirectory(prefix="bench-gang-") as scratch:
        bench = Bench(stages, Path(scratch))
        try:
            bench.up()
            until = time.monotonic() + 60 * arguments.minutes
            for row in measured(bench, arguments.rounds, arguments.blow, until):
                stages.say(f"{row.what}: {row.value}, {row.against}")
                rows.append(row)
        except subprocess.SubprocessError as error:
            raise StageError(f"a test host does not answer: {error}; --keep leaves them for a look.") from None
        finally:
            if rows:
                told(rows, arguments.json)
            if not arguments.keep:
                bench.down()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="starts of each replica")
    parser.add_argument("--minutes", type=float, default=20, help="after which no round and no blow is begun")
    parser.add_argument("--blow", action="append", choices=list(BLOWS), help="one of molecule/shared/blows.py; all")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--keep", action="store_true", help="leave the hosts for a look")
    arguments = parser.parse_args()
    arguments.blow = arguments.blow or list(BLOWS)
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}; it takes 1 or more.")
    return main_guard("bench", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
