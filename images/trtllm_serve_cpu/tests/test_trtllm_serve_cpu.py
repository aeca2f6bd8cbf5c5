# SPDX-License-Identifier: GPL-3.0-or-later
"""The server of the image: its command line, the LLM API's file, its routes, and who asks it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="images/trtllm_serve_cpu/requirements.txt is not installed")
pytest.importorskip("numpy")

import httpx
import uvicorn
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.client import parse_metrics, requests_answered
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.gate import parse_gate
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.verify import Target
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.verify_by_api import verification_of
from openai_gateway.interface import describe
from openai_gateway_fakes import OPEN, FakeTriton, Network, gateway, model_entry
from starlette.applications import Starlette
from tensorrt_llm.errors import TrtllmError
from tensorrt_llm.llmapi.llm_args import LlmArgs
from tensorrt_llm.llmapi.model import Model
from trtllm_serve.llm_args import asks_for_metrics, read_args
from trtllm_serve.metrics import BUCKETS
from trtllm_serve.options import parser
from trtllm_serve.server import Server

REPO = Path(__file__).resolve().parents[3]
QUESTION = "What is machine learning?"
TEXT = " Machine learning is a field of computer science"


def arguments(tmp_path: Path, text: str = "", *words: str) -> LlmArgs:
    (tmp_path / "llm_args.yaml").write_text(text)
    return read_args(parser().parse_args(["/models/m", f"--extra_llm_api_options={tmp_path}/llm_args.yaml", *words]))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tiny-llama"
    subprocess.run([sys.executable, REPO / "tools" / "tiny_checkpoint.py", place], check=True, capture_output=True)
    return place


@pytest.fixture(scope="module")
def url(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    scratch = tmp_path_factory.mktemp("scratch")
    said = "max_batch_size: 4\nmax_seq_len: 128\nenable_iter_perf_stats: true\nkv_cache_config: {max_tokens: 2048}\n"
    model = Model(checkpoint, arguments(scratch, said), scratch)
    with served(Server(model, checkpoint.name, True).app()) as found:
        yield found


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 60
    while not server.started and time.monotonic() < end:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(60)


def ask(url: str, path: str = "completions", **body: Any) -> httpx.Response:
    asked = {"model": "tiny-llama", **({"prompt": QUESTION} if path == "completions" else {}), **body}
    return httpx.post(f"{url}/v1/{path}", json=asked, timeout=60)


def chunks(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


# -- the command line and the file -------------------------------------------------------------------------------------


def test_the_file_wins_over_the_command_line(tmp_path: Path) -> None:
    args = arguments(
        tmp_path, "max_batch_size: 3\nkv_cache_config: {enable_block_reuse: false}\n", "--max_batch_size=5"
    )
    assert args.max_batch_size == 3
    assert args.kv_cache_fraction == 0.9, "a kv_cache_config without a share leaves that of the command line"
    assert arguments(tmp_path, "", "--tp_size=2", "--free_gpu_memory_fraction=0.5").tp_size == 2


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        ("max_batch: 3\n", (), "max_batch\n  Extra inputs are not permitted"),
        ("kv_cache_config: {share: 1}\n", (), "kv_cache_config.share\n  Extra inputs are not permitted"),
        ("max_batch_size: many\n", (), "'many' is no whole number above 0"),
        ("speculative_config: {decoding_type: MTP}\n", (), "speculative decoding is not implemented in this image"),
        ("scheduler_config: {capacity_scheduler_policy: max}\n", (), "expected one of GUARANTEED_NO_EVICT"),
        ("kv_cache_config: {free_gpu_memory_fraction: 2}\n", (), "expected a number above 0 and at most 1"),
        ("context_parallel_size: 2\n", (), "context_parallel_size is 2; this image has 1 only"),
        ("[1]\n", (), "is no mapping of keys"),
        ("", ("--grpc",), "gRPC is not implemented in this image"),
        ("", ("--backend=tensorrt",), "pytorch alone"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(TrtllmError) as refused:
        arguments(tmp_path, text, *words)
    assert sentence in str(refused.value)


def test_an_unknown_option_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["m", "--max_input_len=5"])
    assert "unrecognized arguments: --max_input_len=5" in capsys.readouterr().err


# -- routes ------------------------------------------------------------------------------------------------------------


def test_the_model_is_called_as_its_directory(url: str) -> None:
    assert [model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]] == ["tiny-llama"]
    assert [httpx.get(f"{url}/{path}").status_code for path in ("health", "health_generate", "version")] == [200] * 3
    assert httpx.get(f"{url}/v2/models/ensemble/config").status_code == 404


def test_statistics_are_told_once(url: str) -> None:
    ask(url, max_tokens=2, top_k=1)
    (told,) = httpx.get(f"{url}/metrics").json()
    assert told["iter"] > 0 and told["maxNumActiveRequests"] == 4
    assert httpx.get(f"{url}/metrics").json() == []


def test_prometheus_is_told_what_answers_took(url: str) -> None:
    before = requests_answered(parse_metrics(httpx.get(f"{url}/prometheus/metrics").text)) or 0
    ask(url, max_tokens=4, top_k=1)
    answer = httpx.get(f"{url}/prometheus/metrics")
    samples = parse_metrics(answer.text)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert requests_answered(samples) == before + 1
    recorded = json.loads((REPO / "tests/contract/data/serve_metrics.json").read_text())["1.3.0rc3"]
    bases = {re.sub("_(bucket|sum|count)$", "", sample.name) for sample in samples}
    assert bases == {*recorded} - {"trtllm_request_queue_time_seconds"}
    assert {sample.labels["model_name"] for sample in samples} == {"undefined"}
    first = [one for one in samples if one.name == "trtllm_time_to_first_token_seconds_bucket"]
    assert [one.labels["le"] for one in first] == [*map(str, BUCKETS), "+Inf"]
    assert first[-1].value == before + 1 and sorted(one.value for one in first) == [one.value for one in first]


def test_it_has_metrics_for_prometheus_where_the_file_asks_for_them(tmp_path: Path) -> None:
    (tmp_path / "said.yaml").write_text("return_perf_metrics: true\n")
    options = parser().parse_args(["m", f"--extra_llm_api_options={tmp_path}/said.yaml"])
    assert asks_for_metrics(options) and not asks_for_metrics(parser().parse_args(["m"]))


def test_an_answer_is_the_same_whole_and_in_pieces(url: str) -> None:
    whole = ask(url, max_tokens=8, top_k=1).json()
    assert whole["choices"][0]["text"] == TEXT and whole["choices"][0]["finish_reason"] == "length"
    usage = {"include_usage": True, "continuous_usage_stats": True}
    *pieces, last = chunks(ask(url, max_tokens=8, top_k=1, stream=True, stream_options=usage))
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == TEXT
    assert [piece["usage"]["completion_tokens"] for piece in pieces] == list(range(1, 9))
    assert last["choices"] == [] and last["usage"] == whole["usage"]


def test_an_answer_ends_before_a_word_that_stops_it(url: str) -> None:
    pieces = chunks(ask(url, max_tokens=40, top_k=1, stream=True, stop=[" computer"]))
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == " Machine learning is a field of"
    assert pieces[-1]["choices"][0] | {"text": ""} == {
        "index": 0, "text": "", "token_ids": None, "finish_reason": "stop", "stop_reason": " computer",
    }  # fmt: skip


def test_a_chat_is_written_by_the_template_of_the_checkpoint(url: str) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    whole = ask(url, "chat/completions", messages=messages, max_tokens=8, temperature=0).json()
    assert whole["choices"][0]["message"]["content"].strip().startswith("Machine learning is")
    head, *pieces = chunks(ask(url, "chat/completions", messages=messages, max_tokens=8, temperature=0, stream=True))
    assert head["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
    assert text == whole["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"max_tokens": 2, "words": 3}, "Extra inputs are not permitted"),
        ({"prompt": None}, "'prompt'"),
        ({"prompt": {"a": 1}}, "neither a text nor tokens"),
        ({"max_tokens": 0}, "max_tokens must be greater than 0"),
        ({"n": 2}, "n is 2, which is not implemented in this image"),
        ({"prompt": QUESTION * 60}, "exceeds maximum input length"),
    ],
)
def test_what_is_wrong_is_a_400_of_its_own_shape(url: str, body: dict[str, Any], words: str) -> None:
    answer = ask(url, **body)
    assert answer.status_code == 400
    assert answer.json() | {"message": ""} == {
        "object": "error", "message": "", "type": "BadRequestError", "param": None, "code": 400,
    }  # fmt: skip
    assert words in answer.json()["message"]


# -- who asks it -------------------------------------------------------------------------------------------------------


def test_a_good_server_passes_every_check_and_its_gate(url: str) -> None:
    prompts = [{"prompt": QUESTION, "max_tokens": 8, "equals": TEXT}, {"prompt": "Hi", "equals": "x"}]
    gate = parse_gate({"prompts": prompts, "min_tokens_per_second": 0.001})
    target = Target(url, entry_models=["tiny-llama"], api="openai", early_stop_tokens=90, early_stop_ms=1, gate=gate)
    verification = verification_of(target)
    outcomes = verification.run()
    assert len(outcomes) == 1 + 3 + 5 + 1
    assert [(found.name, found.answer) for found in outcomes if found.ok is False] == [
        ("gate: prompt", f"{verification.answers['Hi']!r} instead of 'x'")
    ]
    assert verification.answers[QUESTION] == TEXT
    counted = next(found for found in outcomes if found.name == "metrics")
    assert counted.ok and "more requests counted" in counted.answer


def test_a_server_without_metrics_is_not_judged_by_them(checkpoint: Path, tmp_path: Path) -> None:
    model = Model(checkpoint, arguments(tmp_path, "max_batch_size: 4\nmax_seq_len: 128\n"), tmp_path)
    with served(Server(model, checkpoint.name).app()) as other:
        target = Target(other, entry_models=["tiny-llama"], api="openai", early_stop_tokens=90, early_stop_ms=1)
        found = next(one for one in verification_of(target).run() if one.name == "metrics")
    assert found.ok is None and "it counts no requests" in found.answer


def test_a_server_of_another_model_fails(url: str) -> None:
    outcomes = verification_of(Target(url, entry_models=["other"], api="openai")).run()
    assert outcomes[0].ok is False and "no model other, but tiny-llama" in outcomes[0].answer


@pytest.fixture
def network() -> Iterator[Network]:
    yield Network()
    while OPEN:
        OPEN.pop().close()


def test_a_gateway_finds_out_that_it_is_no_triton(url: str, checkpoint: Path, network: Network) -> None:
    one = gateway(network, model_entry(checkpoint, url))
    body = {"model": "tiny", "prompt": QUESTION, "max_tokens": 8, "temperature": 0}
    answer = one("/v1/completions", body).json()
    assert answer["choices"][0]["text"] == TEXT and answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 8
    streamed = one("/v1/completions", {**body, "stream": True})
    assert "".join(piece["choices"][0]["text"] for piece in chunks(streamed) if piece["choices"]) == TEXT
    stopped = one("/v1/completions", {**body, "max_tokens": 40, "stop": " computer"}).json()
    assert stopped["choices"][0]["text"] == " Machine learning is a field of"
    messages = [{"role": "user", "content": QUESTION}]
    chat = one("/v1/chat/completions", {"model": "tiny", "max_tokens": 8, "temperature": 0, "messages": messages})
    assert chat.json()["choices"][0]["message"]["content"].strip().startswith("Machine learning is")
    refused = one("/v1/completions", {**body, "logprobs": 1})
    assert refused.status_code == 400 and "logprobs" in refused.json()["error"]["message"]
    assert one("/v1/completions", {**body, "prompt": QUESTION * 60}).status_code == 400
    assert one("/health/ready").json()["models"]["tiny"] == {url: "ready"}


def test_a_gateway_fronts_it_beside_triton_under_one_name(url: str, checkpoint: Path, network: Network) -> None:
    triton = FakeTriton(checkpoint, TEXT.strip())
    network.hosts = {"triton": triton}
    one = gateway(network, model_entry(checkpoint, url, "http://triton:8000"))
    body = {"model": "tiny", "prompt": QUESTION, "max_tokens": 8, "temperature": 0}
    answers = [one("/v1/completions", body).json()["choices"][0]["text"].strip() for _request in range(4)]
    assert answers == [TEXT.strip()] * 4 and len(triton.seen) == 2
    # The one crosses over: what was known of it holds no more, and another request is asked of the other meanwhile.
    triton.app.router.routes.clear()
    assert [one("/v1/completions", body).status_code for _request in range(4)] == [200] * 4


def test_a_server_that_changes_what_it_is_is_looked_at_again(url: str, checkpoint: Path, network: Network) -> None:
    one = gateway(network, model_entry(checkpoint, url))
    body = {"model": "tiny", "prompt": QUESTION, "max_tokens": 8, "temperature": 0}
    (replica,) = one.gateway.models["tiny"].replicas.replicas
    # It was Triton when it was asked last.
    replica.interface = describe("1.2.1", {"name": "tensorrt_llm_bls", "input": [{"name": "text_input"}]}, {})
    assert one("/v1/completions", body).status_code >= 500
    replica.rests_until = 0.0
    assert one("/v1/completions", body).json()["choices"][0]["text"] == TEXT
