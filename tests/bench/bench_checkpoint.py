#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs to bring a checkpoint from the controller to one host and to four: a table, and JSON with --json.

    tests/bench/bench_checkpoint.py [--size 1024] [--rate 32] [--hosts 4] [--alone] [--json FILE] [--keep]

The role checkpoint sends it to one host, and the others receive it from host to host while it arrives there, verified;
beside it stand ansible.builtin.copy, scp and rsync, which send it to each host from the controller, and the least that
there is: the same bytes by `cat` through ssh. For each: seconds, seconds of the processor of the whole machine (all
hosts are on it, and what else runs counts too), how often the controller's processes read each byte of the checkpoint
from the disk, whose page cache has none of it when they begin, and the largest process of the controller. Then the
role once more with every sender held to --rate, such that the cores, which all hosts share, are not the limit: what of
that rate it reaches, and how much longer four hosts take than one. With --alone the role and `cat` alone are measured,
and only to one host where nothing holds them back.

Needs about (--hosts + 2) times --size of disk. rsync is installed on the hosts; where the controller has none, it is
left out and named.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "tools"), str(REPO / "collections"), str(Path(__file__).resolve().parent)]

import demo
from _stages import VENV, StageError, Stages, main_guard
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.pagecache import forget
from bench_distribution import MB, Row, table

NET, FIRST = "10.200.0.", 204
SHARDS = 4
MEGABYTE = 1_000_000  # of rates
PLACE = "/var/lib/trtllm/checkpoints"
PLAY = """\
- hosts: gpu_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: trtllm.fleet.checkpoint}
      vars: {checkpoint_models: [{name: big, path: SOURCE}], checkpoint_transfer_rate: "{{ rate | int }}"}
      when: how == 'role'
    - ansible.builtin.copy: {src: SOURCE/, dest: PLACE/big/, mode: preserve}
      when: how == 'copy'
"""


@dataclass
class Cost:
    """What one way took."""

    seconds: float
    cpu: float
    read: int
    largest: int

    def words(self, size: int) -> str:
        return (
            f"{self.seconds:.1f} s, {self.cpu:.0f} CPU s, {self.read / size:.2f} times from disk, "
            f"{self.largest / MB:.0f} MiB"
        )


def busy() -> float:
    """Seconds that the machine's cores worked."""
    words = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:]
    return (sum(map(int, words)) - int(words[3]) - int(words[4])) / os.sysconf("SC_CLK_TCK")


