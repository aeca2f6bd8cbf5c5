#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the OpenAI gateway costs, beside a pass-through of forty lines and the bare backend, in the same run.

    tests/bench/bench_gateway.py [--rounds 2] [--requests 600] [--litellm PROGRAM] [--json FILE]

All is on loopback. The backend answers at once, so what is measured is the gateway. Servers, backend and load have a
core each where there are three; with two, backend and load share one. Rounds go through all servers in turn. CPU time
a request is what to compare: on a busy machine the rates are lower bounds. LiteLLM's proxy is in the same run where it
can be installed, or is named; it gets a tenth of the requests.

Then two more questions: what a second worker brings, which takes four cores (with fewer the workers take them from
backend and load, and CPU time tells what they cost), and what a gateway takes from a backend that is the bottleneck,
as an engine is: one that writes a token every 20 ms. A real Triton in its place is measured by molecule's scenario
gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
IMAGE = REPO / "images" / "openai_gateway"
HERE = Path(__file__).resolve().parent / "gateway"
sys.path[:0] = [str(IMAGE), str(IMAGE / "tests"), str(REPO / "tools")]


def cores() -> list[int]:
    """The processors to use: one of each core where that leaves enough, for those of one core slow each other."""
    every = sorted(os.sched_getaffinity(0))
    shared = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    known = {cpu: Path(shared.format(cpu)) for cpu in every}
    first = {file.read_text() if file.exists() else str(cpu): cpu for cpu, file in reversed(known.items())}
    return sorted(first.values()) if len(first) >= ENOUGH else every


ENOUGH = 4  # two workers, backend and load
CORES = cores()
MINE, BACKEND, LOAD = CORES[0], CORES[-2 if len(CORES) > 2 else -1], CORES[-1]
WHOLE_TOKENS, STREAM_TOKENS = 20, 100
PROMPT = "What is machine learning? " * 4
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Case:
    """One kind of load."""

    name: str
    stream: bool
    at_once: int

    @property
    def tokens(self) -> int:
        return STREAM_TOKENS if self.stream else WHOLE_TOKENS


CASES = [Case(f"{'stream' if s else 'whole'}, {n} at once", s, n) for s in (False, True) for n in (1, 16, 128)]


@dataclass
class Measure:
    """What one server did in one case, a value per round."""

    rate: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Server:
    """A process under test."""

    name: str
    port: int
    pid: int
    path: str
    key: str = "none"
    share: int = 1  # of the requests it gets one in so many

    def request(self, case: Case) -> bytes:
        """The bytes of one request."""
        body: dict[str, Any] = {"max_tokens": case.tokens, "stream": case.stream}
        path = self.path
        if path.startswith("/v2"):
            body["text_input"] = PROMPT
            path += "generate_stream" if case.stream else "generate"
        elif path.endswith("/chat/completions"):
            body |= {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}]}
        else:
            body |= {"model": "tiny", "prompt": PROMPT}
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {self.key}\r\n"
        )
        return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data

    def cpu_seconds(self) -> float:
        """CPU time of the process and of its workers so far."""
        workers = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in (self.pid, *workers)]
        return sum(int(fields[11]) + int(fields[12]) for fields in stats) / TICKS


