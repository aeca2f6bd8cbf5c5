#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the OpenAI gateway costs, beside a pass-through of forty lines and the bare backend, in the same run.

    tests/bench/bench_gateway.py [--rounds 2] [--requests 600] [--json FILE]

All is on loopback. The backend answers at once, so what is measured is the gateway. Each server has the first core
for itself where there are two; backend and load share the other one. Rounds go through all servers in turn. CPU time
a request is what to compare: on a busy machine the rates are lower bounds. LiteLLM's proxy is in the same run where it
can be installed; it gets a tenth of the requests.
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

CORES = sorted(os.sched_getaffinity(0))
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
        """CPU time of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


async def client(port: int, request: bytes, count: int, first: list[float]) -> None:
    """Send *count* requests over one connection, each after the answer to the one before."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    for _ in range(count):
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
    each = max(2, requests // server.share // case.at_once)
    request = server.request(case)
    first: list[float] = []

    async def load() -> None:
        await asyncio.gather(*(client(server.port, request, each, first) for _ in range(case.at_once)))

    before, begin = server.cpu_seconds(), time.monotonic()
    asyncio.run(load())
    seconds, cpu = time.monotonic() - begin, server.cpu_seconds() - before
    done = each * case.at_once
    into.rate.append(done * (case.tokens if case.stream else 1) / seconds)
    into.cpu_us.append(cpu / done * 1e6)
    into.first_ms.append(statistics.median(first) * 1e3)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(name: str, core: int, argv: list[str], port: int, path: str, **environment: str) -> Iterator[Server]:
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


def peers(stack: contextlib.ExitStack, triton: str, core: int) -> list[Server]:
    """LiteLLM's proxy, where it can be installed."""
    from _peers import litellm
    from _stages import StageError

    try:
        proxy = stack.enter_context(litellm(triton, "tiny", before=["taskset", "-c", str(core)]))
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--requests", type=int, default=600, help="whole answers per case and round; a fourth as streams"
    )
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--alone", action="store_true", help="without LiteLLM")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from openai_gateway_fakes import make_checkpoint

    mine, other = CORES[0], CORES[-1]
    os.sched_setaffinity(0, {other})
    cases = [case for case in CASES if options.case in case.name]
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gateway-")))
        ports = [free_port() for _ in range(3)]
        triton = f"http://127.0.0.1:{ports[0]}"
        config = scratch / "gateway.yml"
        checkpoint = make_checkpoint(scratch / "checkpoint")
        entry = {"name": "tiny", "entry_model": "tensorrt_llm_bls", "urls": [triton], "release": "1.2.1"}
        entry |= {"tokenizer_dir": str(checkpoint), "max_seq_len": 4096}
        config.write_text(json.dumps({"port": ports[2], "models": [entry]}))
        path, completions = "/v2/models/tensorrt_llm_bls/", "/v1/completions"
        servers = [
            stack.enter_context(running("bare", other, uvicorn("fake_triton:app", ports[0]), ports[0], path)),
            stack.enter_context(
                running(
                    "pass-through",
                    mine,
                    uvicorn("passthrough:app", ports[1]),
                    ports[1],
                    completions,
                    BENCH_TRITON=triton,
                )
            ),
            stack.enter_context(
                running("gateway", mine, ["-m", "openai_gateway", "--config", str(config)], ports[2], completions)
            ),
        ]
        gateway = servers[-1]
        if not options.alone:
            servers += peers(stack, triton, mine)
        results = {server.name: {case.name: Measure() for case in cases} for server in servers}
        for round_ in range(options.rounds + 1):  # the first one warms up
            for case in cases:
                for server in servers:
                    count = options.requests // (4 if case.stream else 1) // (1 if round_ else 10)
                    measure(server, case, count, results[server.name][case.name] if round_ else Measure())
        table(results, cases)
        print(f"memory of the gateway after all: {resident_mib(gateway.pid):.0f} MiB")
        print(f"load average: {os.getloadavg()[0]:.1f}")
    if options.json:
        plain = {s: {c: vars(m) for c, m in by_case.items()} for s, by_case in results.items()}
        options.json.write_text(json.dumps(plain, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
