# SPDX-License-Identifier: GPL-3.0-or-later
"""What clients may ask for beyond one plain answer: several, probabilities, bound text, tools, thoughts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="images/openai_gateway/requirements.txt is not installed")

import httpx
from openai_gateway_fakes import TEMPLATE, FakeTriton, Gateway, Network, gateway, make_checkpoint, model_entry

A = "http://a:8000"
TOOL_TEMPLATE = (
    "{% for tool in tools or [] %}<tool>{{ tool | tojson }}</tool>{% endfor %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
BEGUN, BONN = '<tool_call>\n{"name": "', '{"city": "Bonn"}'
NAMED = {"type": "function", "function": {"name": "weather"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def tool_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tools"), template=TOOL_TEMPLATE)


@pytest.fixture
def triton(checkpoint: Path) -> FakeTriton:
    return FakeTriton(checkpoint)


@pytest.fixture
def send(triton: FakeTriton, checkpoint: Path) -> Gateway:
    return gateway(Network(a=triton), model_entry(checkpoint, A, max_seq_len=4096))


def ask(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "What is machine learning?", "max_tokens": 50, **more}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **more}


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def chunks(answer: httpx.Response) -> list[Any]:
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def by_choice(answer: httpx.Response, key: str) -> dict[int, str]:
    """The text of each choice of a stream."""
    texts: dict[int, str] = {}
    for chunk in chunks(answer):
        for choice in chunk["choices"]:
            piece = choice["text"] if key == "text" else choice["delta"].get(key) or ""
            texts[choice["index"]] = texts.get(choice["index"], "") + piece
    return texts


def test_several_answers_to_several_prompts(send: Gateway, triton: FakeTriton) -> None:
    answer = ok(send("/v1/completions", ask(prompt=["One", "Two"], n=2, seed=7, temperature=0.5)))
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [(i, "Hello, world!") for i in range(4)]
    sent = sorted((sent["text_input"], sent["seed"]) for sent in triton.seen)
    assert sent == [("One", 7), ("One", 8), ("Two", 7), ("Two", 8)], "each answer to a prompt is another one"
    one = ok(send("/v1/completions", ask(prompt="One")))["usage"]
    two = ok(send("/v1/completions", ask(prompt="Two")))["usage"]
    assert answer["usage"]["prompt_tokens"] == one["prompt_tokens"] + two["prompt_tokens"]
    assert answer["usage"]["completion_tokens"] == 4 * one["completion_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "key"), [("completions", ask(), "text"), ("chat/completions", chat(), "content")]
)
def test_several_answers_stream_side_by_side(send: Gateway, path: str, body: dict[str, Any], key: str) -> None:
    stream = send(f"/v1/{path}", {**body, "n": 3, "stream": True, "stream_options": {"include_usage": True}})
    assert by_choice(stream, key) == dict.fromkeys(range(3), "Hello, world!")
    reasons = [c for chunk in chunks(stream) for c in chunk["choices"] if c["finish_reason"]]
    assert sorted((c["index"], c["finish_reason"]) for c in reasons) == [(0, "stop"), (1, "stop"), (2, "stop")]
    whole = ok(send(f"/v1/{path}", {**body, "n": 3}))
    assert chunks(stream)[-1]["usage"] == whole["usage"]


def test_one_of_several_answers_that_fails_ends_all(send: Gateway, triton: FakeTriton) -> None:
    triton.fail = (400, "Prompt length (300) exceeds maximum input length (255).")
    for stream in (True, False):
        assert send("/v1/completions", ask(n=3, stream=stream)).status_code == 400
    assert "requests_running 0.0" in send("/metrics").text


def test_prompts_as_tokens(send: Gateway, triton: FakeTriton) -> None:
    ids = triton.tokenizer.encode("What is machine", add_special_tokens=False).ids
    ok(send("/v1/completions", ask(prompt=ids)))
    ok(send("/v1/completions", ask(prompt=[ids, ids[:2]])))
    assert [sent["text_input"] for sent in triton.seen[:2]] == ["What is machine"] * 2
    refused = send("/v1/completions", ask(prompt=[999_999]))
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "prompt"


def test_tokens_that_are_not_those_of_their_text_are_refused(send: Gateway, triton: FakeTriton) -> None:
    """Triton's preprocessing would make other tokens of that text."""
    ids = [triton.tokenizer.token_to_id(letter) for letter in "What"]
    assert triton.tokenizer.encode("What", add_special_tokens=False).ids != ids
    refused = send("/v1/completions", ask(prompt=ids))
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "prompt"


