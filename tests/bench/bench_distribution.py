#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast an engine gets from host to host, as ratios within one run: a table, and JSON with --json.

One copy over loopback against rsync and scp: seconds, and seconds of the processor of both sides together. rsync and
scp prove nothing; with a sha256sum of what arrived they do. Then one source with a card of --rate, which one and four
hosts receive from: how much longer four take, and how often the source sends the engine. Beside it stands the least
that this machine could do with the same bytes: a bare relay, in which each host hashes, writes and passes on every
byte at once, without pieces, resumption or a second source.

All hosts are on this machine. --rate is such that its cores, which all of them share, are not the limit; where they
are, and without a limit, only the comparison with the bare relay says anything.

Needs about seven times --size of disk. Without rsync, or sshd, what needs it is left out and named.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "collections"), str(REPO / "tests")]

from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.pieces import BLOCK, pieces_of
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.serve import Bucket
from unit.transfer_fakes import FINGERPRINT, NAME, Process, free_port, store_of

MB = 1 << 20
FILES = 4
HOSTS = 4
ADDRESS = "127.0.0.1"


@dataclass
class Row:
    """One line of the table. *ratio* compares with *against*; *goal* is what it should be."""

    what: str
    value: str
    against: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


@dataclass
class Cost:
    """What a copy took, both sides together."""

    seconds: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.cpu:.1f} CPU s"


