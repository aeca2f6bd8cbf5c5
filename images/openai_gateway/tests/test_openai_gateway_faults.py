# SPDX-License-Identifier: GPL-3.0-or-later
"""Load and slowness that must not become somebody else's trouble."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="images/openai_gateway/requirements.txt is not installed")

from openai_gateway import http_client
from openai_gateway_fakes import FakeTriton, Gateway, Network, gateway, make_checkpoint, model_entry

A = "http://a:8000"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def ask(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "What is machine learning?", **more}


async def longest_wait(gateway: Gateway, body: dict[str, Any]) -> tuple[float, Any]:
    """Send *body*; return the longest time in which the event loop did nothing else meanwhile, and the answer."""
    request = asyncio.create_task(gateway.send("/v1/completions", body))
    longest, last = 0.0, time.monotonic()
    while not request.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    return longest, request.result()


@pytest.mark.parametrize("context", [4096, 10_000_000])
def test_a_long_prompt_keeps_nobody_waiting(checkpoint: Path, context: int) -> None:
    """Whether it is refused, or counted in full because it might fit."""
    triton = FakeTriton(checkpoint, inputs=["text_input", "max_tokens"], outputs=["text_output"], decoupled=False)
    triton._read = lambda body: 0  # type: ignore[method-assign]
    send = gateway(Network(a=triton), model_entry(checkpoint, A, max_seq_len=context))
    prompt = "What is machine learning? " * 80_000  # takes a second or more to count
    send("/v1/completions", ask())
    begin = time.monotonic()
    waited, answer = send.run(longest_wait(send, ask(prompt=prompt, temperature=0, max_tokens=5)))
    if context == 4096:
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"
        assert time.monotonic() - begin < 1
    else:
        assert answer.status_code == 200 and answer.json()["usage"]["prompt_tokens"] > 400_000
    assert waited < 0.5


def test_a_busy_gateway_does_not_call_a_replica_dead(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own delay uses up the time to connect."""

    send = gateway(Network(a=FakeTriton(checkpoint)), model_entry(checkpoint, A), connect_timeout=0.2)
    connect, busy = send.loop.create_connection, iter([0.6])

    async def create_connection(*given: Any, **named: Any) -> Any:
        # The connection is made in time, but the first time the loop looks at it after the timer has run out.
        send.loop.call_later(0.1, time.sleep, next(busy, 0))
        await asyncio.sleep(0.15)
        return await connect(*given, **named)

    monkeypatch.setattr(send.loop, "create_connection", create_connection)
    answer = send("/v1/completions", ask(temperature=0))
    assert answer.status_code == 200, answer.text
    assert f'replica_failures{{model="tiny",replica="{A}"}} 0.0' in send("/metrics").text


def test_idle_connections_do_not_keep_a_replica_from_stopping(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton waits for them when it is told to stop."""
    assert http_client.KEEP_ALIVE <= 2
    monkeypatch.setattr(http_client, "KEEP_ALIVE", 0.2)
    network = Network(a=FakeTriton(checkpoint))
    send = gateway(network, model_entry(checkpoint, A))
    assert send("/v1/completions", ask()).status_code == 200
    ((server, _),) = network._servers

    async def idle() -> int:
        assert server.server_state.connections, "a connection is kept for the next request"
        await asyncio.sleep(1)
        return len(server.server_state.connections)

    assert send.run(idle()) == 0


def test_a_connection_that_the_replica_no_longer_wants_costs_nobody_an_answer(checkpoint: Path) -> None:
    """It may close an idle one just when the next request is on its way."""
    config = json.dumps(
        {"input": [{"name": "text_input"}, {"name": "max_tokens"}], "output": [{"name": "text_output"}]}
    )
    closed = 0

    async def replica(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Give one answer on each connection, and close it at the next request."""
        nonlocal closed
        for answered in (False, True):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                asked = b"/generate" in head
                if asked and answered:
                    closed += 1
                    writer.close()
                    return
                body = '{"text_output": "Hi"}' if asked else config
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
                if asked:
                    break

    async def start() -> tuple[asyncio.Server, str]:
        server = await asyncio.start_server(replica, "127.0.0.1", 0)
        return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    send = gateway(Network(), {**model_entry(checkpoint), "urls": ["http://x:1"]})
    server, url = send.run(start())
    (served,) = send.gateway.models["tiny"].replicas.replicas
    served.url = url
    assert [send("/v1/completions", ask()).status_code for _ in range(3)] == [200] * 3
    assert closed == 2 and served.failures == 0
    server.close()
