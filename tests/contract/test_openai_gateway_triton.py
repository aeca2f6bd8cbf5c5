# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway in front of a real Triton, spoken to by the official clients. Needs root, podman and the CPU image."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _bench_run, _venv
from contract.test_triton_cpu_live import DOCUMENTED, ITERATIONS, Server
from contract.test_triton_cpu_live import room as room
from openai_gateway_fakes import running
from triton_cpu_fakes import free_port, tiny_checkpoint

pytestmark = pytest.mark.slow

QUESTION, ANSWER = "What is a GPU?", dict(tiny_checkpoint.CORPUS)["What is a GPU?"]
HI: list[Any] = [{"role": "user", "content": QUESTION}]
PLAIN = f"<|user|>{QUESTION}<|end|><|assistant|>"


class Served:
    """A Triton, the gateway before it, and clients of that."""

    def __init__(self, triton: Server, url: str, entry: str) -> None:
        self.triton, self.url, self.entry = triton, url, entry
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        self.claude = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=60)


ACTIVE = 'nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"}'
CASES = [("tensorrt_llm_bls", True), ("tensorrt_llm_bls", False), ("ensemble", False)]
IDS = ["bls accumulating", "bls", "ensemble"]


def whole_server(room: Path, **more: Any) -> Server:
    """A server all of whose Python processes answer: on a busy machine Triton now and then loses one as it starts."""
    for _attempt in range(3):
        triton = Server(room, 1, **more)
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(triton.post, ["tensorrt_llm_bls"] * 48, [DOCUMENTED] * 48))
        broken = {text for status, text in answers if status != 200}
        if not broken:
            return triton
        triton.remove()
    pytest.fail(f"three servers in a row were not whole: {broken}")