@pytest.mark.parametrize("n", [1, 2])
def test_the_prompt_is_repeated_where_that_is_wanted(send: Gateway, n: int) -> None:
    whole = ok(send("/v1/completions", ask(prompt=["One", "Two"], echo=True, n=n)))
    assert [c["text"] for c in whole["choices"]] == [f"{p}Hello, world!" for p in ("One", "Two") for _ in range(n)]
    stream = send("/v1/completions", ask(prompt=["One", "Two"], echo=True, n=n, stream=True))
    assert list(dict(sorted(by_choice(stream, "text").items())).values()) == [c["text"] for c in whole["choices"]]


@pytest.mark.parametrize("cumulative", [True, False])
@pytest.mark.parametrize("decoupled", [True, False])
def test_the_probabilities_of_tokens(checkpoint: Path, cumulative: bool, decoupled: bool) -> None:
    triton = FakeTriton(checkpoint, cumulative=cumulative, decoupled=decoupled)
    entry = model_entry(checkpoint, A, entry_model="tensorrt_llm_bls" if cumulative else "ensemble")
    send = gateway(Network(a=triton), entry)
    whole = ok(send("/v1/completions", ask(logprobs=0, max_tokens=4)))["choices"][0]
    found = whole["logprobs"]
    assert len(found["tokens"]) == 4 and found["token_logprobs"] == [-0.5] * 4
    assert "".join(found["tokens"]) == whole["text"]
    assert found["text_offset"] == [len("".join(found["tokens"][:i])) for i in range(4)]
    talk = ok(send("/v1/chat/completions", chat(logprobs=True, max_tokens=4)))["choices"][0]
    assert [entry["token"] for entry in talk["logprobs"]["content"]] == found["tokens"]
    assert bytes(b for entry in talk["logprobs"]["content"] for b in entry["bytes"]).decode() == whole["text"]
    stream = chunks(send("/v1/chat/completions", chat(logprobs=True, max_tokens=4, stream=True)))
    streamed = [c["choices"][0]["logprobs"] for c in stream if c["choices"][0]["logprobs"]]
    assert [entry["token"] for part in streamed for entry in part["content"]] == found["tokens"]
    assert triton.seen[0]["return_log_probs"] is True


def test_the_likeliest_of_several_answers(send: Gateway, triton: FakeTriton) -> None:
    answer = ok(send("/v1/completions", ask(best_of=3, n=1)))
    assert len(answer["choices"]) == 1 and len(triton.seen) == 3
    assert answer["choices"][0]["logprobs"] is None
    one = ok(send("/v1/completions", ask()))["usage"]["completion_tokens"]
    assert answer["usage"]["completion_tokens"] == 3 * one, "all of them were computed"


def test_the_likeliest_token_is_its_own_alternative(send: Gateway) -> None:
    found = ok(send("/v1/chat/completions", chat(logprobs=True, top_logprobs=1, temperature=0)))["choices"][0]
    entry = found["logprobs"]["content"][0]
    assert entry["top_logprobs"][0]["token"] == entry["token"]


def test_biased_tokens_bad_words_and_penalties_reach_the_engine(send: Gateway, triton: FakeTriton) -> None:
    token = triton.tokenizer.encode("H", add_special_tokens=False).ids[0]
    ok(send("/v1/completions", ask(logit_bias={str(token): -100}, bad_words="no", length_penalty=0.5, min_p=0)))
    sent = triton.seen[0]
    assert (sent["embedding_bias_words"], sent["embedding_bias_weights"]) == (["H"], [-100.0])
    assert sent["bad_words"] == ["no"] and sent["length_penalty"] == 0.5
    for body, param in ((ask(logit_bias={"999999": 1}), "logit_bias"), (ask(min_p=0.1), "min_p")):
        refused = send("/v1/completions", body)
        assert refused.status_code == 400 and refused.json()["error"]["param"] == param