def read() -> int:
    """Bytes that this process and its ended children have had from disks."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def checkpoint(place: Path, size: int) -> int:
    """A checkpoint with about *size* bytes of weights that no tool can make smaller; its bytes."""
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    names = [f"model-{number:05}-of-{SHARDS:05}.safetensors" for number in range(1, SHARDS + 1)]
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {f"t{n}": n for n in names}}))
    each = size // SHARDS // MB * MB
    for name in names:
        about = {f"t{name}": {"dtype": "U8", "shape": [each], "data_offsets": [0, each]}}
        header = json.dumps(about).encode()
        with open(place / name, "wb") as stream:
            stream.write(struct.pack("<Q", len(header)) + header)
            for _ in range(each // MB):
                stream.write(os.urandom(MB))
    return sum(path.stat().st_size for path in place.iterdir())


# Hosts -> what is run for them, all at the same time.
Way = Callable[[list[str]], list[list[str]]]


class Bench:
    """The hosts, and the ways to bring a checkpoint to them."""

    def __init__(self, stages: Stages, scratch: Path, hosts: int) -> None:
        self.stages, self.scratch, self.source = stages, scratch, scratch / "source"
        self.hosts = {f"bck{number + 1}": f"{NET}{FIRST + number}" for number in range(hosts)}
        self.ssh, self.has_rsync = scratch / "ssh_config", shutil.which("rsync") is not None

    def up(self) -> None:
        """Boot the hosts."""
        everyone = [f"{name}={address}" for name, address in self.hosts.items()]
        self.stages.run("hosts", [demo.TESTBED, "up", *everyone], f"booting {len(everyone)} test hosts")
        self.ssh.write_bytes(subprocess.check_output([demo.TESTBED, "ssh-config", *self.hosts]))
        play = PLAY.replace("SOURCE", str(self.source)).replace("PLACE", PLACE)
        (self.scratch / "play.yml").write_text(play, encoding="utf-8")
        for host in self.hosts if self.has_rsync else ():
            self.on(host, "apt-get update && apt-get install --yes --no-install-recommends rsync")

    def down(self) -> None:
        """Remove them."""
        self.stages.run("hosts", [demo.TESTBED, "down", *self.hosts], "removing the test hosts")

    def on(self, host: str, script: str) -> None:
        """Run a script on a host."""
        said = subprocess.run(
            [demo.TESTBED, "exec", host, "--", "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if said.returncode:
            raise StageError(f"{host}: {script!r} failed: {said.stdout.decode()[-1000:]}")

    def play(self, how: str, rate: int = 0) -> Way:
        """By Ansible; each sender sends at most *rate* MB a second."""

        def commands(hosts: list[str]) -> list[list[str]]:
            where = self.scratch / "hosts.yml"
            where.write_bytes(subprocess.check_output([demo.TESTBED, "inventory", "--group", "gpu_hosts", *hosts]))
            play = str(self.scratch / "play.yml")
            return [["ansible-playbook", "-i", str(where), play, "-e", f"how={how}", "-e", f"rate={rate}"]]

        return commands

    def cat(self, hosts: list[str]) -> list[list[str]]:
        """Nothing but the bytes."""
        return [
            ["sh", "-c", f"cat {self.source}/*.safetensors | ssh -F {self.ssh} {host} 'cat > {PLACE}/big/all'"]
            for host in hosts
        ]

    def scp(self, hosts: list[str]) -> list[list[str]]:
        return [["scp", "-q", "-F", str(self.ssh), "-r", f"{self.source}/.", f"{host}:{PLACE}/big/"] for host in hosts]

    def rsync(self, hosts: list[str]) -> list[list[str]]:
        shell = f"ssh -F {self.ssh}"
        return [["rsync", "-a", "-W", "-e", shell, f"{self.source}/", f"{host}:{PLACE}/big/"] for host in hosts]

    def measured(self, way: Way, hosts: list[str], again: bool = False) -> Cost:
        """One way, to *hosts* at the same time; *again* where all is there already."""
        plain = way in (self.cat, self.scp, self.rsync)
        if not again:
            for host in hosts:
                self.on(host, f"rm -rf {PLACE}; mkdir -p {PLACE}/{'big' if plain else ''}")
            shutil.rmtree(self.scratch / "cache", ignore_errors=True)
        os.sync()
        for path in self.source.iterdir():
            forget(path)
        environment = {
            **os.environ,
            "TRTLLM_FLEET_CACHE": str(self.scratch / "cache"),
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
        }
        commands = way(hosts)
        begin, worked, had, largest = time.monotonic(), busy(), read(), 0
        with open(self.scratch / "log", "w+b") as log:
            running = [
                subprocess.Popen(argv, cwd=REPO, env=environment, stdout=log, stderr=subprocess.STDOUT)
                for argv in commands
            ]
            for process in running:
                # Unlike that of getrusage, this is of the one process and of those that it has waited for.
                _, status, used = os.wait4(process.pid, 0)
                process.returncode, largest = os.waitstatus_to_exitcode(status), max(largest, used.ru_maxrss)
            os.sync()
            cost = Cost(time.monotonic() - begin, busy() - worked, read() - had, largest * 1024)
            log.seek(0)
            said = log.read().decode(errors="replace")
        for process in running:
            if process.returncode:
                raise StageError(f"{process.args!r} failed:\n{said[-3000:]}")
        last = "all" if way == self.cat else sorted(path.name for path in self.source.iterdir())[-1]
        for host in hosts:
            self.on(host, f"test -s {PLACE}/big/{last}")
        return cost


def measure(bench: Bench, size: int, rate: int, alone: bool) -> list[Row]:
    """All ways, to one host and to all of them; the role *alone*, where the network is the limit."""
    total = checkpoint(bench.source, size)
    names = list(bench.hosts)
    role = bench.play("role")
    one = bench.measured(role, names[:1])
    many = one if alone else bench.measured(role, names)
    nothing = bench.measured(role, names[:1] if alone else names, again=True)
    least = bench.measured(bench.cat, names[:1])
    rows = [
        Row("role checkpoint, verified, one host", one.words(total), f"{total / MB:.0f} MiB"),
        *([] if alone else [Row(f"  {len(names)} hosts", many.words(total), "one host", many.seconds / one.seconds)]),
        Row("  again, nothing to do", nothing.words(total)),
        Row("  of what ssh can send", f"{total / MB / one.seconds:.0f} MiB/s",
            f"cat through ssh, one host: {least.words(total)}", least.seconds / one.seconds, ">= 0.95",
            least.seconds / one.seconds >= 0.95),
    ]  # fmt: skip
    ways: dict[str, Way] = (
        {} if alone else {"ansible.builtin.copy": bench.play("copy"), "scp": bench.scp, "rsync over ssh": bench.rsync}
    )
    for name, way in ways.items():
        if way == bench.rsync and not bench.has_rsync:
            rows.append(Row(name, "left out: the controller has no rsync"))
            continue
        other, others = bench.measured(way, names[:1]), bench.measured(way, names)
        rows += [
            Row(f"{name}, one host", other.words(total), "the role, one host", other.seconds / one.seconds),
            Row(f"  {len(names)} hosts", others.words(total), "one host", others.seconds / other.seconds),
            Row("", "", f"the role, {len(names)} hosts", others.seconds / many.seconds),
        ]
    return rows + (throttled(bench, total, rate, nothing) if rate else [])


def throttled(bench: Bench, total: int, rate: int, nothing: Cost) -> list[Row]:
    """The role, where the network is the limit."""
    names, way = list(bench.hosts), bench.play("role", rate)
    one, many = bench.measured(way, names[:1]), bench.measured(way, names)
    least, ratio = total / (rate * MEGABYTE), many.seconds / one.seconds
    share, moving = least / one.seconds, least / (one.seconds - nothing.seconds)
    return [
        Row(
            f"role, senders held to {rate} MB/s, one host",
            one.words(total),
            "the rate",
            share,
            ">= 0.95",
            share >= 0.95,
        ),
        Row("", "", "the rate, without what a run takes that does nothing", moving),
        Row(f"  {len(names)} hosts", many.words(total), "one host", ratio, "< 1.5", ratio < 1.5),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--alone", action="store_true", help="leave out copy, scp and rsync")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where the checkpoint is made (a real disk)")
    parser.add_argument("--hosts", type=int, default=4, help="test hosts")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--keep", action="store_true", help="leave the test hosts")
    parser.add_argument("--rate", type=int, default=32, help="MB a second of each sender at the end; 0 leaves that out")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the checkpoint")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-checkpoint-", dir=arguments.dir) as scratch,
        contextlib.ExitStack() as held,
    ):
        bench = Bench(Stages("bench"), Path(scratch), arguments.hosts)
        if not arguments.keep:
            held.callback(bench.down)
        bench.up()
        rows = measure(bench, arguments.size * MB, arguments.rate, arguments.alone)
    print(table(rows))
    if arguments.json:
        facts = {"cores": len(os.sched_getaffinity(0)), "size": arguments.size, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if all(row.met is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main_guard("bench", main))