async def client(port: int, request: bytes, work: Iterator[int], first: list[float]) -> None:
    """Send requests over one connection, each after the answer to the one before, as long as there is *work*."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    for _ in work:
        begin = time.monotonic()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise SystemExit(f"bench: {head.decode()} {(await reader.read(500)).decode()}")
        if b"content-length:" in head:
            await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            first.append(time.monotonic() - begin)
            continue
        size = -1
        seen = 0
        while size:
            size = int(await reader.readuntil(b"\r\n"), 16)
            data = await reader.readexactly(size + 2)
            if not seen and b"word" in data:
                seen = 1
                first.append(time.monotonic() - begin)
    writer.close()


def measure(server: Server, case: Case, requests: int, into: Measure) -> None:
    """Put one case to one server."""
    done = max(2 * case.at_once, requests // server.share)
    request = server.request(case)
    first: list[float] = []

    async def load() -> None:
        work = iter(range(done))  # clients take of it as they have time, so that a slow one does not count for all
        await asyncio.gather(*(client(server.port, request, work, first) for _ in range(case.at_once)))

    before, begin = server.cpu_seconds(), time.monotonic()
    asyncio.run(load())
    seconds, cpu = time.monotonic() - begin, server.cpu_seconds() - before
    into.rate.append(done * (case.tokens if case.stream else 1) / seconds)
    into.cpu_us.append(cpu / done * 1e6)
    into.first_ms.append(statistics.median(first) * 1e3)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(name: str, core: int | str, argv: list[str], port: int, path: str, **environment: str) -> Iterator[Server]:
    """Run a server on one core until the block ends."""
    process = subprocess.Popen(
        ["taskset", "-c", str(core), sys.executable, *argv],
        env={**os.environ, "PYTHONPATH": f"{IMAGE}:{HERE}", **environment},
        stdout=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 30
        while True:
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"bench: {name} did not start")
            time.sleep(0.05)
        yield Server(name, port, process.pid, path)
    finally:
        process.terminate()
        process.wait(20)


def uvicorn(target: str, port: int) -> list[str]:
    # On a busy machine a round may take longer than uvicorn keeps idle connections by default.
    quiet = ["--log-level", "warning", "--no-access-log", "--timeout-keep-alive", "600"]
    return ["-m", "uvicorn", target, "--port", str(port), *quiet]


def peers(stack: contextlib.ExitStack, triton: str, program: Path | None) -> list[Server]:
    """LiteLLM's proxy: *program*, or where it can be installed."""
    from _peers import litellm
    from _stages import StageError

    try:
        proxy = stack.enter_context(litellm(triton, "tiny", before=["taskset", "-c", str(MINE)], program=program))
    except StageError as error:
        print(f"bench: LiteLLM is left out: {error}", file=sys.stderr)
        return []
    port = int(proxy.url.rpartition(":")[2])
    return [Server("LiteLLM", port, proxy.pid, "/v1/chat/completions", proxy.key, share=10)]


def resident_mib(pid: int) -> float:
    """Memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def table(results: dict[str, dict[str, Measure]], cases: list[Case]) -> None:
    """Print medians, and ours against the pass-through."""
    print(f"{'case':22}{'server':14}{'rate/s':>10}{'CPU us':>10}{'first ms':>10}{'CPU ratio':>11}{'of bare':>9}")
    for case in cases:
        of = {name: measures[case.name] for name, measures in results.items()}
        reference = statistics.median(of["pass-through"].cpu_us) if "pass-through" in of else 0
        bare = statistics.median(of["bare"].rate)
        for name, m in of.items():
            cpu, rate = statistics.median(m.cpu_us), statistics.median(m.rate)
            ratio = f"{cpu / reference:.2f}" if reference and name != "bare" else ""
            print(
                f"{case.name:22}{name:14}{rate:>10.0f}{cpu:>10.0f}{statistics.median(m.first_ms):>10.2f}"
                f"{ratio:>11}{rate / bare:>9.3f}"
            )


def gateway_of(
    stack: contextlib.ExitStack, scratch: Path, name: str, triton: str, cores: int | str, workers: int = 1
) -> Server:
    """A gateway in front of *triton*."""
    from openai_gateway_fakes import make_checkpoint

    port, home = free_port(), scratch / name.replace(" ", "-")
    entry = {"name": "tiny", "entry_model": "tensorrt_llm_bls", "urls": [triton], "release": "1.2.1"}
    entry |= {"tokenizer_dir": str(make_checkpoint(home / "checkpoint")), "max_seq_len": 4096}
    config = home / "gateway.yml"
    config.write_text(json.dumps({"port": port, "workers": workers, "models": [entry]}))
    argv = ["-m", "openai_gateway", "--config", str(config)]
    return stack.enter_context(running(name, cores, argv, port, "/v1/completions"))


def side_by_side(servers: list[Server], case: Case, requests: int, rounds: int) -> dict[str, Measure]:
    """The same case put to each server in turn."""
    found = {server.name: Measure() for server in servers}
    for round_ in range(rounds + 1):
        for server in servers:
            measure(server, case, requests, found[server.name] if round_ else Measure())
    return found


def two_workers(scratch: Path, triton: str, requests: int, rounds: int) -> None:
    """What a second worker brings: two on two cores, against one on either of these."""
    pair = CORES[:2]
    with contextlib.ExitStack() as stack:
        alone = [gateway_of(stack, scratch, f"alone on {core}", triton, core) for core in pair]
        two = gateway_of(stack, scratch, "two workers", triton, ",".join(map(str, pair)), 2)
        for at_once in (16, 64):
            found = side_by_side([*alone, two], Case("", False, at_once), 3 * requests, rounds)
            # Round by round: a machine that is slow for a while is that for all three.
            rounded = zip(*(found[one.name].rate for one in alone), found[two.name].rate, strict=True)
            times = statistics.median(2 * both / (first + second) for first, second, both in rounded)
            rate = statistics.median(found[two.name].rate)
            cpu = {name: statistics.median(m.cpu_us) for name, m in found.items()}
            one = statistics.mean(cpu[server.name] for server in alone)
            print(
                f"two workers, {at_once} at once: {rate:.0f} answers a second, {times:.2f} times those of one, "
                f"{cpu[two.name]:.0f} us CPU each against {one:.0f}"
            )
    if len(CORES) < ENOUGH:
        print(f"two workers: {len(CORES)} cores, and backend and load take of them, so 1.8 cannot be seen here")


def bottleneck(scratch: Path, rounds: int) -> None:
    """What is left of a slow backend's rate."""
    with contextlib.ExitStack() as stack:
        port = free_port()
        path = "/v2/models/tensorrt_llm_bls/"
        argv = uvicorn("fake_triton:app", port)
        bare = stack.enter_context(running("slow", BACKEND, argv, port, path, BENCH_PACE="0.02"))
        gateway = gateway_of(stack, scratch, "before it", f"http://127.0.0.1:{port}", MINE)
        for at_once in (1, 16):
            found = side_by_side([bare, gateway], Case("", True, at_once), at_once * 3, rounds)
            rate = {name: statistics.median(m.rate) for name, m in found.items()}
            first = {name: statistics.median(m.first_ms) for name, m in found.items()}
            print(
                f"20 ms a token, {at_once:2} at once: {rate['before it'] / rate['slow']:.3f} of the backend's tokens a "
                f"second, first token {first['before it'] - first['slow']:+.1f} ms"
            )


