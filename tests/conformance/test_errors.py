# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong is refused with OpenAI's error object, the right status, and the parameter's name."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from conformance_api import Api, refused

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"

# What is wrong with a chat, and the parameter that the error names.
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "temperature below 0": ({"temperature": -0.1}, "temperature"),
    "temperature above 2": ({"temperature": 2.1}, "temperature"),
    "temperature as a text": ({"temperature": "hot"}, "temperature"),
    "temperature as a list": ({"temperature": [1]}, "temperature"),
    "top_p below 0": ({"top_p": -0.1}, "top_p"),
    "top_p above 1": ({"top_p": 1.1}, "top_p"),
    "top_p as an object": ({"top_p": {}}, "top_p"),
    "presence_penalty below -2": ({"presence_penalty": -2.1}, "presence_penalty"),
    "presence_penalty above 2": ({"presence_penalty": 2.1}, "presence_penalty"),
    "frequency_penalty below -2": ({"frequency_penalty": -2.1}, "frequency_penalty"),
    "frequency_penalty above 2": ({"frequency_penalty": 2.1}, "frequency_penalty"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens"),
    "max_tokens below 0": ({"max_tokens": -1}, "max_tokens"),
    "max_tokens with a fraction": ({"max_tokens": 1.5}, "max_tokens"),
    "max_tokens as a text": ({"max_tokens": "many"}, "max_tokens"),
    "max_tokens beyond any number": ({"max_tokens": 10**40}, "max_tokens"),
    "max_completion_tokens 0": ({"max_completion_tokens": 0}, "max_completion_tokens"),
    "n 0": ({"n": 0}, "n"),
    "n below 0": ({"n": -1}, "n"),
    "n 129": ({"n": 129}, "n"),
    "n as a text": ({"n": "two"}, "n"),
    "a seed with a fraction": ({"seed": 1.5}, "seed"),
    "a seed as a text": ({"seed": "x"}, "seed"),
    "a seed beyond 64 bits": ({"seed": 2**70}, "seed"),
    "stream as a text": ({"stream": "perhaps"}, "stream"),
    "stream_options without stream": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "stream_options as a text": ({"stream": True, "stream_options": "all"}, "stream_options"),
    "include_usage as a text": (
        {"stream": True, "stream_options": {"include_usage": "x"}},
        "stream_options.include_usage",
    ),
    "a bias above 100": ({"logit_bias": {"5": 101}}, "logit_bias"),
    "a bias below -100": ({"logit_bias": {"5": -101}}, "logit_bias"),
    "a bias as a text": ({"logit_bias": {"5": "x"}}, "logit_bias"),
    "a bias of a word": ({"logit_bias": {"hello": 1}}, "logit_bias"),
    "biases as a list": ({"logit_bias": [5]}, "logit_bias"),
    "logprobs as a number": ({"logprobs": 3}, "logprobs"),
    "no messages": ({"messages": []}, "messages"),
    "messages as a text": ({"messages": "Hi"}, "messages"),
    "a message as a text": ({"messages": ["Hi"]}, "messages"),
    "a message without a role": ({"messages": [{"content": "Hi"}]}, "messages"),
    "a role as a number": ({"messages": [{"role": 1, "content": "Hi"}]}, "messages"),
    "content as a number": ({"messages": [{"role": "user", "content": 5}]}, "messages"),
    "no content": ({"messages": [{"role": "user"}]}, "messages"),
    "a part without a type": ({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, "messages"),
    "a part that nobody knows": ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages"),
    "a part without its text": ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        "messages",
    ),
    "modalities with audio": ({"modalities": ["text", "audio"]}, "modalities"),
    "a parameter that nobody knows": ({"no_such_parameter": 1}, "no_such_parameter"),
    "the model as a number": ({"model": 5}, "model"),
}


@pytest.mark.parametrize(("given", "param"), WRONG.values(), ids=WRONG)
def test_wrong_parameters_are_refused_by_name(api: Api, given: dict[str, Any], param: str) -> None:
    error = refused(api.post(CHAT, api.chat_body(**given)))
    assert error["type"] == "invalid_request_error"
    assert str(error["param"]).startswith(param), error


# The same of what is a number too large for an engine.
EXTRAS: dict[str, dict[str, Any]] = {
    "top_k beyond 32 bits": {"top_k": 3_000_000_000},
    "top_k below -1": {"top_k": -2},
    "min_tokens beyond 32 bits": {"min_tokens": 10**40},
    "min_p above 1": {"min_p": 1.1},
    "repetition_penalty 0": {"repetition_penalty": 0},
    "bad_words as a number": {"bad_words": 5},
    "stop_token_ids as texts": {"stop_token_ids": ["a"]},
    "ignore_eos as a text": {"ignore_eos": "yes"},
}