def test_the_end_can_be_ignored_or_moved(send: Gateway, triton: FakeTriton) -> None:
    ok(send("/v1/completions", ask(ignore_eos=True)))
    assert triton.seen[0]["end_id"] == -1 and "stop_words" not in triton.seen[0]
    token = triton.tokenizer.token_to_id("H")
    ok(send("/v1/completions", ask(stop_token_ids=[token])))
    assert triton.seen[1]["stop_words"] == ["<|eot|>", "H"]
    kept = ok(send("/v1/completions", ask(stop="lo", include_stop_str_in_output=True)))
    assert kept["choices"][0]["text"] == "Hello"


def test_a_prompt_is_cut_to_its_last_tokens(send: Gateway, triton: FakeTriton) -> None:
    ok(send("/v1/completions", ask(prompt="What is machine learning?", truncate_prompt_tokens=2)))
    cut = triton.seen[0]["text_input"]
    assert "What is machine learning?".endswith(cut)
    assert len(triton.tokenizer.encode(cut, add_special_tokens=False).ids) == 2


def tools_gateway(checkpoint: Path, reply: str, **more: Any) -> tuple[Gateway, FakeTriton]:
    triton = FakeTriton(checkpoint, reply)
    return gateway(Network(a=triton), model_entry(checkpoint, A, max_seq_len=4096, **more)), triton


@pytest.mark.parametrize("stream", [True, False])
def test_a_call_is_read_out_of_the_answer(tool_checkpoint: Path, stream: bool) -> None:
    send, triton = tools_gateway(tool_checkpoint, f"Let me see.\n{CALL}\n{CALL}")
    body = chat(tools=[WEATHER], max_tokens=300)
    if stream:
        found = chunks(send("/v1/chat/completions", {**body, "stream": True}))
        deltas = [c["choices"][0]["delta"] for c in found]
        content = "".join(delta.get("content") or "" for delta in deltas)
        calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
        reason = found[-1]["choices"][0]["finish_reason"]
        assert [call["index"] for call in calls] == [0, 1]
    else:
        choice = ok(send("/v1/chat/completions", body))["choices"][0]
        content, calls = choice["message"]["content"], choice["message"]["tool_calls"]
        reason = choice["finish_reason"]
    assert content.strip() == "Let me see." and reason == "tool_calls"
    assert [call["function"]["name"] for call in calls] == ["weather"] * 2
    assert all(json.loads(call["function"]["arguments"]) == {"city": "Köln"} for call in calls)
    assert len({call["id"] for call in calls}) == 2
    assert '<tool>{"type": "function", "function": {"name": "weather"' in triton.seen[0]["text_input"]


def test_calls_and_results_of_the_history_are_rendered(tool_checkpoint: Path) -> None:
    send, triton = tools_gateway(tool_checkpoint, "Rain.")
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
    history = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    ok(send("/v1/chat/completions", chat(messages=history, tools=[WEATHER])))
    text = triton.seen[0]["text_input"]
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call><|tool|>rain' in text


@pytest.mark.parametrize(
    ("tools", "choice", "begun", "reply", "reason"),
    [
        ([WEATHER, CLOCK], "required", BEGUN, f'weather", "arguments": {BONN}}}\n</tool_call>', "tool_calls"),
        ([WEATHER], "required", f'{BEGUN}weather", "arguments": ', f"{BONN}}}\n</tool_call>", "tool_calls"),
        ([WEATHER, CLOCK], NAMED, f'{BEGUN}weather", "arguments": ', f"{BONN}}}\n</tool_call>", "stop"),
        ([WEATHER, CLOCK], NAMED, f'{BEGUN}weather", "arguments": ', BONN, "stop"),
    ],
)
@pytest.mark.parametrize("guided", ["xgrammar", ""])
def test_a_call_can_be_demanded(
    tool_checkpoint: Path, tools: list[Any], choice: Any, begun: str, reply: str, reason: str, guided: str
) -> None:
    """It is begun by the gateway, and bound where the engine can: by its schema where the function is known."""
    triton = FakeTriton(tool_checkpoint, reply, guided=guided)
    send = gateway(Network(a=triton), model_entry(tool_checkpoint, A, max_seq_len=4096))
    answer = ok(send("/v1/chat/completions", chat(tools=tools, tool_choice=choice, max_tokens=200)))["choices"][0]
    sent = triton.seen[0]
    assert sent["text_input"].endswith(f"<|assistant|>{begun}")
    kind = sent.get("guided_decoding_guide_type")
    assert kind == (None if not guided else "ebnf_grammar" if begun == BEGUN else "json_schema")
    if kind == "json_schema":
        assert json.loads(sent["guided_decoding_guide"]) == WEATHER["function"]["parameters"]
    elif kind:
        assert (
            '("weather" | "clock") "\\", \\"arguments\\": " object "}\\n</tool_call>"' in sent["guided_decoding_guide"]
        )
    (call,) = answer["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Bonn"}
    assert answer["message"]["content"] is None and answer["finish_reason"] == reason


