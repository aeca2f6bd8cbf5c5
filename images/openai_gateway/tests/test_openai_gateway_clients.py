# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys with names and limits, a bounded queue, and what is told of them."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="images/openai_gateway/requirements.txt is not installed")

import httpx
from openai_gateway.clients import Clients, hash_key, load_clients
from openai_gateway.errors import ApiError, ConfigError
from openai_gateway.gate import Gate
from openai_gateway_fakes import SOURCE, FakeTriton, Gateway, Network, gateway, key_file, make_checkpoint, model_entry

A = "http://a:8000"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def ask(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "Hi", "max_tokens": 5, **more}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def refused(clients: Clients, key: str) -> bool:
    try:
        clients.identify(f"Bearer {key}")
    except ApiError as error:
        assert error.status == 401 and (not key or key not in error.message)
        return True
    return False


def test_lines_are_keys_without_limits(tmp_path: Path) -> None:
    path = Path(key_file(tmp_path / "keys", "# who\nsecret-1\n\nsecret-2\n"))
    clients = Clients(path)
    assert clients.identify("Bearer secret-2").client.name == "key-2"
    assert clients.identify("", "secret-1").client.name == "key-1", "as x-api-key"
    assert refused(clients, "secret-3") and refused(clients, "# who") and refused(clients, "")


def test_a_hash_stands_for_a_key(tmp_path: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "openai_gateway", "--hash-key"],
        input="sk-1\n", cwd=SOURCE, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert "sk-1" not in printed and printed != hash_key("sk-1"), "salted"
    clients = Clients(Path(key_file(tmp_path / "keys", f"- {{name: alice, key_hash: {printed}}}\n")))
    assert clients.identify("bearer sk-1").client.name == "alice"
    assert refused(clients, "sk-2") and refused(clients, printed)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {name: alice}", "needs either 'key' or 'key_hash'"),
        ("- {name: alice, key: secret, limit: 3}", "client 1: limit: extra inputs are not permitted"),
        ("- {name: alice, key: secret}\n- {name: alice, key: other}", "the client 'alice' is given 2 times"),
        ("- {name: alice, key: secret, max_requests: 0}", "client 1: max_requests: it should be greater"),
        ("- {name: a b, key: secret}", "client 1: name"),
        ("- {name: alice, key: secret", "not valid YAML"),
        ("# nothing", "holds no API key"),
    ],
)
def test_a_wrong_file_is_one_sentence_without_keys(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_clients(Path(key_file(tmp_path / "keys", text)))
    assert words in str(error.value) and "secret" not in str(error.value)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = Path(key_file(tmp_path / "keys", "secret"))
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="has mode 0640"):
        load_clients(path)


def test_keys_are_read_again_when_their_file_changes(tmp_path: Path) -> None:
    clock = Clock()
    path = Path(key_file(tmp_path / "keys", "- {name: alice, key: one, requests_per_minute: 5}\n"))
    clients = Clients(path, clock)
    clients.identify("Bearer one").admit()
    path.write_text("- {name: alice, key: one, requests_per_minute: 5}\n- {name: bob, key: two}\n")
    clock.now += 2
    assert clients.identify("Bearer two").client.name == "bob"
    assert clients.identify("Bearer one").running == 1, "what was counted stays"
    path.write_text("- {name: broken")
    clock.now += 2
    assert clients.identify("Bearer two").client.name == "bob", "a file that cannot be used changes nothing"
    path.write_text("- {name: bob, key: three}\n")
    clock.now += 2
    assert refused(clients, "one") and refused(clients, "two") and not refused(clients, "three")


def limited(tmp_path: Path, checkpoint: Path, limits: str, **more: Any) -> tuple[Gateway, FakeTriton]:
    keys = key_file(tmp_path / "keys", f"- {{name: alice, key: one, {limits}}}\n- {{name: bob, key: two}}\n")
    triton = FakeTriton(checkpoint)
    models = model_entry(checkpoint, A), model_entry(checkpoint, A, name="other")
    return gateway(Network(a=triton), *models, api_keys_file=keys, **more), triton


