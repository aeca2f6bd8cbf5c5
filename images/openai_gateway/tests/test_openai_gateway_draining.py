# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas that are taken out of service for a while, and what all workers know of each other."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="images/openai_gateway/requirements.txt is not installed")

import httpx
from openai_gateway.replicas import Draining, ReplicaSet
from openai_gateway.shared import Shared
from openai_gateway_fakes import (
    FakeTriton,
    Network,
    gateway,
    make_checkpoint,
    model_entry,
    running,
    serving,
    wait_for,
)

A, B = "http://a:8000", "http://b:8000"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def ask(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "Hi", **more}


def test_a_replica_that_drains_gets_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "draining"
    draining = Draining(path)
    replicas = ReplicaSet([A, B], draining=draining)
    a, b = replicas.replicas
    assert set(replicas.order()) == {a, b}
    path.write_text(f"# switching\n{A}/\n")
    assert draining.look() == set()
    assert replicas.order() == [b] and replicas.drains(a) and not replicas.drains(b)
    path.write_text(f"{A}\n{B}\n")
    draining.look()
    assert replicas.order() == []
    path.unlink()
    assert draining.look() == {A, B}
    assert len(replicas.order()) == 2


def test_a_lease_ends_by_itself(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "draining"
    path.write_text(f"{A} 1010\n{B}\n")
    draining = Draining(path, wall=clock)
    assert draining.urls == {A, B}
    clock.now = 1010.5
    assert draining.look() == {A} and draining.urls == {B}


@pytest.mark.parametrize("wrong", [f"{B} soon", f"{B} 5 6", f"{B} 5.5"])
def test_a_file_with_a_mistake_changes_nothing(tmp_path: Path, wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    path = tmp_path / "draining"
    path.write_text(f"{A} 1010\n")
    draining = Draining(path, wall=clock)
    path.write_text(f"{wrong}\n")
    draining.look()
    assert draining.urls == {A}
    assert "each line is URL or URL UNTIL" in caplog.text
    clock.now = 1011
    draining.look()
    assert draining.urls == set(), "but leases end"


def test_a_replica_drains_when_every_worker_knows(tmp_path: Path) -> None:
    path = tmp_path / "draining"
    shared = Shared(2)
    workers = []
    for shared.worker in (0, 1):
        workers.append(Draining(path, shared))
    path.write_text(A)
    shared.worker = 0
    workers[0].look()
    assert workers[0].urls == {A} and not workers[0].everywhere(A)
    shared.worker = 1
    workers[1].look()
    assert workers[0].everywhere(A) and workers[1].everywhere(A)
    shared.forget(1)  # it died; the one that takes its place reads the file before it serves
    assert workers[0].everywhere(A)


def test_what_is_known_of_a_replica_ends_with_its_drain(checkpoint: Path, tmp_path: Path) -> None:
    """It may be another release now, and a rest that it earned while it stopped would only keep it idle."""
    drain = tmp_path / "draining"
    triton = FakeTriton(checkpoint)
    send = gateway(Network(a=triton), model_entry(checkpoint, A), drain_file=str(drain))
    assert send("/v1/completions", ask()).status_code == 200
    (replica,) = send.gateway.models["tiny"].replicas.replicas
    drain.write_text(A)
    send.run(asyncio.sleep(1.2))
    send.gateway.models["tiny"].replicas.failed(replica)
    assert send("/health/replicas").json() == {
        "replicas": [
            {"url": A, "models": ["tiny"], "outstanding": 0, "draining": True, "resting": True, "weights": {"tiny": 1}}
        ]
    }
    drain.unlink()
    send.run(asyncio.sleep(1.2))
    assert replica.failures == 0 and replica.interface is None
    assert send("/health/replicas").json()["replicas"][0]["resting"] is False
    assert send("/v1/completions", ask()).status_code == 200


def test_a_replica_that_drains_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    a, b = FakeTriton(checkpoint), FakeTriton(checkpoint)
    drain = tmp_path / "draining"
    drain.write_text(f"{A}\n")
    send = gateway(Network(a=a, b=b), model_entry(checkpoint, A, B), drain_file=str(drain))
    assert [send("/v1/completions", ask()).status_code for _ in range(4)] == [200] * 4
    answer = send("/health/ready")
    assert answer.status_code == 200 and answer.json()["models"]["tiny"] == {A: "draining", B: "ready"}
    assert a.seen == [] and len(b.seen) == 4
    assert f'replica_draining{{model="tiny",replica="{A}"}} 1.0' in send("/metrics").text
    drain.write_text(f"{A}\n{B}\n")
    send.run(asyncio.sleep(1.2))
    refused = send("/v1/completions", ask())
    assert refused.status_code == 503 and refused.headers["retry-after"]
    assert send("/health/ready?require=any").status_code == 503
    assert send("/health/ready?require=any&drained=enough").status_code == 200, "a gateway that starts now is started"


def test_running_requests_finish_and_leave_no_connection_behind(checkpoint: Path, tmp_path: Path) -> None:
    """Triton's stop waits for open connections, idle ones too."""
    drain = tmp_path / "draining"
    triton = FakeTriton(checkpoint, delay=0.6)
    network = Network(a=triton)
    send = gateway(network, model_entry(checkpoint, A), drain_file=str(drain))
    ((server, _),) = network._servers

    async def story() -> None:
        request = asyncio.create_task(send.send("/v1/completions", ask()))
        await asyncio.sleep(0.3)
        drain.write_text(A)
        await asyncio.sleep(1.1)
        (state,) = (await send.send("/health/replicas")).json()["replicas"]
        assert state["draining"] and state["outstanding"] == 1
        assert (await send.send("/v1/completions", ask())).status_code == 503
        answer = await request
        assert answer.status_code == 200 and answer.json()["choices"][0]["text"] == "Hello, world!"
        await asyncio.sleep(0.1)
        assert not server.server_state.connections
        (state,) = (await send.send("/health/replicas")).json()["replicas"]
        assert state["outstanding"] == 0

    send.run(story())


def test_idle_connections_to_a_replica_that_drains_are_closed(checkpoint: Path, tmp_path: Path) -> None:
    drain = tmp_path / "draining"
    network = Network(a=FakeTriton(checkpoint), b=FakeTriton(checkpoint))
    send = gateway(network, model_entry(checkpoint, A, B), drain_file=str(drain))
    model = send.gateway.models["tiny"]
    (a, _), (b, _) = network._servers

    async def story() -> tuple[int, int]:
        for _ in range(2):
            await send.send("/v1/completions", ask())
        assert a.server_state.connections and b.server_state.connections
        model.close_idle(model.replicas.replicas[0])
        await asyncio.sleep(0.1)
        return len(a.server_state.connections), len(b.server_state.connections)

    assert send.run(story()) == (0, 1)


def test_workers_tell_together_what_a_replica_works_on(checkpoint: Path, tmp_path: Path) -> None:
    """And one that dies takes its part along."""
    triton = FakeTriton(checkpoint, delay=0.6)
    drain = tmp_path / "draining"
    with serving(triton.app) as backend:
        config = {"models": [model_entry(checkpoint, backend)], "workers": 2}
        with running(tmp_path, config) as (process, address):

            def state() -> dict[str, Any]:
                # While the killed worker is replaced, a busy machine takes longer than httpx waits.
                (one,) = httpx.get(f"{address}/health/replicas", timeout=60).json()["replicas"]
                return dict(one)

            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            with httpx.Client(base_url=address, timeout=60) as client:
                streams = [client.stream("POST", "/v1/completions", json=ask(stream=True)) for _ in range(3)]
                for stream in streams:
                    stream.__enter__()
                assert state()["outstanding"] == 3
                drain.write_text(f"{backend} {int(time.time()) + 60}\n")
                assert wait_for(lambda: bool(state()["draining"]), 30)
                assert state()["outstanding"] > 0
                os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
                assert wait_for(lambda: state()["outstanding"] == 0, 30)
            assert wait_for(lambda: bool(state()["draining"]), 30), "the new one knows it too"
