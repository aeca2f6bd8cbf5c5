#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs to bring a checkpoint from the controller to one host and to four: a table, and JSON with --json.

    tests/bench/bench_checkpoint.py [--size 1024] [--hosts 4] [--json FILE] [--keep]

The role checkpoint sends it to one host, and the others receive it from host to host, verified; beside it stand
ansible.builtin.copy, scp and rsync, which send it to each host from the controller. For each: seconds, seconds of the
processor of the whole machine (all hosts are on it, and what else runs counts too), bytes that the controller's
processes read for each byte that a host has afterwards (what ssh reads of its own pipe counts as well), and the largest
process.

Needs about (--hosts + 2) times --size of disk. What hosts lack, such as rsync, is left out and named.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
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
sys.path[:0] = [str(REPO / "tools"), str(Path(__file__).resolve().parent)]

import demo
from _stages import VENV, Stages, main_guard
from bench_distribution import MB, Row, table

NET, FIRST = "10.200.0.", 204
SHARDS = 4
PLACE = "/var/lib/trtllm/checkpoints"
PLAY = """\
- hosts: gpu_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: trtllm.fleet.checkpoint}
      vars: {checkpoint_models: [{name: big, path: SOURCE}]}
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
            f"{self.seconds:.1f} s, {self.cpu:.0f} CPU s, {self.read / size:.2f} bytes read for each, "
            f"{self.largest / 1e3:.0f} MB"
        )


def busy() -> float:
    """Seconds that the machine's cores worked."""
    words = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:]
    return (sum(map(int, words)) - int(words[3]) - int(words[4])) / os.sysconf("SC_CLK_TCK")


def read() -> int:
    """Bytes that this process and its ended children have read, of files and of pipes."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


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


class Bench:
    """The hosts, and the ways to bring a checkpoint to them."""

    def __init__(self, stages: Stages, scratch: Path, hosts: int) -> None:
        self.stages, self.scratch, self.source = stages, scratch, scratch / "source"
        self.hosts = {f"bck{number + 1}": f"{NET}{FIRST + number}" for number in range(hosts)}
        self.ssh = scratch / "ssh_config"

    def up(self) -> None:
        """Boot the hosts."""
        everyone = [f"{name}={address}" for name, address in self.hosts.items()]
        self.stages.run("hosts", [demo.TESTBED, "up", *everyone], f"booting {len(everyone)} test hosts")
        self.ssh.write_bytes(subprocess.check_output([demo.TESTBED, "ssh-config", *self.hosts]))
        play = PLAY.replace("SOURCE", str(self.source)).replace("PLACE", PLACE)
        (self.scratch / "play.yml").write_text(play, encoding="utf-8")

    def down(self) -> None:
        """Remove them."""
        self.stages.run("hosts", [demo.TESTBED, "down", *self.hosts], "removing the test hosts")

    def on(self, host: str, *argv: str) -> int:
        """Run a command on a host; its exit code."""
        return subprocess.run(
            [demo.TESTBED, "exec", host, "--", *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        ).returncode

    def ansible(self, how: str) -> Callable[[list[str]], list[list[str]]]:
        """A play."""

        def commands(hosts: list[str]) -> list[list[str]]:
            where = self.scratch / "hosts.yml"
            where.write_bytes(subprocess.check_output([demo.TESTBED, "inventory", "--group", "gpu_hosts", *hosts]))
            play = str(self.scratch / "play.yml")
            return [["ansible-playbook", "-i", str(where), play, "-e", f"how={how}"]]

        return commands

    def scp(self, hosts: list[str]) -> list[list[str]]:
        return [["scp", "-q", "-F", str(self.ssh), "-r", f"{self.source}/.", f"{host}:{PLACE}/big/"] for host in hosts]

    def rsync(self, hosts: list[str]) -> list[list[str]]:
        shell = f"ssh -F {self.ssh}"
        return [["rsync", "-a", "-W", "-e", shell, f"{self.source}/", f"{host}:{PLACE}/big/"] for host in hosts]

    def measured(self, ways: Callable[[list[str]], list[list[str]]], hosts: list[str]) -> Cost:
        """One way, to *hosts* at the same time."""
        for host in hosts:
            self.on(host, "sh", "-c", f"rm -rf {PLACE}; mkdir -p {PLACE}")
            if ways in (self.scp, self.rsync):
                self.on(host, "mkdir", f"{PLACE}/big")
        os.sync()
        shutil.rmtree(self.scratch / "cache", ignore_errors=True)
        environment = {
            **os.environ,
            "TRTLLM_FLEET_CACHE": str(self.scratch / "cache"),
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
        }
        begin, worked, had = time.monotonic(), busy(), read()
        running = [
            subprocess.Popen(argv, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for argv in ways(hosts)
        ]
        said = [process.communicate()[0] for process in running]
        os.sync()
        cost = Cost(
            time.monotonic() - begin,
            busy() - worked,
            read() - had,
            resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        )
        for process, words in zip(running, said):
            if process.returncode:
                raise SystemExit(f"bench: {process.args!r} failed:\n{words.decode()[-3000:]}")
        last = sorted(path.name for path in self.source.iterdir())[-1]
        for host in hosts:
            assert self.on(host, "test", "-s", f"{PLACE}/big/{last}") == 0, f"{host} has nothing"
        return cost


def measure(bench: Bench, size: int) -> list[Row]:
    """All ways, to one host and to all of them."""
    total = checkpoint(bench.source, size)
    names = list(bench.hosts)
    ways = {
        "role checkpoint, verified": bench.ansible("role"), "ansible.builtin.copy": bench.ansible("copy"),
        "scp": bench.scp, "rsync over ssh": bench.rsync,
    }  # fmt: skip
    rows, ours = [], Cost(0, 0, 0, 0)
    for name, way in ways.items():
        if way == bench.rsync and (not shutil.which("rsync") or bench.on(names[0], "sh", "-c", "command -v rsync")):
            rows.append(Row(name, "left out: the controller or the hosts have no rsync"))
            continue
        one, many = bench.measured(way, names[:1]), bench.measured(way, names)
        is_ours = not rows
        ours = many if is_ours else ours
        ratio, goal = many.seconds / one.seconds, "< 1.5" if is_ours else ""
        rows += [
            Row(f"{name}, one host", one.words(total), f"{total / MB:.0f} MiB"),
            Row(f"  {len(names)} hosts", many.words(total * len(names)), "one host", ratio, goal,
                ratio < 1.5 if is_ours else None),
        ]  # fmt: skip
        if not is_ours:
            rows.append(Row("", "", f"the role, {len(names)} hosts", many.seconds / ours.seconds))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where the checkpoint is made (a real disk)")
    parser.add_argument("--hosts", type=int, default=4, help="test hosts")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--keep", action="store_true", help="leave the test hosts")
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
        rows = measure(bench, arguments.size * MB)
    print(table(rows))
    if arguments.json:
        facts = {"cores": len(os.sched_getaffinity(0)), "size": arguments.size, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if all(row.met is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main_guard("bench", main))