def test_a_client_sees_and_uses_its_models_alone(tmp_path: Path, checkpoint: Path) -> None:
    send, _ = limited(tmp_path, checkpoint, "models: [tiny]")
    assert [card["id"] for card in send("/v1/models", headers=bearer("one")).json()["data"]] == ["tiny"]
    assert len(send("/v1/models", headers=bearer("two")).json()["data"]) == 2
    assert send("/v1/completions", ask(), headers=bearer("one")).status_code == 200
    for path, body in (
        ("completions", ask(model="other")),
        ("messages/count_tokens", {"messages": [{"role": "user"}]}),
    ):
        missing = send(f"/v1/{path}", {**body, "model": "other"}, headers=bearer("one"))
        assert missing.status_code == 404
    assert send("/v1/completions", ask(model="other"), headers=bearer("two")).status_code == 200


def test_the_age_of_the_keys_is_told(tmp_path: Path, checkpoint: Path) -> None:
    send, _ = limited(tmp_path, checkpoint, "models: [tiny]")
    name = "openai_gateway_clients_changed_timestamp_seconds"
    told = re.search(rf"^{name} (\S+)$", send("/metrics").text, re.M)
    assert told and abs(float(told[1]) - time.time()) < 600


@pytest.mark.parametrize("limits", ["requests_per_minute: 2", "tokens_per_minute: 8"])
def test_a_limit_is_429_with_what_is_left(tmp_path: Path, checkpoint: Path, limits: str) -> None:
    send, triton = limited(tmp_path, checkpoint, limits)
    answers = [send("/v1/completions", ask(), headers=bearer("one")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == ([200, 200, 429] if "req" in limits else [200, 429, 429])
    last = answers[-1]
    assert int(last.headers["retry-after"]) >= 1
    assert last.json()["error"]["type"] == "rate_limit_error" and last.json()["error"]["code"] == "rate_limit_exceeded"
    kind = limits.split("_")[0]
    assert answers[0].headers[f"x-ratelimit-limit-{kind}"] == limits[-1]
    assert last.headers[f"x-ratelimit-remaining-{kind}"] == "0"
    assert int(last.headers[f"x-ratelimit-reset-{kind}"].removesuffix("s")) > 1
    assert len(triton.seen) < 3
    assert send("/v1/completions", ask(), headers=bearer("two")).status_code == 200, "others are not affected"
    assert 'code="429"' in send("/metrics").text


def test_a_limit_fills_again(tmp_path: Path) -> None:
    clock = Clock()
    path = Path(key_file(tmp_path / "keys", "- {name: alice, key: one, requests_per_minute: 60}\n"))
    account = Clients(path, clock).identify("Bearer one")
    for _ in range(60):
        account.admit()
    with pytest.raises(ApiError) as error:
        account.admit()
    assert error.value.retry_after == 1
    clock.now += 1
    account.admit()


@pytest.mark.parametrize("stream", [True, False])
def test_requests_at_once_are_limited_by_client_and_in_all(tmp_path: Path, checkpoint: Path, stream: bool) -> None:
    send, triton = limited(tmp_path, checkpoint, "max_requests: 1", max_requests=2, max_queued=1)
    triton.delay = 0.1

    async def at_once(*keys: str) -> list[httpx.Response]:
        body = ask(stream=stream)
        return list(await asyncio.gather(*(send.send("/v1/completions", body, headers=bearer(k)) for k in keys)))

    statuses = sorted(answer.status_code for answer in send.run(at_once("one", "one", "one")))
    assert statuses == [200, 429, 429]
    answers = send.run(at_once("two", "two", "two", "two", "two"))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 503, 503], "two, and one that waited"
    busy = next(answer for answer in answers if answer.status_code == 503)
    assert busy.headers["retry-after"] == "1"
    assert send.run(at_once("two", "one"))[0].status_code == 200, "every place was given back"
    assert "requests_queued 0.0" in send("/metrics").text


def test_who_leaves_the_queue_frees_its_place() -> None:
    async def story() -> tuple[int, int]:
        gate = Gate(1, 5)
        await gate.enter()
        waiting = [asyncio.create_task(gate.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        queued = gate.queued
        gate.leave()
        waiting[1].cancel()  # its turn came at the same moment
        await asyncio.wait(waiting, timeout=1)
        return queued, gate.queued

    assert asyncio.run(story()) == (2, 0)
