# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway's parts: configuration, checkpoints and their chat templates, replicas, the image's probe."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="images/openai_gateway/requirements.txt is not installed")

from openai_gateway import probe, workers
from openai_gateway.chat import ChatTemplate
from openai_gateway.config import ModelConfig, parse_config
from openai_gateway.errors import ApiError, ConfigError
from openai_gateway.interface import describe, release_row
from openai_gateway.replicas import LONGEST_PAUSE, Draining, ReplicaSet
from openai_gateway.tokenizer import CheckpointTokenizer
from openai_gateway_fakes import make_checkpoint, model_entry

MESSAGES = [{"role": "user", "content": "Hi <b> & 'you'"}]


def model(directory: Path, **more: Any) -> ModelConfig:
    return parse_config({"models": [model_entry(directory, "http://x:1", **more)]}, "test.yml").models[0]


def test_template_blocks_are_trimmed_and_blanks_before_them_stripped() -> None:
    source = "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}"
    assert ChatTemplate(source, {}, "x").render(MESSAGES) == "Hi <b> & 'you'\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "Hi <b> & \'you\'"}]'),
        ("{{ bos_token }}{{ messages[0]['content'] }}", "<s>Hi <b> & 'you'"),
        ("{% generation %}x{% endgeneration %}{% for i in [1, 2] %}{{ i }}{% break %}{% endfor %}", "x1"),
        ("{% if add_generation_prompt and not tools %}A{% endif %}", "A"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}", "2"),
        ("{{ strftime_now('%%') }}", "%"),
    ],
)
def test_templates_find_what_the_transformers_library_gives_them(source: str, expected: str) -> None:
    assert ChatTemplate(source, {"bos_token": "<s>"}, "x").render(MESSAGES) == expected


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses: roles must alternate"),
        ("{{ messages[5].content.x }}", "cannot render"),
        ("{{ messages.append(1) }}", "cannot render"),
        ("{{ ''.__class__.__mro__ }}", "cannot render"),
    ],
)
def test_a_template_that_refuses_or_fails_is_the_clients_400(source: str, words: str) -> None:
    with pytest.raises(ApiError, match=words) as error:
        ChatTemplate(source, {}, "x").render(MESSAGES)
    assert error.value.status == 400 and error.value.param == "messages"


def test_the_template_comes_from_the_file_the_list_or_the_configured_one(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    directory = make_checkpoint(tmp_path / "c", template=named)
    assert CheckpointTokenizer(model(directory)).render(MESSAGES, "tiny") == "D"
    (directory / "chat_template.jinja").write_text("F")
    assert CheckpointTokenizer(model(directory)).render(MESSAGES, "tiny") == "F"
    own = tmp_path / "own.jinja"
    own.write_text("O")
    assert CheckpointTokenizer(model(directory, chat_template=str(own))).render(MESSAGES, "tiny") == "O"
    own.write_text("{% if %}")
    with pytest.raises(ConfigError, match="mistake in line 1"):
        CheckpointTokenizer(model(directory, chat_template=str(own)))


def test_without_a_template_chat_is_refused_and_completions_work(tmp_path: Path) -> None:
    tokenizer = CheckpointTokenizer(model(make_checkpoint(tmp_path / "c", template=None)))
    with pytest.raises(ApiError, match="has no chat template"):
        tokenizer.render(MESSAGES, "tiny")
    assert tokenizer.prompt("Hi", True, chat=False) == "Hi"


def test_a_checkpoint_says_what_ends_an_answer_and_how_its_tokens_join(tmp_path: Path) -> None:
    plain = CheckpointTokenizer(model(make_checkpoint(tmp_path / "a")))
    assert plain.end_ids == (2, 3) and plain.token(3) == "<|eot|>" and plain.max_positions == 256
    assert plain.concatenative
    assert not CheckpointTokenizer(model(make_checkpoint(tmp_path / "b", sentencepiece=True))).concatenative


def test_a_truncating_tokenizer_counts_in_full(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "c")
    saved = json.loads((directory / "tokenizer.json").read_text())
    saved["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (directory / "tokenizer.json").write_text(json.dumps(saved))
    assert CheckpointTokenizer(model(directory)).count("a b c d e f g h") > 4


def test_a_checkpoint_without_a_usable_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        CheckpointTokenizer(model(tmp_path))
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConfigError, match="is not a tokenizer"):
        CheckpointTokenizer(model(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"urls": []}, "'urls' is \\[\\]; it should have at least one entry"),
        ({"urls": ["localhost:8000"]}, "write http://HOST:PORT"),
        ({"urls": ["http://a:1", 2]}, r"'urls\[1\]' is 2; it should be a text"),
        ({"release": "newest"}, "is no TensorRT-LLM version"),
        ({"weights": {"http://b:1": 2}}, "'weights': http://b:1 is none of urls"),
        ({"weights": {"http://x:1": -1}}, r"'weights\[http://x:1\]' is -1; it should be greater than or equal to 0"),
        ({"weights": {"http://x:1": 0}}, "'weights': every replica has 0; give one more"),
        ({"release": 1.2}, "'release' is 1.2; it should be a text"),
        ({"max_seq_len": 1}, "'max_seq_len' is 1; it should be greater than or equal to 2"),
        ({"max_seq_len": "5k"}, "'max_seq_len' is '5k'; it should be a whole number"),
        ({"tokeniser_dir": "/x"}, "did you mean 'tokenizer_dir'"),
        ({"entry_model": None}, "'entry_model' is None; it should be a text"),
    ],
)
def test_a_wrong_model_entry_is_named(change: dict[str, Any], words: str) -> None:
    entry = {**model_entry(Path("/x"), "http://x:1"), **change}
    with pytest.raises(ConfigError, match=words):
        parse_config({"models": [entry]}, "test.yml")