def cpu() -> float:
    """Seconds of the processor that ended children took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def engine(home: Path, size: int) -> int:
    """An engine of *size* MiB in a few files on the disk; its bytes."""
    store = store_of(home)
    staging = store.staging(NAME, FINGERPRINT)
    for number in range(FILES):
        with open(staging / f"rank{number}.engine", "wb") as stream:
            for _ in range(size // FILES):
                stream.write(os.urandom(MB))
    store.publish(NAME, FINGERPRINT, {})
    return pieces_of(store, NAME, FINGERPRINT).size


def identity(home: Path) -> str:
    return pieces_of(store_of(home), NAME, FINGERPRINT).identity


def chain(root: Path, source: Path, hosts: int, rate: int) -> tuple[Cost, int]:
    """The engine to *hosts*, each from the one before it or from the source; and the bytes that the source sent."""
    wanted, before = identity(source), cpu()
    sender = Process(source, address=ADDRESS, port=free_port(), rate=rate, time_limit=900)
    first = str(sender.until("serving", seconds=120)["url"])
    begun, url, receivers = time.monotonic(), first, []
    for number in range(hosts):
        home, port = root / f"host{number}", free_port()
        relay = {"address": ADDRESS, "port": port, "rate": rate} if number + 1 < hosts else {}
        receivers.append(
            Process(home, sources=list(dict.fromkeys([url, first])), pieces=wanted, time_limit=900, **relay)
        )
        url = f"http://{ADDRESS}:{port}"
    for receiver in receivers:
        status = receiver.until("published", "failed", seconds=900)
        if status["state"] != "published":
            raise SystemExit(f"bench: {status['message']}")
    seconds = time.monotonic() - begun
    for process in [*receivers, sender]:
        process.process.terminate()
        process.process.communicate()
    sent = sender.status()["sent"]
    for number in range(hosts):
        shutil.rmtree(root / f"host{number}")
    assert isinstance(sent, int)
    return Cost(seconds, cpu() - before), sent


def bare_source(place: Path, url: tuple[str, int], rate: int) -> None:
    """Send all files as one stream."""
    bucket = Bucket(rate)
    with socket.create_connection(url) as out:
        for path in sorted(place.rglob("rank*")):
            with open(path, "rb") as stream:
                at = 0
                while count := out.sendfile(stream, at, bucket.chunk):
                    at += count
                    bucket.take(count)


def bare_host(listener: socket.socket, target: Path, onwards: tuple[str, int] | None, rate: int) -> None:
    """Hash, write and pass on what comes, at once."""
    digest, view, bucket = hashlib.sha256(), memoryview(bytearray(BLOCK)), Bucket(rate)
    with contextlib.ExitStack() as held:
        out = held.enter_context(socket.create_connection(onwards)) if onwards else None
        connection = held.enter_context(listener.accept()[0])
        stream = held.enter_context(open(target, "wb", buffering=0))
        while count := connection.recv_into(view):
            digest.update(view[:count])
            stream.write(view[:count])
            if out is not None:
                out.sendall(view[:count])
                bucket.take(count)
        os.fsync(stream.fileno())


def bare(root: Path, place: Path, hosts: int, rate: int) -> Cost:
    """The same bytes through a bare relay of *hosts*."""
    before, begun, fork = cpu(), time.monotonic(), multiprocessing.get_context("fork")
    listeners = [socket.create_server((ADDRESS, 0)) for _ in range(hosts)]
    urls = [listener.getsockname() for listener in listeners]
    targets = [root / f"bare{number}" for number in range(hosts)]
    processes = [
        fork.Process(target=bare_host, args=(listeners[number], targets[number], onwards, rate))
        for number, onwards in enumerate([*urls[1:], None])
    ]
    processes.append(fork.Process(target=bare_source, args=(place, urls[0], rate)))
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0, "the bare relay has failed"
    seconds = time.monotonic() - begun
    for listener, target in zip(listeners, targets):
        listener.close()
        assert target.stat().st_size >= sum(path.stat().st_size for path in place.rglob("rank*"))
        target.unlink()
    return Cost(seconds, cpu() - before)


def command(argv: list[str], target: Path) -> Cost:
    """What a command takes that copies to *target*, and what it takes to prove what arrived."""
    target.mkdir()
    before, begun = cpu(), time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    os.sync()
    files = sorted(str(path) for path in target.rglob("rank*"))
    assert len(files) == FILES, "the command has copied something else"
    subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
    cost = Cost(time.monotonic() - begun, cpu() - before)
    shutil.rmtree(target)
    return cost


@contextlib.contextmanager
def daemon(argv: list[str]) -> Iterator[None]:
    """A server that runs meanwhile."""
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    time.sleep(1)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def rsync_daemon(root: Path, source: Path) -> Cost:
    """By rsync's own protocol, without ssh."""
    port, settings = free_port(), root / "rsyncd.conf"
    settings.write_text(f"use chroot = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n[engine]\npath = {source}\n")
    argv = ["rsync", "--daemon", "--no-detach", f"--config={settings}", f"--address={ADDRESS}", f"--port={port}"]
    before = cpu()
    with daemon(argv):
        target = root / "rsync"
        cost = command(["rsync", "-a", "--whole-file", f"rsync://{ADDRESS}:{port}/engine/", f"{target}/"], target)
    return Cost(cost.seconds, cpu() - before)  # the daemon's share is known when it has ended


def over_ssh(root: Path, source: Path, sshd: str) -> dict[str, Cost]:
    """scp, and rsync over ssh, with the ciphers that they choose."""
    port, home = free_port(), root / "ssh"
    home.mkdir(mode=0o700)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / key)], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    (home / "sshd_config").write_text(
        f"ListenAddress {ADDRESS}\nPort {port}\nHostKey {home}/host\nAuthorizedKeysFile {home}/user.pub\n"
        f"StrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\nSubsystem sftp internal-sftp\n"
    )
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    options += ["-o", "IdentitiesOnly=yes", "-i", f"{home}/user"]
    user = os.environ.get("USER") or "root"
    copies = {"scp": ["scp", "-r", *options, "-P", str(port), f"{user}@{ADDRESS}:{source}/.", f"{root}/scp"]}
    if shutil.which("rsync"):
        shell = " ".join(["ssh", *options, "-p", str(port)])
        copies["rsync over ssh"] = [
            "rsync", "-a", "--whole-file", "-e", shell, f"{user}@{ADDRESS}:{source}/", f"{root}/rsync over ssh/",
        ]  # fmt: skip
    found = {}
    for name, argv in copies.items():
        before = cpu()
        with daemon([sshd, "-D", "-f", str(home / "sshd_config")]):
            cost = command(argv, root / name)
        found[name] = Cost(cost.seconds, cpu() - before)
    return found