def test_no_call_is_read_where_none_is_wanted(tool_checkpoint: Path) -> None:
    send, triton = tools_gateway(tool_checkpoint, CALL)
    answer = ok(send("/v1/chat/completions", chat(tools=[WEATHER], tool_choice="none", max_tokens=200)))["choices"][0]
    assert answer["message"]["content"] == CALL and "tool_calls" not in answer["message"]
    assert "<tool>" not in triton.seen[0]["text_input"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "{"}}]}]},
         "messages[0].tool_calls[0].function.arguments"),
    ],
)  # fmt: skip
def test_wrong_tools_are_refused_by_name(tool_checkpoint: Path, more: dict[str, Any], param: str) -> None:
    send, _ = tools_gateway(tool_checkpoint, "x")
    refused = send("/v1/chat/completions", chat(**more))
    assert refused.status_code == 400 and refused.json()["error"]["param"] == param


def test_tools_need_a_template_that_knows_them(send: Gateway) -> None:
    refused = send("/v1/chat/completions", chat(tools=[WEATHER]))
    assert refused.status_code == 400 and "chat template" in refused.json()["error"]["message"]


def test_the_template_gets_what_the_client_sends_along(tmp_path: Path) -> None:
    template = "{{ reasoning_effort }}|{{ enable_thinking }}|{{ messages[0].content }}|{{ add_generation_prompt }}"
    checkpoint = make_checkpoint(tmp_path / "c", template=template)
    triton = FakeTriton(checkpoint)
    send = gateway(Network(a=triton), model_entry(checkpoint, A))
    ok(send("/v1/chat/completions", chat(reasoning_effort="low", chat_template_kwargs={"enable_thinking": False})))
    ok(send("/v1/chat/completions", chat(add_generation_prompt=False)))
    assert [sent["text_input"] for sent in triton.seen] == ["low|False|Hi|True", "||Hi|False"]


def test_an_answer_that_was_begun_is_continued(send: Gateway, triton: FakeTriton) -> None:
    begun = [*chat()["messages"], {"role": "assistant", "content": "It is "}]
    ok(send("/v1/chat/completions", chat(messages=begun, continue_final_message=True)))
    assert triton.seen[0]["text_input"].endswith("<|assistant|>\nIt is")
    assert send("/v1/chat/completions", chat(continue_final_message=True)).status_code == 400


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("opened", [True, False])
def test_thoughts_are_told_apart_from_the_answer(tmp_path: Path, stream: bool, opened: bool) -> None:
    """The template may have opened them already."""
    template = TEMPLATE.replace("<|assistant|>\n", "<|assistant|>\n<think>\n") if opened else TEMPLATE
    checkpoint = make_checkpoint(tmp_path / "c", template=template, added=["<think>", "</think>"])
    send, _ = tools_gateway(checkpoint, ("" if opened else "<think>") + "Hm, what?</think>\n\nHello!")
    body = chat(max_tokens=200, stream=stream)
    answer = send("/v1/chat/completions", body)
    if stream:
        thoughts, content = by_choice(answer, "reasoning_content")[0], by_choice(answer, "content")[0]
    else:
        message = ok(answer)["choices"][0]["message"]
        thoughts, content = message["reasoning_content"], message["content"]
    assert (thoughts, content) == ("Hm, what?", "Hello!")
