#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change of a fleet that serves costs: a table, and JSON with --json.

    tests/bench/bench_fleet.py [--hosts 3] [--seconds 30] [--size 256] [--json FILE] [--keep]

Test hosts that serve one model, and one with the gateway, are brought up and deployed. Then an engine option is rolled
through them, the first host alone and the others together, while the official client asks the gateway the whole time:
seconds of each host and in all, answers a second before, during and after, what failed, and how often the builder and
those that hand it on sent the engine. Last, an engine of --size MiB is copied host to host, by rsync and by scp
(bench_distribution.py), in the same run.

All hosts share the cores of this machine, with the client and with Ansible: what is told of answers a second is what
such a machine does, and only before, during and after compare.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "tools"), str(Path(__file__).resolve().parent)]

import demo
from _stages import StageError, Stages, main_guard
from bench_distribution import MB, Row, against, chain, engine, store_of, table
from unit.transfer_fakes import FINGERPRINT, NAME

NET = "10.200.0."
FIRST, GATEWAY = 240, 249  # last numbers of the hosts' addresses
SERIAL = [1, "100%"]  # the builder, and all that receive from it, one from the other
PAUSE = 0.3  # seconds between two questions of a client; there are two
BEFORE, AFTER = 8, 4  # max_batch_size
TASK = re.compile(r"^TASK \[.*\] \**$", re.MULTILINE)
SENT = re.compile(r'"?sent"?: (\d+)')
# Tasks that end the senders: of the builder, and of those that hand on what they receive.
SENDERS = {"the builder": "is handed out any more", "the others": "is handed on any more"}
SIZE = "du -sb --exclude=manifest.json /var/lib/trtllm/engines/*/* | sort -n | tail -1 | cut -f1"


