# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway's endpoints against a scripted Triton, without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="images/openai_gateway/requirements.txt is not installed")

import httpx
from openai_gateway_fakes import OLD_INPUTS, OLD_OUTPUTS, FakeTriton, Network, gateway, make_checkpoint, model_entry

A, B = "http://a:8000", "http://b:8000"
Client = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def triton(checkpoint: Path) -> FakeTriton:
    return FakeTriton(checkpoint)


@pytest.fixture
def send(triton: FakeTriton, checkpoint: Path) -> Client:
    return gateway(Network(a=triton), model_entry(checkpoint, A))


def ask(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "What is machine learning?", **more}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **more}


def chunks(answer: httpx.Response) -> list[Any]:
    """The data of a stream's events, [DONE] left out after it was seen."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def streamed_text(answer: httpx.Response) -> str:
    choices = [chunk["choices"][0] for chunk in chunks(answer) if chunk["choices"]]
    return "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)


def test_models_are_listed_and_looked_up(send: Client) -> None:
    listed = send("/v1/models").json()
    assert listed["object"] == "list" and [card["id"] for card in listed["data"]] == ["tiny"]
    assert send("/v1/models/tiny").json()["object"] == "model"
    missing = send("/v1/models/none")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


def test_a_completion_has_the_text_the_reason_and_exact_counts(send: Client, triton: FakeTriton) -> None:
    answer = send("/v1/completions", ask(max_tokens=50)).json()
    choice, usage = answer["choices"][0], answer["usage"]
    assert (answer["object"], choice["text"], choice["finish_reason"]) == (
        "text_completion",
        "Hello, world!",
        "stop",
    )
    assert usage["prompt_tokens"] == triton._read(triton.seen[0])
    assert usage["completion_tokens"] == len(triton._write({"max_tokens": 50}))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_the_reason_is_length_when_the_tokens_ran_out(checkpoint: Path, stream: bool, counted: bool) -> None:
    """Also for releases whose engine reports no counts."""
    options: dict[str, Any] = {} if counted else {"inputs": OLD_INPUTS, "outputs": OLD_OUTPUTS}
    entry = model_entry(checkpoint, A, release="1.2.1" if counted else "0.19.0")
    send = gateway(Network(a=FakeTriton(checkpoint, **options)), entry)
    answer = send("/v1/completions", ask(max_tokens=3, stream=stream))
    choices = [c["choices"][0] for c in chunks(answer)] if stream else answer.json()["choices"]
    assert choices[-1]["finish_reason"] == "length"


def test_a_chat_completion_renders_the_checkpoints_template(send: Client, triton: FakeTriton) -> None:
    answer = send("/v1/chat/completions", chat(max_completion_tokens=50)).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Hello, world!",
        "refusal": None,
    }
    assert triton.seen[0]["text_input"] == "<|user|>\nHi</s><|assistant|>\n"
    assert triton.seen[0]["max_tokens"] == 50


@pytest.mark.parametrize(
    ("adds", "path", "body", "expected"),
    [
        ("True", "/v1/chat/completions", chat(), "<|user|>"),  # preprocessing puts <s> there
        ("False", "/v1/chat/completions", chat(), "<s><|user|>"),
        ("${add_special_tokens}", "/v1/chat/completions", chat(), "<|user|>"),  # unfilled: upstream's default
        ("True", "/v1/completions", ask(), "What is"),
        ("False", "/v1/completions", ask(), "<s>What is"),
        ("True", "/v1/completions", ask(prompt="<s>What is"), "What is"),
    ],
)
def test_the_model_reads_exactly_one_bos(
    checkpoint: Path, adds: str, path: str, body: dict[str, Any], expected: str
) -> None:
    triton = FakeTriton(checkpoint, add_special_tokens=adds.replace("${add_special_tokens}", "True"))
    triton.add_special_tokens = adds
    send = gateway(Network(a=triton), model_entry(checkpoint, A))
    counted = send(path, body).json()["usage"]["prompt_tokens"]
    text = triton.seen[0]["text_input"]
    assert text.startswith(expected)
    ids = triton.tokenizer.encode(text, add_special_tokens=adds != "False").ids
    assert ids.count(1) == 1 and ids[0] == 1
    if adds != "${add_special_tokens}":
        assert counted == len(ids)


@pytest.mark.parametrize("cumulative", [True, False])
def test_a_stream_brings_the_same_text_as_a_whole_answer(checkpoint: Path, cumulative: bool) -> None:
    triton = FakeTriton(checkpoint, "Hello, world!  a  b", cumulative=cumulative)
    send = gateway(Network(a=triton), model_entry(checkpoint, A))
    whole = send("/v1/completions", ask()).json()["choices"][0]["text"]
    stream = send("/v1/completions", ask(stream=True))
    assert len(chunks(stream)) > 3
    assert streamed_text(stream) == whole == "Hello, world!  a  b"


def test_a_streamed_chat_opens_with_the_role_and_ends_with_the_reason_and_usage(send: Client) -> None:
    stream = chunks(send("/v1/chat/completions", chat(stream=True, stream_options={"include_usage": True})))
    assert stream[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in stream)
    assert stream[-2]["choices"][0] == {"index": 0, "logprobs": None, "finish_reason": "stop", "delta": {}}
    assert stream[-1]["choices"] == [] and stream[-1]["usage"]["completion_tokens"] > 1
    assert all(chunk["usage"] is None for chunk in stream[:-1])
    assert len({chunk["id"] for chunk in stream}) == 1


@pytest.mark.parametrize("cumulative", [True, False])
@pytest.mark.parametrize("empty_last", [True, False])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("reply", "limit"), [("Hello, world!", 1), ("Hello, world!", 50), ("H", 50)])
def test_counts_and_reason_are_the_same_streamed_or_not(
    checkpoint: Path, cumulative: bool, empty_last: bool, stream: bool, reply: str, limit: int
) -> None:
    """The engine reports the tokens that are new in each response, and none in a last one without text."""
    triton = FakeTriton(checkpoint, reply, cumulative=cumulative, last_response_is_empty=empty_last)
    send = gateway(Network(a=triton), model_entry(checkpoint, A))
    more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    answer = send("/v1/completions", ask(max_tokens=limit, **more))
    found = chunks(answer) if stream else [answer.json()]
    assert found[-1]["usage"]["completion_tokens"] == len(triton._write({"max_tokens": limit}))
    reason = found[-2 if stream else 0]["choices"][0]["finish_reason"]
    assert reason == ("length" if limit == 1 else "stop")


def test_every_chunk_tells_the_counts_so_far_where_that_is_wanted(send: Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = chunks(send("/v1/completions", ask(stream=True, max_tokens=50, stream_options=options)))
    counts = [chunk["usage"]["completion_tokens"] for chunk in stream]
    assert counts == sorted(counts) and counts[0] == 1 and counts[-1] > 3
    assert all(chunk["usage"]["prompt_tokens"] == stream[-1]["usage"]["prompt_tokens"] > 0 for chunk in stream)


def test_characters_of_several_tokens_arrive_whole(checkpoint: Path) -> None:
    triton = FakeTriton(checkpoint, "naïve €5 😀!")
    send = gateway(Network(a=triton), model_entry(checkpoint, A))
    stream = send("/v1/completions", ask(stream=True, max_tokens=50))
    assert streamed_text(stream) == "naïve €5 😀!"
    assert "fffd" not in stream.text


def test_lines_that_only_unicode_ends_do_not_break_a_stream(checkpoint: Path) -> None:
    reply = "a\u2028b\u0085c\x0bd"
    send = gateway(Network(a=FakeTriton(checkpoint, reply)), model_entry(checkpoint, A))
    assert streamed_text(send("/v1/completions", ask(stream=True))) == reply


def test_a_tokenizer_that_loses_spaces_token_by_token_streams_in_one_piece(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "sp", sentencepiece=True)
    reply = "the quick brown fox"
    for cumulative, least, most in ((False, 1, 1), (True, 3, 99)):
        triton = FakeTriton(checkpoint, reply, cumulative=cumulative)
        send = gateway(Network(a=triton), model_entry(checkpoint, A))
        stream = send("/v1/completions", ask(stream=True))
        pieces = [chunk for chunk in chunks(stream) if chunk["choices"][0]["text"]]
        assert streamed_text(stream) == reply
        assert least <= len(pieces) <= most


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("stop", ["o, w", ["zzz", "o, w"]])
def test_a_stop_sequence_is_not_part_of_the_answer(send: Client, triton: FakeTriton, stop: Any, stream: bool) -> None:
    answer = send("/v1/completions", ask(stop=stop, stream=stream, max_tokens=50))
    if stream:
        assert streamed_text(answer) == "Hell"
        assert chunks(answer)[-1]["choices"][0]["finish_reason"] == "stop"
    else:
        assert (answer.json()["choices"][0]["text"], answer.json()["choices"][0]["finish_reason"]) == (
            "Hell",
            "stop",
        )
    # The engine is told too, and the further end token of generation_config.json goes along.
    assert triton.seen[0]["stop_words"] == ["<|eot|>", *([stop] if isinstance(stop, str) else stop)]


def test_the_newest_release_gets_its_names(send: Client, triton: FakeTriton) -> None:
    send("/v1/completions", ask(seed=-1, temperature=0.5, top_p=0.9, frequency_penalty=0.25, min_tokens=2))
    sent = triton.seen[0]
    assert sent["seed"] == 2**64 - 1 and sent["min_tokens"] == 2
    assert (sent["temperature"], sent["top_p"], sent["top_k"]) == (0.5, 0.9, 0)
    assert sent["frequency_penalty"] == 0.25 and "presence_penalty" not in sent
    assert sent["end_id"] == 2 and sent["exclude_input_in_output"] is True
    assert sent.keys() - {"id"} <= set(triton.inputs)


def test_an_old_release_gets_the_old_names_and_the_words_it_insists_on(checkpoint: Path) -> None:
    triton = FakeTriton(checkpoint, inputs=OLD_INPUTS, outputs=OLD_OUTPUTS, add_special_tokens="False")
    send = gateway(Network(a=triton), model_entry(checkpoint, A, release="0.7.2"))
    usage = send("/v1/completions", ask(seed=7, min_tokens=2, max_tokens=20)).json()["usage"]
    sent = triton.seen[0]
    assert (sent["random_seed"], sent["min_length"], sent["bad_words"]) == (7, 2, "")
    assert sent["stop_words"] == ["<|eot|>"]
    assert sent.keys() - {"id"} <= set(OLD_INPUTS)
    assert usage["prompt_tokens"] == triton._read(sent) and usage["completion_tokens"] > 1
    refused = send("/v1/completions", ask(frequency_penalty=1.0))
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "frequency_penalty"


@pytest.mark.parametrize("body", [ask(temperature=0), ask(top_p=0), ask(top_k=1, temperature=0.7)])
def test_no_chance_means_the_likeliest_token(send: Client, triton: FakeTriton, body: dict[str, Any]) -> None:
    send("/v1/completions", body)
    assert triton.seen[0]["top_k"] == 1
    assert not {"temperature", "top_p", "seed"} & triton.seen[0].keys()


def test_without_a_seed_two_requests_differ_in_theirs(send: Client, triton: FakeTriton) -> None:
    send("/v1/completions", ask())
    send("/v1/completions", ask())
    assert triton.seen[0]["seed"] != triton.seen[1]["seed"]
    assert (triton.seen[0]["temperature"], triton.seen[0]["top_p"]) == (1.0, 1.0)


def test_without_a_limit_the_answer_gets_what_is_left_up_to_the_cap(checkpoint: Path) -> None:
    for cap, expected in ((40, 40), (4096, None)):
        triton = FakeTriton(checkpoint)
        send = gateway(Network(a=triton), model_entry(checkpoint, A, max_seq_len=128, default_max_tokens=cap))
        answer = send("/v1/completions", ask()).json()
        left = 128 - answer["usage"]["prompt_tokens"]
        assert triton.seen[0]["max_tokens"] == (expected or left)


@pytest.mark.parametrize(("body", "param"), [(ask(max_tokens=256), "max_tokens"), (ask(prompt="abc " * 300), "prompt")])
def test_a_context_that_is_too_short_is_said_before_triton_is_asked(
    send: Client, triton: FakeTriton, body: dict[str, Any], param: str
) -> None:
    answer = send("/v1/completions", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert answer.json()["error"]["param"] == param
    assert triton.seen == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", ask(n=0), "n"),
        ("/v1/completions", ask(best_of=3, stream=True), "best_of"),
        ("/v1/completions", ask(echo=True, logprobs=0), "echo"),
        ("/v1/completions", ask(logprobs=1), "logprobs"),
        ("/v1/completions", ask(logit_bias={"x": 5}), "logit_bias"),
        ("/v1/completions", ask(prompt=[]), "prompt"),
        ("/v1/completions", ask(prompt=["a"] * 200, n=2), "prompt"),
        ("/v1/completions", ask(prompt=[5] * 300), "prompt"),
        ("/v1/completions", ask(logit_bias={str(i): 1 for i in range(2000)}), "logit_bias"),
        ("/v1/completions", ask(prompt=[[1, 2], "a"]), "prompt"),
        ("/v1/completions", ask(temperature=3), "temperature"),
        ("/v1/completions", ask(temperature="hot"), "temperature"),
        ("/v1/completions", ask(max_tokens=0), "max_tokens"),
        ("/v1/completions", ask(stop=[1]), "stop"),
        ("/v1/completions", ask(tempreature=1), "tempreature"),
        ("/v1/completions", ask(top_k=3_000_000_000), "top_k"),
        ("/v1/completions", ask(min_tokens=10**40), "min_tokens"),
        ("/v1/completions", ask(max_tokens=2**31), "max_tokens"),
        ("/v1/completions", ask(repetition_penalty=1e39), "repetition_penalty"),
        ("/v1/completions", ask(seed=2**63), "seed"),
        ("/v1/completions", ask(stream_options={"include_usage": True}), "stream_options"),
        ("/v1/completions", {"prompt": "x"}, "model"),
        ("/v1/completions", {"model": "tiny"}, "prompt"),
        ("/v1/chat/completions", chat(logprobs=True, top_logprobs=2), "top_logprobs"),
        ("/v1/chat/completions", chat(tools=[{"type": "function"}]), "tools[0].function"),
        ("/v1/chat/completions", chat(response_format={"type": "json_object"}), "response_format"),
        ("/v1/chat/completions", chat(messages=[]), "messages"),
        ("/v1/chat/completions", chat(messages=[{"content": "x"}]), "messages[0].role"),
        ("/v1/chat/completions", chat(messages=[{"role": "user"}]), "messages[0].content"),
        (
            "/v1/chat/completions",
            chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            "messages[0].content[0]",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    send: Client, triton: FakeTriton, path: str, body: dict[str, Any], param: str
) -> None:
    answer = send(path, body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert param.split("[")[0].split(".")[0] in error["message"]
    assert triton.seen == []


def test_parameters_that_ask_for_nothing_are_taken(send: Client) -> None:
    more: dict[str, Any] = {
        "n": 1,
        "logprobs": None,
        "user": "me",
        "tools": None,
        "logit_bias": {},
        "stop": None,
        "seed": None,
    }
    assert send("/v1/chat/completions", chat(**more)).status_code == 200
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert send("/v1/chat/completions", chat(messages=[*chat()["messages"], refusal])).status_code == 200
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert send("/v1/chat/completions", chat(messages=[{"role": "developer", "content": parts}])).status_code == 200


def test_an_unknown_model_is_404_and_a_broken_body_400(send: Client) -> None:
    missing = send("/v1/completions", ask(model="gpt-4"))
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"
    surrogate = r'{"model": "tiny", "prompt": "\ud83d"}'
    nan = '{"model": "tiny", "prompt": "x", "temperature": NaN}'
    for body in ("{", "[]", '"x"', surrogate, nan):
        broken = send("/v1/completions", body, headers={"content-type": "application/json"})
        assert broken.status_code == 400 and broken.json()["error"]["type"] == "invalid_request_error"
        if body == "[]":
            said = broken.json()["error"]["message"]
            assert said == "The body of the request must be a JSON object: Input should be an object."
    assert send("/v1/nothing").json()["error"]["message"] == "Unknown request URL: GET /v1/nothing."
    wrong = send("/v1/completions")
    assert wrong.status_code == 405 and wrong.headers["allow"] == "POST"


def test_a_body_beyond_the_limit_is_refused(triton: FakeTriton, checkpoint: Path) -> None:
    send = gateway(Network(a=triton), model_entry(checkpoint, A), max_body_bytes=2000)
    assert send("/v1/completions", ask(prompt="x" * 3000)).status_code == 413


@pytest.mark.parametrize(
    ("status", "words", "expected", "counts"),
    [
        (400, "Prompt length (300) exceeds maximum input length (255).", 400, False),
        (400, "Error when running inference: Incorrect sampling config", 400, False),
        (400, "Model tensorrt_llm - Error when running inference: Exceeds maximum queue size", 503, False),
        (400, "something that nobody has seen before", 502, False),
        (200, "Stub process 'preprocessing_0_0' is not healthy.", 502, True),
        (500, "Executor failed process requestId 3 due to the following error: CUDA out of memory", 502, True),
        (400, "Request for unknown model: 'tensorrt_llm_bls' is not found", 503, True),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_tritons_words_reach_the_client(
    checkpoint: Path, status: int, words: str, expected: int, counts: bool, stream: bool
) -> None:
    """An error may come with status 200, and most of Triton's own 400 are not the client's fault.

    Only what breaks the replica for everybody *counts* against it.
    """
    bad, good = FakeTriton(checkpoint), FakeTriton(checkpoint)
    bad.fail = (status, words)
    send = gateway(Network(a=bad), model_entry(checkpoint, A))
    answer = send("/v1/completions", ask(stream=stream))
    assert answer.status_code == expected
    assert words in answer.json()["error"]["message"]
    assert ("retry-after" in answer.headers) == (expected == 503)
    assert f'replica_failures{{model="tiny",replica="{A}"}} {float(counts)}' in send("/metrics").text
    # What may be the replica's trouble alone is tried on the next one.
    send = gateway(Network(a=bad, b=good), model_entry(checkpoint, A, B))
    assert send("/v1/completions", ask(stream=stream)).status_code == (400 if expected == 400 else 200)


def test_an_error_in_the_middle_of_a_stream_is_an_event_and_no_done(send: Client, triton: FakeTriton) -> None:
    triton.fail_after = 3
    answer = send("/v1/completions", ask(stream=True))
    assert answer.status_code == 200 and "[DONE]" not in answer.text
    assert "Executor failed" in json.loads(answer.text.split("data: ")[-1])["error"]["message"]


def test_a_repository_that_is_not_decoupled_still_streams_in_one_piece(checkpoint: Path) -> None:
    triton = FakeTriton(checkpoint, decoupled=False)
    send = gateway(Network(a=triton), model_entry(checkpoint, A, entry_model="ensemble"))
    assert streamed_text(send("/v1/completions", ask(stream=True))) == "Hello, world!"
    assert triton.seen[0]["stream"] is False


def test_triton_down_is_503_with_retry_after(checkpoint: Path) -> None:
    send = gateway(Network(a=None), model_entry(checkpoint, A))
    for stream in (True, False):
        answer = send("/v1/completions", ask(stream=stream))
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"]["type"] == "server_error" and A not in answer.text
    assert send("/health").status_code == 200
    assert send("/health/ready").status_code == 503


def test_another_replica_answers_for_one_that_is_down_or_broken(checkpoint: Path) -> None:
    good, broken = FakeTriton(checkpoint), FakeTriton(checkpoint)
    broken.fail = (400, "Stub process 'preprocessing_0_0' is not healthy.")
    for bad in (None, broken):
        send = gateway(Network(a=bad, b=good), model_entry(checkpoint, A, B))
        assert [send("/v1/completions", ask()).status_code for _ in range(6)] == [200] * 6
    assert len(broken.seen) == 1, "a replica that has just failed rests"


def test_ready_means_a_token_from_every_model(checkpoint: Path) -> None:
    good, dead = FakeTriton(checkpoint), FakeTriton(checkpoint)
    dead.fail = (400, "Stub process 'preprocessing_0_0' is not healthy.")
    models = model_entry(checkpoint, A), model_entry(checkpoint, B, name="other")
    send = gateway(Network(a=good, b=dead), *models)
    answer = send("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["models"]["tiny"] == {A: "ready"}
    assert "not healthy" in answer.json()["models"]["other"][B]
    assert send("/health/ready?require=any").status_code == 200
    assert good.seen[0]["max_tokens"] == 1 and len(good.seen) == 1, "a fresh proof is not asked for again"
    dead.fail = None
    assert send("/health/ready").status_code == 200


def test_keys_are_needed_where_they_are_configured(triton: FakeTriton, checkpoint: Path) -> None:
    send = gateway(Network(a=triton), model_entry(checkpoint, A), keys=("right", "other"))
    assert send("/v1/models").status_code == 401
    wrong = send("/v1/completions", ask(), headers={"Authorization": "Bearer wrong"})
    assert wrong.status_code == 401 and wrong.json()["error"]["code"] == "invalid_api_key"
    assert "wrong" not in wrong.text
    for key in ("right", "other"):
        assert send("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert send("/health").status_code == 200 and send("/metrics").status_code == 200


def test_metrics_count_requests_tokens_and_seconds(send: Client) -> None:
    usage = send("/v1/completions", ask(max_tokens=50)).json()["usage"]
    send("/v1/completions", ask(stream=True))
    send("/v1/completions", ask(max_tokens=9999))
    text = send("/metrics").text
    labels = 'endpoint="completions",model="tiny"'
    assert f'openai_gateway_requests_total{{code="200",{labels}}} 2.0' in text
    assert f'openai_gateway_requests_total{{code="400",{labels}}} 1.0' in text
    assert f'openai_gateway_completion_tokens_total{{model="tiny"}} {2.0 * usage["completion_tokens"]}' in text
    assert 'openai_gateway_request_seconds_bucket{endpoint="completions",le="+Inf",model="tiny"} 3.0' in text
    assert f"openai_gateway_first_token_seconds_count{{{labels}}} 2.0" in text
    assert "openai_gateway_requests_running 0.0" in text
    assert f'openai_gateway_replica_requests{{model="tiny",replica="{A}"}} 0.0' in text
    assert f"openai_gateway_token_seconds_count{{{labels}}} 2.0" in text


def test_metrics_count_what_was_refused(triton: FakeTriton, checkpoint: Path) -> None:
    send = gateway(Network(a=triton), model_entry(checkpoint, A), keys=("right",), max_body_bytes=2000)
    key = {"Authorization": "Bearer right"}
    send("/v1/completions", ask())
    send("/v1/completions", ask(model="gpt-4"), headers=key)
    send("/v1/completions", ask(temperature="hot"), headers=key)
    send("/v1/completions", ask(prompt="x" * 3000), headers=key)
    send("/v1/nothing/of/the/kind", headers=key)
    text = send("/metrics").text
    for code in (401, 404, 400, 413):
        assert f'openai_gateway_requests_total{{code="{code}",endpoint="completions",model=""}} 1.0' in text
    assert 'openai_gateway_requests_total{code="404",endpoint="other",model=""} 1.0' in text


def test_without_a_limit_the_answer_is_as_long_as_openais(checkpoint: Path) -> None:
    triton = FakeTriton(checkpoint)
    send = gateway(Network(a=triton), model_entry(checkpoint, A, max_seq_len=4096))
    send("/v1/completions", ask())
    send("/v1/chat/completions", chat())
    assert [sent["max_tokens"] for sent in triton.seen] == [16, 1024]


def test_triton_gets_the_requests_id_and_never_the_same_twice(send: Client, triton: FakeTriton) -> None:
    """A BLS model stops what it calls by its id, so a client must not be able to name another's."""
    for _ in range(2):
        answer = send("/v1/completions", ask(), headers={"X-Request-Id": "mine"})
        assert answer.headers["x-request-id"] == "mine"
    first, second = (sent["id"] for sent in triton.seen)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    send("/v1/completions", ask(), headers={"traceparent": trace})
    assert triton.headers["traceparent"] == trace
    assert first.startswith("mine-") and second.startswith("mine-") and first != second