def measure(root: Path, size: int, rate: int) -> list[Row]:
    source = root / "source"
    total = engine(source, size)
    place = store_of(source).path(NAME, FINGERPRINT)
    one, sent = chain(root, source, 1, 0)
    rows = [Row(f"one copy of {total / MB:.0f} MiB, verified", str(one)), *against(root, place, one)]
    single, _ = chain(root, source, 1, rate)
    many, sent = chain(root, source, HOSTS, rate)
    bare_one, bare_many = bare(root, place, 1, rate), bare(root, place, HOSTS, rate)
    free_many, _ = chain(root, source, HOSTS, 0)
    bare_free = bare(root, place, HOSTS, 0)
    ratio = many.seconds / single.seconds
    share = sent / total
    rows += [
        Row(f"{HOSTS} hosts, senders held to {rate / MB:.0f} MiB/s", str(many), f"one host: {single}", ratio,
            "<= 1.6", ratio <= 1.6),
        Row("", "", f"bare relay, {HOSTS} hosts: {bare_many}", many.seconds / bare_many.seconds),
        Row(f"bare relay, {HOSTS} hosts", str(bare_many), f"one host: {bare_one}",
            bare_many.seconds / bare_one.seconds),
        Row(f"{HOSTS} hosts, no limit", str(free_many), f"bare relay: {bare_free}",
            free_many.seconds / bare_free.seconds),
        Row("", "", f"one host: {one}", free_many.seconds / one.seconds),
        Row("sent by the source", f"{sent / MB:.0f} MiB", f"the engine times {HOSTS}: {total * HOSTS / MB:.0f} MiB",
            sent / (total * HOSTS)),
        Row("", "", "the engine once", share, "<= 1.3", share <= 1.3),
    ]  # fmt: skip
    return rows


def against(root: Path, place: Path, one: Cost) -> Iterator[Row]:
    """The same copy by the tools that every host could have."""
    costs: dict[str, Cost] = {}
    if shutil.which("rsync"):
        costs["rsync daemon"] = rsync_daemon(root, place)
    else:
        yield Row("", "", "rsync: left out, it is not installed (apt-get install rsync)")
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if sshd and shutil.which("scp"):
        costs.update(over_ssh(root, place, sshd))
    else:
        yield Row("", "", "scp: left out, there is no sshd (apt-get install openssh-server)")
    for name, cost in costs.items():
        yield Row("", "seconds", f"{name} and sha256sum: {cost}", cost.seconds / one.seconds)
        yield Row("", "processor", "", cost.cpu / one.cpu)


def table(rows: list[Row]) -> str:
    """The rows as text, columns aligned."""
    cells = [
        [row.what, row.value, row.against, f"{row.ratio:,.2f} x" if row.ratio is not None else "", row.goal,
         {True: "yes", False: "NO", None: ""}[row.met]]
        for row in rows
    ]  # fmt: skip
    cells.insert(0, ["measured", "", "against", "ratio", "goal", "met"])
    widths = [max(len(line[column]) for line in cells) for column in range(6)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where the copies go (a real disk)")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the engine")
    parser.add_argument("--rate", type=int, default=48, help="MiB a second of each sender's card, for the chain")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-distribution-", dir=arguments.dir) as scratch:
        rows = measure(Path(scratch), arguments.size, arguments.rate * MB)
    print(table(rows))
    if arguments.json:
        facts = {"cores": len(os.sched_getaffinity(0)), "size": arguments.size, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if all(row.met is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