def test_a_name_given_twice_is_refused() -> None:
    entry = model_entry(Path("/x"), "http://x:1")
    with pytest.raises(ConfigError, match="'tiny' is given 2 times"):
        parse_config({"models": [entry, entry]}, "test.yml")


@pytest.mark.parametrize(
    ("version", "seed", "required"),
    [("0.7.2", "random_seed", True), ("0.8.0", "random_seed", True), ("0.9.0", "random_seed", False),
     ("0.19.0", "random_seed", False), ("0.20.0", "seed", False), ("1.2.1", "seed", False),
     ("1.3.0rc1", "seed", False)],
)  # fmt: skip
def test_names_follow_the_release(version: str, seed: str, required: bool) -> None:
    row = release_row(version)
    assert (row.seed, row.words_required) == (seed, required)


def test_what_the_model_declares_wins_over_the_release() -> None:
    entry = {"input": [{"name": "random_seed"}], "output": []}
    assert describe("1.2.1", entry, {}).tensor("seed") == "random_seed"
    assert describe("1.2.1", entry, {}).tensor("temperature") is None


def test_an_ensemble_is_decoupled_if_a_step_is() -> None:
    ensemble = {"ensemble_scheduling": {"step": [{"model_name": "tensorrt_llm"}]}}
    step = {"model_transaction_policy": {"decoupled": True}}
    assert describe("1.2.1", ensemble, {"tensorrt_llm": step}).decoupled
    assert not describe("1.2.1", {"input": []}, {"tensorrt_llm": step}).decoupled, "a BLS speaks for itself"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_least_busy_replica_is_asked_and_equals_take_turns() -> None:
    replicas = ReplicaSet(["a", "b", "c"], Clock())
    assert [replicas.order()[0].url for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]
    busy = replicas.replicas[0]
    with busy.working():
        assert [replica.url for replica in replicas.order()][-1] == "a"
    assert busy.outstanding == 0


def test_a_replica_rests_longer_with_each_failure_and_is_tried_last() -> None:
    clock = Clock()
    replicas = ReplicaSet(["a", "b"], clock)
    a, b = replicas.replicas
    replicas.failed(a)
    assert [r.url for r in replicas.order()] == ["b", "a"] == [r.url for r in replicas.order()]
    clock.now = 1.5
    assert {replicas.order()[0].url for _ in range(2)} == {"a", "b"}, "after its pause it is tried again"
    for _ in range(10):
        replicas.failed(a)
    assert a.rests_until - clock.now == LONGEST_PAUSE
    replicas.failed(b)
    assert [r.url for r in replicas.order()] == ["b", "a"], "when all rest, the one that rests shortest is tried"
    replicas.succeeded(a)
    assert replicas.order()[0] is a and a.failures == 0


def test_prompts_that_begin_alike_go_to_the_same_replica_while_it_is_not_much_busier() -> None:
    replicas = ReplicaSet(["a", "b", "c"], Clock())
    chosen = {prefix: replicas.order(prefix)[0] for prefix in map(str, range(40))}
    assert {replica.url for replica in chosen.values()} == {"a", "b", "c"}
    assert all(replicas.order(prefix)[0] is replica for prefix, replica in chosen.items())
    fewer = ReplicaSet(["a", "b"], Clock())
    moved = [p for p, r in chosen.items() if r.url != "c" and fewer.order(p)[0].url != r.url]
    assert moved == [], "only those of the one that went away move"
    busy = chosen["0"]
    with contextlib.ExitStack() as at_work:
        for _ in range(3):
            at_work.enter_context(busy.working())
        assert replicas.order("0")[0] is busy
        at_work.enter_context(busy.working())
        assert replicas.order("0")[0] is not busy
    replicas.failed(busy)
    assert replicas.order("0")[0] is not busy