class Fleet:
    """The hosts, their inventory and what is run on them."""

    def __init__(self, stages: Stages, scratch: Path, hosts: int) -> None:
        self.stages, self.scratch, self.journal = stages, scratch, scratch / "rollouts.jsonl"
        # of its own, as Ansible reads all files there
        self.inventory = scratch / "inventory"
        self.serving = {f"bfl{index + 1}": f"{NET}{FIRST + index}" for index in range(hosts)}
        self.gateway = {"bgw1": f"{NET}{GATEWAY}"}
        self.url = f"http://{NET}{GATEWAY}:3000"

    def up(self) -> None:
        """Boot the hosts, and write the inventory."""
        everyone = [f"{name}={address}" for name, address in {**self.serving, **self.gateway}.items()]
        self.stages.run("hosts", [demo.TESTBED, "up", *everyone], f"booting {len(everyone)} test hosts")
        groups = {"gpu_hosts": self.serving, "gateway_hosts": self.gateway}
        hosts = {
            group: {"hosts": {name: {"ansible_host": address} for name, address in members.items()}}
            for group, members in groups.items()
        }
        self.inventory.mkdir()
        (self.inventory / "hosts.yml").write_text(json.dumps({"all": {"children": hosts}}), encoding="utf-8")
        (self.inventory / "group_vars").symlink_to(REPO / "inventories" / "demo" / "group_vars")

    def down(self) -> None:
        """Remove the hosts."""
        self.stages.run("hosts", [demo.TESTBED, "down", *self.serving, *self.gateway], "removing the test hosts")

    def play(self, name: str, batch: int) -> tuple[str, float]:
        """Run a playbook with that max_batch_size; what it said, and the seconds."""
        model = {
            "name": demo.MODEL,
            "checkpoint": {"source": "path", "path": "{{ demo_cache }}/demo/tiny-llama"},
            "engine": {"dtype": "float32", "max_batch_size": batch, "max_input_len": 256, "max_seq_len": 512},
            "serving": {"replicas": [{"gpus": [0]}]},
        }
        variables = {"trtllm_models": [model], "rollout_serial": SERIAL, "rollout_journal": str(self.journal)}
        argv = ["ansible-playbook", "-v", "-i", str(self.inventory), f"playbooks/{name}", "-e", json.dumps(variables)]
        self.stages.say(f"running {name} with max_batch_size {batch}")
        begin = time.monotonic()
        done = subprocess.run(argv, cwd=REPO, text=True, capture_output=True, check=False)
        if done.returncode:
            raise StageError(f"{name} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
        return done.stdout, time.monotonic() - begin

    @contextlib.contextmanager
    def asked(self, seconds: float = 0.0) -> Iterator[dict[str, Any]]:
        """Clients ask while the block runs, or for *seconds*; their counts are in the dictionary afterwards."""
        out, until = self.scratch / "load.json", self.scratch / "load.end"
        until.unlink(missing_ok=True)
        argv = [str(demo.PYTHON), str(REPO / "molecule" / "shared" / "load.py"), f"--model={demo.MODEL}"]
        argv += [f"--pause={PAUSE}", f"--out={out}", f"--until={until}", f"--seconds={seconds or 1800}", self.url]
        begin = time.monotonic()
        clients = subprocess.Popen(argv)
        found: dict[str, Any] = {}
        try:
            yield found
        finally:
            if not seconds:
                until.touch()
            clients.wait()
        found.update(json.loads(out.read_text(encoding="utf-8")), seconds=time.monotonic() - begin)

    def steps(self) -> list[dict[str, Any]]:
        """The hosts that passed their gate, in their order."""
        lines = self.journal.read_text(encoding="utf-8").splitlines()
        return [step for step in map(json.loads, lines) if step["step"] == "passed"]

    def engine_size(self) -> int:
        """Bytes of one engine, as they are sent."""
        argv = [demo.TESTBED, "exec", next(iter(self.serving)), "--", "sh", "-c", SIZE]
        return int(subprocess.run(argv, text=True, capture_output=True, check=True).stdout)


def answered(found: dict[str, Any]) -> tuple[str, float, int]:
    """What is told of a load: a text, answers a second, and how many failed."""
    count, failed = found["whole"] + found["stream"], found["whole_failed"] + found["stream_failed"]
    rate = count / found["seconds"]
    return f"{rate:.1f} answers/s, {failed} of {count} failed", rate, failed


def sent(said: str, sender: str) -> int:
    """Bytes of engines that hosts told they had sent, by what a playbook said."""
    names = [name.group() for name in TASK.finditer(said)]
    return sum(
        int(count)
        for name, told in zip(names, TASK.split(said)[1:])
        if SENDERS[sender] in name
        for count in SENT.findall(told)
    )


def rolled(fleet: Fleet, seconds: float) -> list[Row]:
    """Before, during and after a change of the engine."""
    fleet.play("site.yml", BEFORE)
    with fleet.asked(seconds) as before:
        pass
    with fleet.asked() as during:
        said, took = fleet.play("rollout.yml", AFTER)
    with fleet.asked(seconds) as after:
        pass
    steps, size, count = fleet.steps(), fleet.engine_size(), len(fleet.serving)
    (first, rate, _), (second, slower, failed), (third, again, _) = map(answered, (before, during, after))
    each = [Row(f"  {step['host']}, its turn", f"{step['seconds']:.0f} s") for step in steps]
    from_builder, from_others = (sent(said, sender) for sender in SENDERS)
    return [
        Row(f"rollout of {count} hosts", f"{took:.0f} s, {took / count:.0f} s a host"),
        *each,
        Row("before", first),
        Row("during", second, "before", slower / rate, "0 failed", failed == 0),
        Row("after", third, "before", again / rate),
        Row("sent by the builder", f"{from_builder / MB:.1f} MiB", f"engine of {size / MB:.1f} MiB times {count} hosts",
            from_builder / (size * count), f"<= 1.3 / {count}", 0 < from_builder <= 1.3 * size),
        Row("sent by those that handed it on", f"{from_others / MB:.1f} MiB", "the engine times hosts",
            from_others / (size * count)),
    ]  # fmt: skip


def copied(root: Path, size: int) -> list[Row]:
    """One copy of an engine, against rsync and scp."""
    source = root / "source"
    total = engine(source, size)
    one, _ = chain(root, source, 1, 0)
    place = store_of(source).path(NAME, FINGERPRINT)
    return [Row(f"one copy of {total / MB:.0f} MiB, verified", str(one)), *against(root, place, one)]


def bench(arguments: argparse.Namespace) -> int:
    stages = Stages("bench")
    demo.preflight()
    demo.testbed(stages)
    demo.images(stages)
    demo.checkpoint(stages)
    os.environ.update(ANSIBLE_NOCOLOR="1", ANSIBLE_FORCE_COLOR="0")
    with tempfile.TemporaryDirectory(prefix="bench-fleet-", dir=arguments.dir) as scratch:
        fleet = Fleet(stages, Path(scratch), arguments.hosts)
        fleet.up()
        try:
            rows = rolled(fleet, arguments.seconds)
        finally:
            if not arguments.keep:
                fleet.down()
        rows += copied(Path(scratch), arguments.size)
    print(table(rows))
    if arguments.json:
        facts = {"cores": len(os.sched_getaffinity(0)), "hosts": arguments.hosts, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row.met is not False for row in rows) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, default=3, help="hosts that serve, 2 to 9")
    parser.add_argument("--seconds", type=float, default=30, help="of the load before and after the change")
    parser.add_argument("--size", type=int, default=256, help="MiB of the engine that is copied")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where copies go (a real disk)")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--keep", action="store_true", help="leave the hosts for a look")
    arguments = parser.parse_args()
    if not 2 <= arguments.hosts <= 9:
        parser.error(f"--hosts is {arguments.hosts}; it takes 2 to 9.")
    return main_guard("bench", lambda: bench(arguments))


if __name__ == "__main__":
    sys.exit(main())
