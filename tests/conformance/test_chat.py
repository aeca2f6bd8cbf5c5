# SPDX-License-Identifier: GPL-3.0-or-later
"""Chat completions, whole and streamed, as OpenAI documents the objects."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest
from conformance_api import Api, refused


def test_the_object_has_its_documented_fields(api: Api, whole: Any) -> None:
    assert whole.object == "chat.completion" and whole.model == api.model
    assert whole.id and abs(time.time() - whole.created) < 3600


def test_ids_differ(api: Api, whole: Any) -> None:
    assert api.chat(max_tokens=1).id != whole.id


def test_there_is_one_choice_of_the_assistant(whole: Any) -> None:
    (choice,) = whole.choices
    assert choice.index == 0 and choice.message.role == "assistant" and choice.message.content


def test_an_answer_that_ends_by_itself_says_stop(whole: Any) -> None:
    assert whole.choices[0].finish_reason == "stop"


def test_an_answer_that_is_cut_says_length(api: Api, answer: str) -> None:
    choice = api.chat(max_tokens=4).choices[0]
    assert choice.finish_reason == "length" and answer.startswith(choice.message.content)


def test_max_completion_tokens_is_the_newer_name(api: Api) -> None:
    body = api.chat_body(max_completion_tokens=3)
    del body["max_tokens"]
    made = api.openai.chat.completions.create(**body)
    assert made.choices[0].finish_reason == "length" and made.usage is not None and made.usage.completion_tokens == 3


def test_nothing_that_was_not_asked_for_is_in_the_message(whole: Any) -> None:
    message = whole.choices[0].message
    assert not message.tool_calls and not message.refusal and not whole.choices[0].logprobs


def test_usage_adds_up(whole: Any) -> None:
    usage = whole.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_usage_counts_what_was_written(api: Api) -> None:
    assert api.chat(max_tokens=6).usage.completion_tokens == 6


def test_a_longer_prompt_costs_more(api: Api, whole: Any) -> None:
    longer = api.chat(messages=[{"role": "user", "content": f"{api.question} {api.question}"}], max_tokens=1)
    assert longer.usage.prompt_tokens > whole.usage.prompt_tokens


def test_temperature_0_repeats_itself(api: Api, answer: str) -> None:
    assert api.chat(max_tokens=100).choices[0].message.content == answer


CONVERSATIONS: dict[str, list[Any]] = {
    "a system's instructions": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    "a developer's instructions": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    "several turns": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Thank you"},
    ],
    "a user with a name": [{"role": "user", "name": "ann", "content": "Hello"}],
    "an assistant's refusal": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": "Hello"},
    ],
    "an empty text": [{"role": "user", "content": ""}],
}


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_conversations_are_taken(api: Api, messages: list[Any]) -> None:
    assert api.chat(messages=messages, max_tokens=2).usage.completion_tokens == 2


def test_a_text_in_parts_is_that_text(api: Api, answer: str) -> None:
    parts = [{"type": "text", "text": api.question}]
    messages = [{"role": "user", "content": parts}]
    assert api.chat(messages=messages, max_tokens=100).choices[0].message.content == answer


def test_instructions_are_part_of_the_prompt(api: Api, whole: Any) -> None:
    longer = api.chat(messages=[{"role": "system", "content": "Be brief."}, *api.messages], max_tokens=1)
    assert longer.usage.prompt_tokens > whole.usage.prompt_tokens


@pytest.mark.parametrize(
    "text",
    [
        "naïve café €",
        "日本語のテキスト",
        "😀👩‍👩‍👧‍👦",
        "line one\nline two\r\n",
        "\u2028\u2029 \u0000",
        '"quotes" \\ {{ }} {% x %}',
    ],
)
def test_any_text_is_taken(api: Api, text: str) -> None:
    assert api.chat(messages=[{"role": "user", "content": text}], max_tokens=1).usage.completion_tokens == 1


PARAMETERS: dict[str, dict[str, Any]] = {
    "temperature above 1": {"temperature": 1.5},
    "temperature 2": {"temperature": 2},
    "top_p": {"top_p": 0.5, "temperature": 1},
    "presence_penalty": {"presence_penalty": 1.5},
    "a negative presence_penalty": {"presence_penalty": -2},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "a seed": {"seed": 42, "temperature": 1},
    "user": {"user": "somebody"},
    "metadata": {"metadata": {"a": "b"}},
    "store off": {"store": False},
    "service_tier": {"service_tier": "auto"},
    "parallel_tool_calls without tools": {"parallel_tool_calls": True},
    "response_format text": {"response_format": {"type": "text"}},
    "n 1": {"n": 1},
    "logprobs off": {"logprobs": False},
    "an empty logit_bias": {"logit_bias": {}},
    "an empty list of stops": {"stop": []},
    "nothing in every optional": {
        "stop": None,
        "n": None,
        "seed": None,
        "top_p": None,
        "user": None,
        "logit_bias": None,
    },
}


@pytest.mark.parametrize("given", PARAMETERS.values(), ids=PARAMETERS)
def test_documented_parameters_are_taken(api: Api, given: dict[str, Any]) -> None:
    assert api.chat(**{"max_tokens": 2, **given}).usage.completion_tokens > 0


def test_the_same_seed_gives_the_same_answer(api: Api) -> None:
    texts = {api.chat(temperature=2, seed=7, max_tokens=8).choices[0].message.content for _ in range(3)}
    assert len(texts) == 1


def test_seeds_make_a_difference(api: Api) -> None:
    texts = {api.chat(temperature=2, seed=seed, max_tokens=10).choices[0].message.content for seed in range(4)}
    assert len(texts) > 1


def test_without_a_seed_chance_decides(api: Api) -> None:
    # a small model is often sure of its answer
    texts = {api.chat(temperature=2, max_tokens=10).choices[0].message.content for _ in range(24)}
    assert len(texts) > 1


def test_top_p_0_is_the_likeliest_answer(api: Api, answer: str) -> None:
    assert answer.startswith(api.chat(temperature=1, top_p=0, max_tokens=6).choices[0].message.content)


def test_n_answers_are_numbered(api: Api) -> None:
    choices = api.chat(n=3, temperature=1, max_tokens=4).choices
    assert [choice.index for choice in choices] == [0, 1, 2]


def test_n_answers_differ_where_chance_decides(api: Api) -> None:
    assert len({choice.message.content for choice in api.chat(n=4, temperature=2, max_tokens=10).choices}) > 1


def test_n_answers_count_the_prompt_once(api: Api, whole: Any) -> None:
    usage = api.chat(n=2, max_tokens=4).usage
    assert usage.prompt_tokens == whole.usage.prompt_tokens and usage.completion_tokens == 8


def test_n_answers_stream_side_by_side(api: Api, answer: str) -> None:
    stream = api.chat_stream(n=2, max_tokens=6)
    assert {choice.index for choice in stream.choices} == {0, 1} and stream.reasons == ["length", "length"]
    assert stream.text(0) == stream.text(1) and answer.startswith(stream.text(0))


def test_a_biased_token_is_not_written(api: Api, answer: str) -> None:
    first = api.chat(logprobs=True, max_tokens=1).choices[0].logprobs.content[0].token
    ids = api.post("/tokenize", {"model": api.model, "prompt": first, "add_special_tokens": False})
    if ids.status_code == 404:
        # Without a tokenizer at hand: every token of the smallest vocabularies.
        bias = {str(token): -100 for token in range(256, 512)}
    else:
        bias = {str(token): -100 for token in ids.json()["tokens"]}
    made = api.chat(logit_bias=bias, max_tokens=6)
    assert not answer.startswith(made.choices[0].message.content)


def test_the_stream_is_the_whole_answer(api: Api, answer: str) -> None:
    stream = api.chat_stream(max_tokens=100)
    assert stream.text() == answer and stream.reasons == ["stop"]


def test_the_stream_comes_in_pieces(api: Api) -> None:
    assert sum(bool(choice.delta.content) for choice in api.chat_stream(max_tokens=100).choices) > 3


def test_a_stream_that_is_cut_says_length(api: Api, answer: str) -> None:
    stream = api.chat_stream(max_tokens=4)
    assert stream.reasons == ["length"] and answer.startswith(stream.text())


def test_all_chunks_are_of_one_answer(api: Api) -> None:
    chunks = api.chat_stream().chunks
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1
    assert {chunk.model for chunk in chunks} == {api.model}


def test_the_role_comes_first_and_once(api: Api) -> None:
    roles = [choice.delta.role for choice in api.chat_stream().choices]
    assert roles[0] == "assistant" and not any(roles[1:])


def test_the_reason_comes_last_and_once(api: Api) -> None:
    reasons = [choice.finish_reason for choice in api.chat_stream().choices]
    assert reasons[-1] == "length" and not any(reasons[:-1])


def test_a_stream_has_no_usage_unless_asked(api: Api) -> None:
    assert api.chat_stream().usage is None


def test_a_stream_reports_usage_in_a_last_chunk_of_its_own(api: Api, whole: Any) -> None:
    stream = api.chat_stream(max_tokens=100, stream_options={"include_usage": True})
    assert stream.chunks[-1].choices == [] and stream.chunks[-1].usage == stream.usage
    assert stream.usage.completion_tokens == whole.usage.completion_tokens
    assert stream.usage.prompt_tokens == whole.usage.prompt_tokens
    assert not any(chunk.usage for chunk in stream.chunks[:-1])


def test_usage_of_a_cut_stream_is_what_was_written(api: Api) -> None:
    stream = api.chat_stream(max_tokens=5, stream_options={"include_usage": True})
    assert stream.usage.completion_tokens == 5


def test_include_usage_may_be_off(api: Api) -> None:
    assert api.chat_stream(stream_options={"include_usage": False}).usage is None


@pytest.mark.needs("extras")
def test_usage_can_come_with_every_chunk(api: Api) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    stream = api.chat_stream(max_tokens=6, stream_options=options)
    counts = [chunk.usage.completion_tokens for chunk in stream.chunks if chunk.usage]
    assert len(counts) > 3 and counts == sorted(counts) and counts[-1] == 6


def test_stream_helper_of_the_client_collects_the_answer(api: Api, answer: str) -> None:
    with api.openai.chat.completions.stream(model=api.model, messages=api.messages, temperature=0) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_completion().choices[0].message.content == answer
    assert {"chunk", "content.delta", "content.done"} <= kinds


def test_the_asynchronous_client_answers_alike(api: Api, answer: str) -> None:
    made = api.asynchronous(lambda client: client.chat.completions.create(**api.chat_body(max_tokens=100)))
    assert made.choices[0].message.content == answer


def test_the_asynchronous_client_streams(api: Api, answer: str) -> None:
    async def stream(client: openai.AsyncOpenAI) -> str:
        chunks = await client.chat.completions.create(**api.chat_body(max_tokens=100, stream=True))
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

    assert api.asynchronous(stream) == answer


def test_the_raw_response_has_the_request_id(api: Api) -> None:
    raw = api.openai.chat.completions.with_raw_response.create(**api.chat_body())
    assert raw.status_code == 200 and raw.headers["content-type"].startswith("application/json")
    assert raw.headers["x-request-id"] and raw.parse().choices


@pytest.mark.needs("extras")
def test_an_answer_can_be_begun(api: Api, answer: str) -> None:
    begun = " ".join(answer.split()[:4])
    messages = [*api.messages, {"role": "assistant", "content": begun}]
    more = {"continue_final_message": True, "add_generation_prompt": False}
    made = api.chat(messages=messages, max_tokens=100, extra_body=more)
    assert begun + made.choices[0].message.content == answer


@pytest.mark.needs("extras")
def test_begun_and_prompted_exclude_each_other(api: Api) -> None:
    body = api.chat_body(continue_final_message=True, add_generation_prompt=True)
    refused(api.post("/v1/chat/completions", body), param="continue_final_message")


@pytest.mark.needs("extras")
@pytest.mark.parametrize("given", [{"reasoning_effort": "low"}, {"chat_template_kwargs": {"enable_thinking": False}}])
def test_templates_get_their_parameters(api: Api, given: Any) -> None:
    assert api.chat(extra_body=given).choices[0].message.content
