# SPDX-License-Identifier: GPL-3.0-or-later
"""Completions, whole and streamed."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest
from conformance_api import Api, refused


@pytest.fixture(scope="module")
def plain(api: Api) -> Any:
    return api.text(max_tokens=60)


def test_the_object_has_its_documented_fields(api: Api, plain: Any) -> None:
    assert plain.object == "text_completion" and plain.model == api.model
    assert plain.id and abs(time.time() - plain.created) < 3600
    assert plain.choices[0].index == 0 and plain.choices[0].text


def test_an_answer_that_ends_by_itself_says_stop(plain: Any) -> None:
    assert plain.choices[0].finish_reason == "stop"


def test_an_answer_that_is_cut_says_length(api: Api, plain: Any) -> None:
    choice = api.text(max_tokens=3).choices[0]
    assert choice.finish_reason == "length" and plain.choices[0].text.startswith(choice.text)


def test_without_a_limit_sixteen_tokens_are_written(api: Api) -> None:
    made = api.openai.completions.create(model=api.model, prompt=api.question, temperature=0)
    assert made.usage is not None and made.usage.completion_tokens == 16


def test_usage_adds_up(plain: Any) -> None:
    usage = plain.usage
    assert usage.prompt_tokens > 0 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_the_prompt_is_not_repeated_unless_asked(api: Api, plain: Any) -> None:
    assert api.question not in plain.choices[0].text


def test_echo_puts_the_prompt_first(api: Api, plain: Any) -> None:
    assert api.text(echo=True, max_tokens=60).choices[0].text == api.question + plain.choices[0].text


def test_echo_streams_the_prompt_first(api: Api, plain: Any) -> None:
    assert api.text_stream(echo=True, max_tokens=60).text() == api.question + plain.choices[0].text


def test_several_prompts_are_answered_in_order(api: Api) -> None:
    made = api.text(prompt=[api.question, "Hello", api.question], max_tokens=5)
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    assert made.choices[0].text == made.choices[2].text


def test_several_prompts_and_answers_are_all_counted(api: Api) -> None:
    made = api.text(prompt=[api.question, api.question], n=2, max_tokens=5)
    one = api.text(max_tokens=5)
    assert len(made.choices) == 4 and made.usage.completion_tokens == 4 * one.usage.completion_tokens
    assert made.usage.prompt_tokens == 2 * one.usage.prompt_tokens


def test_a_list_of_one_prompt_is_that_prompt(api: Api, plain: Any) -> None:
    assert api.text(prompt=[api.question], max_tokens=60).choices[0].text == plain.choices[0].text


def test_several_prompts_stream_side_by_side(api: Api) -> None:
    stream = api.text_stream(prompt=[api.question, "Hello"], max_tokens=4)
    assert {choice.index for choice in stream.choices} == {0, 1} and len(stream.reasons) == 2


@pytest.mark.needs("tokenize")
def test_tokens_are_a_prompt(api: Api, plain: Any) -> None:
    tokens = api.post("/tokenize", {"model": api.model, "prompt": api.question}).json()["tokens"]
    assert api.text(prompt=tokens, max_tokens=60).choices[0].text == plain.choices[0].text


@pytest.mark.needs("tokenize")
def test_several_prompts_of_tokens_are_answered(api: Api, plain: Any) -> None:
    tokens = api.post("/tokenize", {"model": api.model, "prompt": api.question}).json()["tokens"]
    texts = [choice.text for choice in api.text(prompt=[tokens, tokens], max_tokens=60).choices]
    assert texts == [plain.choices[0].text] * 2


def test_best_of_shows_the_best(api: Api) -> None:
    made = api.text(best_of=3, n=1, temperature=1, max_tokens=4)
    assert len(made.choices) == 1


def test_best_of_costs_all_that_were_written(api: Api) -> None:
    assert api.text(best_of=3, n=1, max_tokens=4).usage.completion_tokens == 12


def test_best_of_below_n_is_refused(api: Api) -> None:
    refused(api.post("/v1/completions", api.text_body(n=3, best_of=2)), param="best_of")


def test_the_stream_is_the_whole_answer(api: Api, plain: Any) -> None:
    stream = api.text_stream(max_tokens=60)
    assert stream.text() == plain.choices[0].text and stream.reasons == ["stop"]


def test_a_stream_that_is_cut_says_length(api: Api) -> None:
    assert api.text_stream(max_tokens=3).reasons == ["length"]


def test_all_chunks_are_of_one_answer(api: Api) -> None:
    chunks = api.text_stream().chunks
    assert {chunk.object for chunk in chunks} == {"text_completion"} and len({chunk.id for chunk in chunks}) == 1


def test_a_stream_reports_usage_in_a_last_chunk_of_its_own(api: Api, plain: Any) -> None:
    stream = api.text_stream(max_tokens=60, stream_options={"include_usage": True})
    assert stream.chunks[-1].choices == [] and stream.usage == plain.usage


def test_logprobs_tell_each_token(api: Api) -> None:
    choice = api.text(logprobs=0, max_tokens=5).choices[0]
    found = choice.logprobs
    assert "".join(found.tokens) == choice.text and len(found.token_logprobs) == 5
    assert all(value <= 0 for value in found.token_logprobs)


def test_logprobs_tell_where_each_token_stands(api: Api) -> None:
    found = api.text(logprobs=0, max_tokens=5).choices[0].logprobs
    at = 0
    for token, offset in zip(found.tokens, found.text_offset):
        assert offset == at
        at += len(token)


def test_streamed_logprobs_are_those_of_the_whole_answer(api: Api) -> None:
    found = api.text(logprobs=0, max_tokens=5).choices[0].logprobs
    streamed = [c.logprobs for c in api.text_stream(logprobs=0, max_tokens=5).choices if c.logprobs]
    assert [token for part in streamed for token in part.tokens] == found.tokens


def test_suffixes_are_honoured_or_refused_by_name(api: Api) -> None:
    answer = api.post("/v1/completions", api.text_body(suffix="the end"))
    if answer.status_code != 200:
        refused(answer, param="suffix")


def test_the_asynchronous_client_answers_alike(api: Api, plain: Any) -> None:
    made = api.asynchronous(lambda client: client.completions.create(**api.text_body(max_tokens=60)))
    assert made.choices[0].text == plain.choices[0].text


def test_the_asynchronous_client_streams(api: Api, plain: Any) -> None:
    async def stream(client: openai.AsyncOpenAI) -> str:
        chunks = await client.completions.create(**api.text_body(max_tokens=60, stream=True))
        return "".join([chunk.choices[0].text async for chunk in chunks])

    assert api.asynchronous(stream) == plain.choices[0].text


def test_an_empty_list_of_prompts_is_refused(api: Api) -> None:
    refused(api.post("/v1/completions", api.text_body(prompt=[])), param="prompt")


@pytest.mark.needs("extras")
def test_a_long_prompt_can_be_cut_to_its_end(api: Api) -> None:
    cut = api.text(prompt="word " * 50 + api.question, extra_body={"truncate_prompt_tokens": 5})
    assert cut.usage.prompt_tokens <= 6