needs_client = pytest.mark.skipif(
    not _venv.made(_bench_run.NAME, _bench_run.REQUIREMENTS),
    reason="the client of benchmark.yml, which `make test` installs, is not there; run tools/benchmark.py setup",
)
# Through its ensemble Triton streams each token by itself.
one_server = pytest.mark.parametrize("served", CASES[2:], ids=IDS[2:], indirect=True)


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def served(request: pytest.FixtureRequest, room: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    entry, accumulate = request.param
    triton = whole_server(room, accumulate=accumulate)
    model = {"name": "tiny", "entry_model": entry, "urls": [f"http://127.0.0.1:{triton.http}"]}
    model |= {"tokenizer_dir": str(room / "tiny"), "release": LAST, "max_seq_len": 512}
    try:
        with running(tmp_path_factory.mktemp("gateway"), {"models": [model]}) as (_process, url):
            yield Served(triton, url, entry)
    finally:
        triton.remove()


def benchmarked(asked: dict[str, Any], room: Path, repo_dir: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """What benchmark.yml does once it knows whom to ask."""
    tasks = [
        {"trtllm.fleet.trtllm_tokenizer_fetch": {"path": str(room / "tiny")}, "register": "tokens"},
        {"trtllm.fleet.fleet_benchmark": asked},
    ]
    play = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", str(tmp_path / "play.yml")]
    environ = {**os.environ, "ANSIBLE_CONFIG": str(repo_dir / "ansible.cfg")}
    return subprocess.run(
        [*argv, "-e", f"ansible_python_interpreter={sys.executable}"],
        cwd=repo_dir, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip


@needs_client
@one_server
@pytest.mark.parametrize("api", ["chat", "triton"])
def test_a_benchmark_counts_what_the_server_gives(
    served: Served, room: Path, api: str, repo_dir: Path, tmp_path: Path
) -> None:
    """The field's own client, with the tokenizer of the checkpoint, without a hub."""
    url = served.url if api == "chat" else f"http://127.0.0.1:{served.triton.http}"
    asked = {
        "url": url, "model": "tiny", "api": api, "key": "sk-not-asked-for", "tokenizer": "{{ tokens.files }}",
        "concurrency": [2], "lengths": [{"input": 24, "output": 8}], "requests": 6, "repeats": 1, "label": "one",
        "service_level": {"time_to_first_token": 60_000}, "directory": str(tmp_path / "runs"),
    }  # fmt: skip
    done = benchmarked(asked, room, repo_dir, tmp_path)
    assert done.returncode == 0 and "sk-not-asked-for" not in done.stdout + done.stderr, done.stdout + done.stderr
    (kept,) = (tmp_path / "runs").glob("*.json")
    run = json.loads(kept.read_text())
    (point,) = run["points"]
    assert (point["requests"], point["errors"], point["good_share"]) == (6, 0, 1.0)
    assert 0 < point["time_to_first_token_ms"]["p50"] <= point["request_latency_ms"]["p50"]
    # 6 answers of 8 tokens each, as the client counts them
    assert 6 <= point["output_tokens_per_second"]["mean"] / point["requests_per_second"]["mean"] <= 9
    assert (run["label"], run["verdict"], run["target"]["tunnel"]) == ("one", None, False)
    assert kept.with_suffix(".csv").read_text().count("\n") == 2
    assert "benchmark 1 of 1: 2 at once, 24 tokens in, 8 out: " in done.stdout


@needs_client
@one_server
def test_a_benchmark_refuses_what_became_slow(served: Served, room: Path, repo_dir: Path, tmp_path: Path) -> None:
    """Two real runs of the same service, the second through an address whose answers begin six seconds later."""
    asked = {
        "url": served.url, "model": "tiny", "api": "chat", "tokenizer": "{{ tokens.files }}", "concurrency": [2],
        "lengths": [{"input": 24, "output": 8}], "requests": 4, "repeats": 2, "label": "before",
        "directory": str(tmp_path / "runs"),
    }  # fmt: skip
    before = benchmarked(asked, room, repo_dir, tmp_path)
    assert before.returncode == 0, before.stdout + before.stderr
    port = free_port()
    argv = [sys.executable, str(repo_dir / "tests" / "contract" / "slow_address.py"), "127.0.0.1", str(port)]
    with subprocess.Popen([*argv, served.url.rpartition(":")[2], "6"]) as slow:
        try:
            again = {**asked, "url": f"http://127.0.0.1:{port}", "label": "", "against": "before", "gate": True}
            after = benchmarked(again, room, repo_dir, tmp_path)
        finally:
            slow.terminate()
    said = " ".join((after.stdout + after.stderr).split())
    assert after.returncode != 0 and "Against before: worse: " in said, said
    assert re.search(r"tiny is worse: time to first token \+\d+ % \(\+\d+ to \+\d+ %\)", said), said
    runs = [json.loads(path.read_text()) for path in sorted((tmp_path / "runs").glob("*.json"))]
    run = runs[-1]
    assert len(runs) == 2 and runs[0]["verdict"] is None
    assert run["verdict"]["verdict"] == "worse" and run["points"][0]["errors"] == 0


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that takes a moment on a machine that has nothing else to do."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def chat(served: Served, **more: Any) -> Any:
    given = {"model": "tiny", "messages": HI, "temperature": 0, "max_tokens": 100}
    return served.client.chat.completions.create(**{**given, **more})


def streamed(served: Served, **more: Any) -> tuple[str, str | None, Any]:
    """The text, the reason and the usage of a stream."""
    chunks = list(chat(served, stream=True, stream_options={"include_usage": True}, **more))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return text, next(c.choices[0].finish_reason for c in reversed(chunks) if c.choices), chunks[-1].usage


@pytest.mark.parametrize(("limit", "reason"), [(100, "stop"), (7, "length")])
def test_a_stream_says_what_the_whole_answer_says(served: Served, limit: int, reason: str) -> None:
    """Text, reason and usage; the engine's last response brings no token."""
    whole = chat(served, max_tokens=limit)
    text, why, usage = streamed(served, max_tokens=limit)
    assert text == whole.choices[0].message.content
    assert why == whole.choices[0].finish_reason == reason
    assert usage == whole.usage
    if reason == "stop":
        assert text == ANSWER and 0 < usage.completion_tokens < 60
    else:
        assert usage.completion_tokens == 7


def test_completions_several_and_repeated(served: Served) -> None:
    given: Any = {"model": "tiny", "temperature": 0, "max_tokens": 60}
    answer = served.client.completions.create(**given, prompt=[PLAIN, PLAIN], n=2, echo=True)
    assert [choice.text for choice in answer.choices] == [PLAIN + ANSWER] * 4
    one = served.client.completions.create(**given, prompt=PLAIN)
    assert answer.usage is not None and one.usage is not None
    assert answer.usage.prompt_tokens == 2 * one.usage.prompt_tokens
    assert answer.usage.completion_tokens == 4 * one.usage.completion_tokens


def test_a_prompt_of_tokens_is_the_prompt_of_their_text(served: Served) -> None:
    tokens = httpx.post(f"{served.url}/tokenize", json={"model": "tiny", "prompt": PLAIN}).json()["tokens"]
    plain = served.client.completions.create(model="tiny", prompt=PLAIN, temperature=0, max_tokens=60)
    answer = served.client.completions.create(model="tiny", prompt=tokens, temperature=0, max_tokens=60)
    assert answer.choices[0].text == plain.choices[0].text == ANSWER
    assert answer.usage is not None and answer.usage.prompt_tokens == len(tokens)
    talk = httpx.post(f"{served.url}/tokenize", json={"model": "tiny", "messages": HI}).json()
    assert talk["count"] == chat(served, max_tokens=1).usage.prompt_tokens


def test_seeds_repeat_and_differ(served: Served) -> None:
    wild: Any = {"temperature": 2, "max_tokens": 12}
    first, again, other = (chat(served, seed=seed, **wild).choices[0].message.content for seed in (1, 1, 2))
    assert first == again != other
    several = chat(served, seed=1, n=3, **wild)
    texts = [choice.message.content for choice in several.choices]
    assert texts[:2] == [first, other]


def test_probabilities_are_the_engines(served: Served) -> None:
    choice = chat(served, logprobs=True, max_tokens=5).choices[0]
    entries = choice.logprobs.content
    assert "".join(entry.token for entry in entries) == choice.message.content and len(entries) == 5
    assert all(-20 < entry.logprob <= 0 for entry in entries)
    stream = chat(served, logprobs=True, max_tokens=5, stream=True)
    found = [e for c in stream if c.choices and c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert [(e.token, e.logprob) for e in found] == [(e.token, pytest.approx(e.logprob, abs=1e-4)) for e in entries]


def test_a_biased_token_and_a_bad_word_are_not_written(served: Served) -> None:
    first = chat(served, max_tokens=1).choices[0].message.content
    body = {"model": "tiny", "prompt": first, "add_special_tokens": False}
    (token,) = httpx.post(f"{served.url}/tokenize", json=body).json()["tokens"]
    assert chat(served, max_tokens=1, logit_bias={str(token): -100}).choices[0].message.content != first
    assert "processor" not in chat(served, extra_body={"bad_words": [" processor"]}).choices[0].message.content


@pytest.mark.parametrize("stop", [" the same", "e same sm", ["zzz", "calculation"], " th"])
def test_stop_sequences_cut_whole_answers_and_streams(served: Served, stop: Any) -> None:
    words = [stop] if isinstance(stop, str) else stop
    expected = ANSWER[: min(at for word in words if (at := ANSWER.find(word)) >= 0)]
    whole = chat(served, stop=stop).choices[0]
    assert (whole.message.content, whole.finish_reason) == (expected, "stop")
    assert streamed(served, stop=stop)[:2] == (expected, "stop")


def test_the_end_can_be_ignored_and_demanded_late(served: Served) -> None:
    assert chat(served, max_tokens=80, extra_body={"ignore_eos": True}).usage.completion_tokens == 80
    assert chat(served, max_tokens=80, extra_body={"min_tokens": 40}).usage.completion_tokens >= 40


def test_the_newer_apis_answer_the_same(served: Served) -> None:
    answer = served.client.responses.create(model="tiny", input=QUESTION, temperature=0, max_output_tokens=100)
    assert answer.output_text == ANSWER
    events = list(served.client.responses.create(model="tiny", input=QUESTION, temperature=0, stream=True))
    assert events[-1].type == "response.completed" and events[-1].response.output_text == ANSWER
    given: Any = {"model": "tiny", "max_tokens": 100, "messages": HI, "extra_body": {"temperature": 0}}
    message = served.claude.messages.create(**given)
    assert message.content[0].text == ANSWER and message.stop_reason == "end_turn"  # type: ignore[union-attr]
    with served.claude.messages.stream(**given) as stream:
        assert stream.get_final_text() == ANSWER
    counted = served.claude.messages.count_tokens(model="tiny", messages=HI)
    assert counted.input_tokens == message.usage.input_tokens


def test_many_at_once_are_answered_alike(served: Served) -> None:
    async def all_at_once() -> set[Any]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
            asked = [
                client.chat.completions.create(model="tiny", messages=HI, temperature=0, max_tokens=60)
                for _ in range(24)
            ]
            return {answer.choices[0].message.content for answer in await asyncio.gather(*asked)}

    assert asyncio.run(all_at_once()) == {ANSWER}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"max_tokens": 5000}, "max_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"min_p": 0.1}}, "min_p"),
        ({"extra_body": {"top_k": 3_000_000_000}}, "top_k"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "messages"),
    ],
)
def test_what_cannot_be_done_is_a_400_that_names_it(served: Served, more: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat(served, **more)
    assert refused.value.param == param
    assert chat(served, max_tokens=1).usage.completion_tokens == 1, "and the next request is served"


# Not through the ensemble: Triton does not pass a cancellation on to its steps.
@pytest.mark.parametrize("served", CASES[:2], ids=IDS[:2], indirect=True)
@pytest.mark.parametrize("stream", [True, False])
def test_the_engine_does_not_work_for_a_client_that_has_gone(served: Served, stream: bool) -> None:
    before = served.triton.gauge(ITERATIONS)
    body = {"model": "tiny", "messages": HI, "max_tokens": 450, "ignore_eos": True, "stream": stream}
    data = json.dumps(body).encode()
    host, port = served.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + data)
        until(lambda: served.triton.gauge(ITERATIONS) > before)
    until(lambda: served.triton.gauge(ACTIVE) == 0)
    assert served.triton.gauge(ITERATIONS) - before < 450


def test_a_triton_that_is_told_to_stop_does_not_wait_for_idle_connections(room: Path, tmp_path: Path) -> None:
    triton = Server(room, 1)
    model = {"name": "tiny", "entry_model": "tensorrt_llm_bls", "urls": [f"http://127.0.0.1:{triton.http}"]}
    model |= {"tokenizer_dir": str(room / "tiny"), "release": LAST}
    try:
        with running(tmp_path, {"models": [model]}) as (_process, url):
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda _: client.completions.create(model="tiny", prompt=PLAIN, max_tokens=2), range(8)))
            begin = time.monotonic()
            assert triton.stop("pkill", "-TERM", "-o", "-x", "tritonserver") == 0
            assert time.monotonic() - begin < 12
            with pytest.raises(openai.InternalServerError) as down:
                client.completions.create(model="tiny", prompt=PLAIN, max_tokens=2)
            assert down.value.status_code == 503
    finally:
        triton.remove()
