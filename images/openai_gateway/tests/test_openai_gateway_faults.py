# SPDX-License-Identifier: GPL-3.0-or-later
"""Load and slowness that must not become somebody else's trouble."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="images/openai_gateway/requirements.txt is not installed")

from openai_gateway import triton as triton_module
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
    assert triton_module.KEEP_ALIVE <= 2
    monkeypatch.setattr(triton_module, "KEEP_ALIVE", 0.2)
    network = Network(a=FakeTriton(checkpoint))
    send = gateway(network, model_entry(checkpoint, A))
    assert send("/v1/completions", ask()).status_code == 200
    ((server, _),) = network._servers

    async def idle() -> int:
        assert server.server_state.connections, "a connection is kept for the next request"
        await asyncio.sleep(1)
        return len(server.server_state.connections)

    assert send.run(idle()) == 0