@pytest.mark.needs("extras")
@pytest.mark.parametrize("given", EXTRAS.values(), ids=EXTRAS)
def test_wrong_extras_are_refused_by_name(api: Api, given: dict[str, Any]) -> None:
    error = refused(api.post(CHAT, api.chat_body(**given)))
    assert str(error["param"]).startswith(next(iter(given)))


COMPLETIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a prompt as a number": ({"prompt": 5}, "prompt"),
    "a prompt as an object": ({"prompt": {}}, "prompt"),
    "a mixed list": ({"prompt": ["Hi", 5]}, "prompt"),
    "a token below 0": ({"prompt": [-1]}, "prompt"),
    "a token that no model has": ({"prompt": [2**31 - 1]}, "prompt"),
    "logprobs below 0": ({"logprobs": -1}, "logprobs"),
    "logprobs above 5": ({"logprobs": 6}, "logprobs"),
    "echo as a text": ({"echo": "loud"}, "echo"),
    "best_of 0": ({"best_of": 0}, "best_of"),
}


@pytest.mark.parametrize(("given", "param"), COMPLETIONS.values(), ids=COMPLETIONS)
def test_wrong_completions_are_refused_by_name(api: Api, given: dict[str, Any], param: str) -> None:
    assert str(refused(api.post(TEXT, api.text_body(**given)))["param"]).startswith(param)


@pytest.mark.parametrize(("path", "field"), [(CHAT, "model"), (CHAT, "messages"), (TEXT, "model"), (TEXT, "prompt")])
def test_what_is_missing_is_named(api: Api, path: str, field: str) -> None:
    body = api.chat_body() if path == CHAT else api.text_body()
    del body[field]
    refused(api.post(path, body), param=field)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_refused(api: Api, number: str) -> None:
    body = f'{{"model": "{api.model}", "messages": [{{"role": "user", "content": "Hi"}}], "temperature": {number}}}'
    refused(api.post(CHAT, body))


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_an_unknown_model_is_not_found(api: Api, path: str) -> None:
    body = {**(api.chat_body() if path == CHAT else api.text_body()), "model": "no-such-model"}
    error = refused(api.post(path, body), status=404)
    assert error["code"] == "model_not_found" and "no-such-model" in error["message"]


def test_an_unknown_model_is_not_found_in_streams_either(api: Api) -> None:
    refused(api.post(CHAT, {**api.chat_body(stream=True), "model": "no-such-model"}), status=404)


def test_a_wrong_stream_is_refused_before_it_begins(api: Api) -> None:
    answer = api.post(CHAT, api.chat_body(stream=True, temperature=5))
    refused(answer, param="temperature")


ERRORS = [
    (openai.NotFoundError, {"model": "no-such-model"}),
    (openai.BadRequestError, {"temperature": 5}),
    (openai.BadRequestError, {"messages": []}),
]


@pytest.mark.parametrize(("error", "given"), ERRORS, ids=["404", "400", "400 without messages"])
def test_the_client_raises_its_class(api: Api, error: Any, given: dict[str, Any]) -> None:
    with pytest.raises(error) as raised:
        api.chat(**given)
    assert raised.value.body["message"] and raised.value.request_id


@pytest.mark.needs("limits")
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_prompt_that_is_too_long_says_so(api: Api, path: str) -> None:
    long = "word " * 60_000
    body = api.chat_body(messages=[{"role": "user", "content": long}]) if path == CHAT else api.text_body(prompt=long)
    error = refused(api.post(path, body))
    assert error["code"] == "context_length_exceeded" and error["param"] in ("messages", "prompt")


@pytest.mark.needs("limits")
def test_an_answer_that_cannot_fit_is_refused(api: Api) -> None:
    refused(api.post(CHAT, api.chat_body(max_tokens=2_000_000_000)), param="max_tokens")


def test_a_refusal_harms_nobody(api: Api) -> None:
    for _ in range(5):
        refused(api.post(CHAT, api.chat_body(temperature=5)))
    assert api.chat(max_tokens=1).usage.completion_tokens == 1


@pytest.mark.needs("keys")
@pytest.mark.parametrize(
    "headers", [{"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}]
)
def test_without_the_key_nothing_is_served(api: Api, headers: dict[str, str]) -> None:
    error = refused(api.post(CHAT, api.chat_body(), headers=headers), status=401)
    assert api.key not in error["message"]


@pytest.mark.needs("keys")
def test_the_client_raises_its_class_without_the_key(api: Api) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(**{**api.options, "api_key": "wrong"}).models.list()


@pytest.mark.needs("keys")
def test_the_key_is_asked_for_before_the_body_is_judged(api: Api) -> None:
    refused(api.post(CHAT, "{broken", headers={"Authorization": "Bearer wrong"}), status=401)


@pytest.mark.needs("keys", "messages")
def test_anthropics_header_is_a_key_too(api: Api) -> None:
    headers = {"Authorization": "", "x-api-key": api.key}
    assert api.post("/v1/messages", api.chat_body(), headers=headers).status_code == 200
