# SPDX-License-Identifier: GPL-3.0-or-later
"""Another configuration without a restart: models, replicas, keys and limits; mistakes change nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="images/openai_gateway/requirements.txt is not installed")

import httpx
from openai_gateway.gate import Gate
from openai_gateway.shared import Shared
from openai_gateway_fakes import FakeTriton, key_file, make_checkpoint, model_entry, running, serving, wait_for
from test_openai_gateway_live import certificate


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def triton(checkpoint: Path) -> FakeTriton:
    return FakeTriton(checkpoint)


@pytest.fixture(scope="module")
def backend(triton: FakeTriton) -> Iterator[str]:
    with serving(triton.app) as url:
        yield url


class Running:
    """A gateway as its image runs it, and its file."""

    def __init__(self, directory: Path, address: str) -> None:
        self.path, self.address = directory / "gateway.yml", address
        self.config: dict[str, Any] = json.loads(self.path.read_text())

    def write(self, text: str = "", **changes: Any) -> str:
        """Replace the file as its owner does; returns its sha256."""
        self.config |= changes
        text = text or json.dumps(self.config)
        aside = self.path.with_name("aside")
        aside.write_text(text)
        os.replace(aside, self.path)
        return hashlib.sha256(text.encode()).hexdigest()

    def told(self) -> dict[str, Any]:
        # The first worker may still be starting, which takes a busy machine its time.
        return dict(httpx.get(f"{self.address}/health/config", timeout=60).json())

    def serves_by(self, sha256: str) -> bool:
        return wait_for(lambda: self.told() == {"sha256": sha256, "all_workers": True, "refused": ""})

    def refuses(self, words: str) -> bool:
        """Asked often, so that every worker is asked sooner or later."""
        return wait_for(lambda: all(words in self.told()["refused"] for _ in range(12)))

    def models(self) -> list[str]:
        """Asked over a connection each, so that every worker is asked sooner or later."""
        answers = [httpx.get(f"{self.address}/v1/models").json()["data"] for _ in range(12)]
        names = [[card["id"] for card in answer] for answer in answers]
        assert all(name == names[0] for name in names)
        return names[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_models_come_and_go_while_requests_run(
    tmp_path: Path, checkpoint: Path, triton: FakeTriton, backend: str, workers: int
) -> None:
    tiny, other = model_entry(checkpoint, backend), model_entry(checkpoint, backend, name="other")
    with running(tmp_path, {"models": [tiny], "workers": workers}) as (process, address):
        gateway = Running(tmp_path, address)
        assert gateway.serves_by(hashlib.sha256(gateway.path.read_bytes()).hexdigest())
        triton.delay = 0.4
        body = {"model": "tiny", "prompt": "Hi", "stream": True}
        with httpx.stream("POST", f"{address}/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert gateway.serves_by(gateway.write(models=[other]))
            triton.delay = 0.0
            assert gateway.models() == ["other"]
            assert [line for line in lines if line][-1] == "data: [DONE]", "what runs ends as it began"
        assert httpx.post(f"{address}/v1/completions", json={**body, "model": "other", "stream": False}).is_success
        missing = httpx.post(f"{address}/v1/completions", json=body)
        assert missing.status_code == 404 and "served are other" in missing.text
        assert process.poll() is None


def test_a_replica_is_added_and_taken_away(tmp_path: Path, checkpoint: Path, triton: FakeTriton, backend: str) -> None:
    dead = "http://127.0.0.1:1"
    with running(tmp_path, {"models": [model_entry(checkpoint, dead)]}) as (_process, address):
        gateway = Running(tmp_path, address)
        ask = {"model": "tiny", "prompt": "Hi"}
        for _failure in range(5):  # its rest doubles with each
            assert httpx.post(f"{address}/v1/completions", json=ask).status_code == 503
        assert gateway.serves_by(gateway.write(models=[model_entry(checkpoint, dead, backend)]))
        assert httpx.post(f"{address}/v1/completions", json=ask).status_code == 200
        told = {one["url"]: one["resting"] for one in httpx.get(f"{address}/health/replicas").json()["replicas"]}
        assert told == {dead: True, backend: False}, "what is known of a replica that stays is not forgotten"
        assert gateway.serves_by(gateway.write(models=[model_entry(checkpoint, backend)]))
        assert [one["url"] for one in httpx.get(f"{address}/health/replicas").json()["replicas"]] == [backend]
        assert f'replica_failures{{model="tiny",replica="{dead}"}} 0.0' in httpx.get(f"{address}/metrics").text


def test_shares_are_taken_over_and_told(tmp_path: Path, checkpoint: Path, triton: FakeTriton, backend: str) -> None:
    with serving(FakeTriton(checkpoint).app) as other:
        models = [model_entry(checkpoint, backend, other)]
        with running(tmp_path, {"models": models}) as (process, address):
            gateway = Running(tmp_path, address)
            ask = {"model": "tiny", "prompt": "Hi"}
            assert gateway.serves_by(gateway.write(models=[{**models[0], "weights": {backend: 3}}]))
            told = {one["url"]: one["weights"] for one in httpx.get(f"{address}/health/replicas").json()["replicas"]}
            assert told == {backend: {"tiny": 3}, other: {"tiny": 1}}
            assert all(httpx.post(f"{address}/v1/completions", json=ask).is_success for _ in range(12))
            metrics = httpx.get(f"{address}/metrics").text
            for url, weight, answers in ((backend, 3, 9), (other, 1, 3)):
                labels = f'{{model="tiny",replica="{url}"}}'
                assert f"replica_weight{labels} {weight}.0" in metrics
                assert f"replica_answers_total{labels} {answers}.0" in metrics
            assert process.poll() is None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_wrong_file_is_told_and_changes_nothing(tmp_path: Path, checkpoint: Path, backend: str, workers: int) -> None:
    first = {"models": [model_entry(checkpoint, backend)], "workers": workers}
    with running(tmp_path, first) as (process, address):
        gateway = Running(tmp_path, address)
        right = gateway.path.read_text()
        sha256 = gateway.told()["sha256"]
        for wrong, words in (
            ("{", "is not valid YAML"),
            (json.dumps({**gateway.config, "prot": 1}), "did you mean 'port'"),
            (json.dumps({**first, "models": [model_entry(tmp_path, backend)]}), "has no tokenizer.json"),
            (json.dumps({**gateway.config, "api_keys_file": "/nowhere"}), "cannot read the API keys /nowhere"),
        ):
            gateway.write(wrong)
            assert gateway.refuses(words), words
            assert gateway.told()["sha256"] == sha256 and gateway.models() == ["tiny"]
            assert words in (tmp_path / "log").read_text()
        if workers > 1:  # one that dies while the file is wrong is replaced by one that serves as it did
            child = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
            os.kill(int(child), signal.SIGKILL)
            time.sleep(2.5)
            assert gateway.models() == ["tiny"]
        assert gateway.serves_by(gateway.write(right))
        assert process.poll() is None and "Traceback" not in (tmp_path / "log").read_text()


def test_what_takes_a_restart_waits_for_one(tmp_path: Path, checkpoint: Path, backend: str) -> None:
    with running(tmp_path, {"models": [model_entry(checkpoint, backend)]}) as (_process, address):
        gateway = Running(tmp_path, address)
        assert gateway.serves_by(gateway.write(port=1, workers=2, models=[model_entry(checkpoint, backend, name="x")]))
        assert gateway.models() == ["x"]
        assert "WARNING port, workers: taken over by the next start" in (tmp_path / "log").read_text()


def catches(pid: str, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for the signal."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(caught and int(caught.group(1), 16) >> (number - 1) & 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_has_the_file_read_again(tmp_path: Path, checkpoint: Path, backend: str, workers: int) -> None:
    config = {"models": [model_entry(checkpoint, backend)], "workers": workers}
    with running(tmp_path, config) as (process, _address):
        log = tmp_path / "log"
        assert wait_for(lambda: log.read_text().count("serves tiny") == workers)
        own = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() if workers > 1 else []
        assert wait_for(lambda: all(catches(pid, signal.SIGHUP) for pid in own or [str(process.pid)]))
        process.send_signal(signal.SIGHUP)
        assert wait_for(lambda: log.read_text().count("the configuration was read again") == workers)
        assert process.poll() is None


def test_another_checkpoint_at_the_same_path_is_read(tmp_path: Path, backend: str) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    with running(tmp_path, {"models": [model_entry(checkpoint, backend)]}) as (_process, address):
        gateway = Running(tmp_path, address)
        ask = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
        before = httpx.post(f"{address}/tokenize", json=ask).json()["count"]
        make_checkpoint(checkpoint, template="{{ messages[0].content }} and much more of it")
        assert gateway.serves_by(gateway.write(f"# another checkpoint\n{json.dumps(gateway.config)}"))
        assert httpx.post(f"{address}/tokenize", json=ask).json()["count"] != before


def test_keys_and_limits_are_those_of_the_new_file(tmp_path: Path, checkpoint: Path, backend: str) -> None:
    one, two = (key_file(tmp_path / name, name) for name in ("one", "two"))
    config = {"models": [model_entry(checkpoint, backend)], "api_keys_file": one}
    with running(tmp_path, config) as (_process, address):
        gateway = Running(tmp_path, address)

        def status(key: str) -> int:
            return httpx.get(f"{address}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code

        assert (status("one"), status("two")) == (200, 401)
        assert gateway.serves_by(gateway.write(api_keys_file=two))
        assert (status("one"), status("two")) == (401, 200)
        Path(two).write_text("- {name: broken")
        assert wait_for(lambda: "not valid YAML" in gateway.told()["refused"])
        assert status("two") == 200


def test_a_renewed_certificate_is_served(tmp_path: Path, checkpoint: Path, backend: str) -> None:
    files = certificate(tmp_path)
    config: dict[str, Any] = {name: str(path) for name, path in files.items()}
    with running(tmp_path, {**config, "models": [model_entry(checkpoint, backend)]}) as (_process, address):

        def trusted() -> bool:
            context = ssl.create_default_context(cafile=config["tls_certificate"])
            try:
                return httpx.get(f"{address}/health", verify=context).status_code == 200
            except httpx.ConnectError:
                return False

        assert trusted()
        certificate(tmp_path)  # of another key
        assert not trusted()
        assert wait_for(trusted)


def test_a_queue_holds_over_all_workers_and_first_come_goes_first() -> None:
    shared = Shared(2)
    gates = [Gate(1, 2, shared), Gate(1, 2, shared)]

    async def story() -> list[str]:
        came: list[str] = []

        async def request(worker: int, name: str) -> None:
            # Both workers live in this process here: whose turn it is to run says which one it is.
            shared.worker = worker
            await gates[worker].enter()
            came.append(name)

        await request(0, "first")
        waiting = [asyncio.ensure_future(request(1, "second"))]
        await asyncio.sleep(0)
        waiting.append(asyncio.ensure_future(request(0, "third")))
        await asyncio.sleep(0)
        with pytest.raises(Exception, match="busy"):
            await gates[1].enter()
        for worker in (0, 1):
            shared.worker = worker
            gates[0 if came == ["first"] else 1].leave() if worker == 0 else None
            gates[worker]._let_in()
            await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        return came

    assert asyncio.run(story()) == ["first", "second"], "the third came later, though its worker had the place"


@pytest.mark.parametrize(
    ("limits", "statuses"),
    [({"max_requests": 2, "max_queued": 1}, [200, 200, 200, 503]), ({}, [200, 200, 429, 429])],
)
def test_limits_hold_over_all_workers(
    tmp_path: Path, checkpoint: Path, triton: FakeTriton, backend: str, limits: dict[str, int], statuses: list[int]
) -> None:
    keys = key_file(tmp_path / "keys", f"- {{name: alice, key: one, max_requests: {4 if limits else 2}}}\n")
    config = {"models": [model_entry(checkpoint, backend)], "workers": 2, "api_keys_file": keys, **limits}
    with running(tmp_path, config) as (_process, address):
        triton.delay = 0.3

        async def at_once() -> list[int]:
            async def ask() -> int:
                async with httpx.AsyncClient() as client:  # a connection of its own
                    body = {"model": "tiny", "prompt": "Hi"}
                    headers = {"Authorization": "Bearer one"}
                    answer = await client.post(f"{address}/v1/completions", json=body, headers=headers, timeout=30)
                    return answer.status_code

            return sorted(await asyncio.gather(*(ask() for _ in range(4))))

        for _ in range(3):  # the kernel hands connections to workers as it likes
            assert asyncio.run(at_once()) == statuses
        triton.delay = 0.0


def test_requests_a_minute_hold_over_all_workers(tmp_path: Path, checkpoint: Path, backend: str) -> None:
    keys = key_file(tmp_path / "keys", "- {name: alice, key: one, requests_per_minute: 5}\n")
    config = {"models": [model_entry(checkpoint, backend)], "workers": 2, "api_keys_file": keys}
    with running(tmp_path, config) as (_process, address):
        body, headers = {"model": "tiny", "prompt": "Hi"}, {"Authorization": "Bearer one"}
        answers = [httpx.post(f"{address}/v1/completions", json=body, headers=headers) for _ in range(12)]
        assert [answer.status_code for answer in answers].count(200) == 5
