# SPDX-License-Identifier: GPL-3.0-or-later
"""Log probabilities in chat, and parameters of sampling beyond OpenAI's."""

from __future__ import annotations

import math
from typing import Any

import pytest
from conformance_api import Api, refused


@pytest.fixture(scope="module")
def choice(api: Api) -> Any:
    return api.chat(logprobs=True, max_tokens=6).choices[0]


def test_each_token_has_its_entry(choice: Any) -> None:
    assert len(choice.logprobs.content) == 6
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content


def test_probabilities_are_probabilities(choice: Any) -> None:
    assert all(0 < math.exp(entry.logprob) <= 1.0001 for entry in choice.logprobs.content)


def test_bytes_are_those_of_the_token(choice: Any) -> None:
    assert all(bytes(entry.bytes).decode() == entry.token for entry in choice.logprobs.content if entry.bytes)


def test_alternatives_are_empty_unless_asked(choice: Any) -> None:
    assert all(entry.top_logprobs == [] for entry in choice.logprobs.content)


def test_they_stream(api: Api, choice: Any) -> None:
    streamed = api.chat_stream(logprobs=True, max_tokens=6).choices
    entries = [entry for c in streamed if c.logprobs for entry in c.logprobs.content]
    assert [entry.token for entry in entries] == [entry.token for entry in choice.logprobs.content]


def test_the_likeliest_token_is_its_own_alternative(api: Api) -> None:
    for entry in api.chat(logprobs=True, top_logprobs=1, max_tokens=4).choices[0].logprobs.content:
        assert [(top.token, top.logprob) for top in entry.top_logprobs] == [(entry.token, entry.logprob)]


def test_top_logprobs_need_logprobs(api: Api) -> None:
    refused(api.post("/v1/chat/completions", api.chat_body(top_logprobs=1)), param="top_logprobs")


@pytest.mark.parametrize("wanted", [-1, 21, 1.5, "2"])
def test_top_logprobs_have_bounds(api: Api, wanted: Any) -> None:
    refused(api.post("/v1/chat/completions", api.chat_body(logprobs=True, top_logprobs=wanted)), param="top_logprobs")


@pytest.mark.needs("top_logprobs")
def test_alternatives_are_sorted(api: Api) -> None:
    for entry in api.chat(logprobs=True, top_logprobs=3, max_tokens=4).choices[0].logprobs.content:
        values = [top.logprob for top in entry.top_logprobs]
        assert len(values) == 3 and values == sorted(values, reverse=True)


@pytest.mark.needs("top_logprobs")
def test_completions_have_alternatives(api: Api) -> None:
    tops = api.text(logprobs=2, max_tokens=4).choices[0].logprobs.top_logprobs
    assert [len(top) for top in tops] == [2] * 4


def test_temperature_does_not_change_what_is_likely(api: Api, choice: Any) -> None:
    """Greedy twice: the same numbers."""
    again = api.chat(logprobs=True, max_tokens=6).choices[0].logprobs.content
    assert [e.logprob for e in again] == [pytest.approx(e.logprob, abs=1e-4) for e in choice.logprobs.content]


EXTRAS: dict[str, dict[str, Any]] = {
    "top_k": {"top_k": 1},
    "top_k off": {"top_k": -1},
    "repetition_penalty": {"repetition_penalty": 1.2},
    "min_tokens": {"min_tokens": 2},
    "length_penalty": {"length_penalty": 1.0},
    "bad_words": {"bad_words": ["zzz"]},
}


@pytest.mark.needs("extras")
@pytest.mark.parametrize("given", EXTRAS.values(), ids=EXTRAS)
def test_parameters_of_other_servers_are_taken(api: Api, given: dict[str, Any]) -> None:
    assert api.chat(extra_body=given, max_tokens=4).choices[0].message.content


@pytest.mark.needs("extras")
def test_top_k_1_is_the_likeliest_answer(api: Api, answer: str) -> None:
    made = api.chat(temperature=2, max_tokens=6, extra_body={"top_k": 1}).choices[0].message.content
    assert answer.startswith(made)


@pytest.mark.needs("extras")
def test_repetition_is_punished(api: Api, answer: str) -> None:
    made = api.chat(max_tokens=100, extra_body={"repetition_penalty": 50.0}).choices[0].message.content
    assert made != answer


@pytest.mark.needs("min_p")
def test_min_p_1_is_the_likeliest_answer(api: Api, answer: str) -> None:
    made = api.chat(temperature=2, max_tokens=6, extra_body={"min_p": 1.0}).choices[0].message.content
    assert answer.startswith(made)