def long_prompt(server: Server) -> None:
    """How long others wait while a prompt of 7 MB is read and refused."""

    async def ask(request: bytes) -> float:
        begin = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return time.monotonic() - begin

    body = json.dumps({"model": "tiny", "prompt": "What is machine learning? " * 280_000}).encode()
    head = f"POST {server.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: {len(body)}\r\n\r\n"
    health = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"

    async def story() -> tuple[float, float]:
        calm = max([await ask(health) for _ in range(20)])
        asked, slowest = asyncio.create_task(ask(head.encode() + body)), 0.0
        while not asked.done():
            slowest = max(slowest, await ask(health))
        return calm, slowest

    found = [asyncio.run(story()) for _ in range(5)]
    calm, slowest = (statistics.median(values) * 1e3 for values in zip(*found, strict=True))
    print(f"a prompt of {len(body) / 1e6:.1f} MB: others wait {slowest:.0f} ms at most, {calm:.0f} ms without it")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--requests", type=int, default=600, help="whole answers per case and round; a fourth as streams"
    )
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--alone", action="store_true", help="without LiteLLM")
    parser.add_argument(
        "--litellm", type=Path, metavar="PROGRAM", help="LiteLLM's command, where it is installed already"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD})
    cases = [case for case in CASES if options.case in case.name]
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gateway-")))
        ports = [free_port() for _ in range(2)]
        triton = f"http://127.0.0.1:{ports[0]}"
        path, completions = "/v2/models/tensorrt_llm_bls/", "/v1/completions"
        argv = uvicorn("passthrough:app", ports[1])
        servers = [
            stack.enter_context(running("bare", BACKEND, uvicorn("fake_triton:app", ports[0]), ports[0], path)),
            stack.enter_context(running("pass-through", MINE, argv, ports[1], completions, BENCH_TRITON=triton)),
            gateway_of(stack, scratch, "gateway", triton, MINE),
        ]
        gateway = servers[-1]
        if not options.alone:
            servers += peers(stack, triton, options.litellm)
        results = {server.name: {case.name: Measure() for case in cases} for server in servers}
        for round_ in range(options.rounds + 1):  # the first one warms up
            for case in cases:
                for server in servers:
                    count = options.requests // (4 if case.stream else 1) // (1 if round_ else 10)
                    measure(server, case, count, results[server.name][case.name] if round_ else Measure())
        table(results, cases)
        print(f"memory of the gateway after all: {resident_mib(gateway.pid):.0f} MiB")
        long_prompt(gateway)
        two_workers(scratch, triton, options.requests, options.rounds)
        bottleneck(scratch, options.rounds)
        print(f"{len(CORES)} cores, load average {os.getloadavg()[0]:.1f}")
    if options.json:
        plain = {s: {c: vars(m) for c, m in by_case.items()} for s, by_case in results.items()}
        options.json.write_text(json.dumps(plain, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