@pytest.mark.parametrize(
    ("weights", "requests", "shares"),
    [
        ({"b": 9}, 100, {"a": 10, "b": 90}),
        ({"b": 0}, 10, {"a": 10}),
        ({"a": 9, "b": 9, "c": 2}, 200, {"b": 180, "c": 20}),  # a and b share a part, of which a is busier
        ({"a": 7, "b": 2, "c": 1}, 1000, {"a": 700, "b": 200, "c": 100}),
    ],
)
def test_each_replica_gets_its_share_however_busy_they_are(
    weights: dict[str, int], requests: int, shares: dict[str, int]
) -> None:
    replicas = ReplicaSet(["a", "b", *(["c"] if "c" in weights else [])], Clock(), weights=weights)
    with contextlib.ExitStack() as at_work:
        for _ in range(5):
            at_work.enter_context(replicas.replicas[0].working())
        assert Counter(_ask(replicas) for _ in range(requests)) == shares


def _ask(replicas: ReplicaSet) -> str:
    return replicas.order()[0].url


def test_a_small_share_is_spread_over_the_requests() -> None:
    replicas = ReplicaSet(["a", "b"], Clock(), weights={"a": 9})
    asked = [_ask(replicas) for _ in range(40)]
    assert [asked.index("b", start) - start for start in (0, 10, 20, 30)] == [asked.index("b")] * 4


def test_the_share_of_a_replica_that_fails_or_drains_goes_to_the_others(tmp_path: Path) -> None:
    clock = Clock()
    drains = tmp_path / "draining"
    draining = Draining(drains)
    replicas = ReplicaSet(["a", "b", "c"], clock, draining, weights={"a": 8, "c": 0})
    a, b, c = replicas.replicas
    replicas.failed(a)
    assert [replica.url for replica in replicas.order()] == ["b", "c", "a"]
    replicas.failed(b)
    assert replicas.order()[0] is c, "one of weight 0 is asked where no other can be"
    clock.now = 2.0
    assert Counter(_ask(replicas) for _ in range(9)) == {"a": 8, "b": 1}
    drains.write_text("a\n")
    draining.look()
    assert Counter(_ask(replicas) for _ in range(9)) == {"b": 9}
    drains.write_text("a\nb\n")
    draining.look()
    assert _ask(replicas) == "c"


def test_prompts_that_begin_alike_stay_together_in_their_share() -> None:
    replicas = ReplicaSet(["a", "b", "c"], Clock(), weights={"a": 4, "b": 4, "c": 2})
    asked = Counter(replicas.order("the same")[0].url for _ in range(100))
    assert asked["c"] == 20 and sorted((asked["a"], asked["b"])) == [0, 80]


def test_the_probe_says_what_the_gateway_says() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/good?require=any" else 503)
            self.end_headers()
            self.wfile.write(b"why not")

        def log_message(self, *_: Any) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    assert probe.main(f"{base}/good?require=any") == 0
    assert probe.main(f"{base}/bad") == 1
    server.shutdown()
    server.server_close()
    assert probe.main(f"{base}/good?require=any") == 1


def test_workers_share_a_burst_of_clients_and_answer_at_once() -> None:
    async def story() -> list[int]:
        listener = workers.listen("127.0.0.1", 0)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(16)]
        accepted: list[list[asyncio.BaseTransport]] = [[], []]

        class Worker(asyncio.Protocol):
            def __init__(self, mine: list[asyncio.BaseTransport]) -> None:
                self._mine = mine

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self._mine.append(transport)

        loop = asyncio.get_running_loop()
        for number in (0, 1):
            worker = partial(Worker, accepted[number])
            await loop.create_server(worker, sock=listener.dup(), backlog=workers.BATCH)
        while sum(map(len, accepted)) < len(clients):
            await asyncio.sleep(0.01)
        for transport in (one for mine in accepted for one in mine):
            sent_at_once = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sent_at_once
            transport.close()
        for client in clients:
            client.close()
        return [len(mine) for mine in accepted]

    assert min(asyncio.run(asyncio.wait_for(story(), 20))) >= 5
