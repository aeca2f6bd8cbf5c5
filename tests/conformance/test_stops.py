# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop sequences and other ends of an answer, where tokens have other borders than words."""

from __future__ import annotations

from typing import Any

import pytest
from conformance_api import Api, refused

# Where in the answer a stop sequence begins and ends, in characters after that many words.
CASES = {
    "a word": lambda words: f" {words[2]}",
    "several words": lambda words: " ".join(words[2:4]),
    "the inside of a word": lambda words: max(words, key=len)[1:4],
    "the end of one and the begin of the next": lambda words: f"{words[1][-1]} {words[2][:1]}",
    "one character": lambda words: words[1][0],
    "a blank": lambda words: " ",
    "the last words": lambda words: words[-1],
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", CASES)
def test_the_answer_ends_before_the_sequence(api: Api, answer: str, case: str, stream: bool) -> None:
    stop = CASES[case](answer.split())
    expected = answer[: answer.index(stop)]
    if stream:
        found = api.chat_stream(stop=stop, max_tokens=100)
        assert (found.text(), found.reasons) == (expected, ["stop"])
    else:
        choice = api.chat(stop=stop, max_tokens=100).choices[0]
        assert (choice.message.content, choice.finish_reason) == (expected, "stop")


def test_a_sequence_that_does_not_come_changes_nothing(api: Api, answer: str) -> None:
    assert api.chat(stop="zzzz", max_tokens=100).choices[0].message.content == answer


def test_a_sequence_that_nearly_comes_changes_nothing(api: Api, answer: str) -> None:
    almost = " ".join(answer.split()[1:3]) + "zzz"
    assert api.chat_stream(stop=almost, max_tokens=100).text() == answer


def test_the_first_of_several_sequences_counts(api: Api, answer: str) -> None:
    words = answer.split()
    stops = [words[4], words[2], "zzz"]
    made = api.chat(stop=stops, max_tokens=100).choices[0]
    assert made.message.content == answer[: min(answer.index(stop) for stop in stops[:2])]


def test_four_sequences_are_taken(api: Api) -> None:
    assert api.chat(stop=["zz1", "zz2", "zz3", "zz4"]).choices[0].message.content


def test_the_sequence_that_the_limit_cuts_is_text(api: Api, answer: str) -> None:
    """What has begun as a stop sequence and did not come to its end belongs to the answer."""
    part = api.chat(max_tokens=6).choices[0].message.content
    stop = answer[len(part) - 2 : len(part) + 3]
    found = api.chat_stream(stop=stop, max_tokens=6)
    assert found.text() == part and found.reasons == ["length"]


def test_completions_end_too(api: Api) -> None:
    text = api.text(max_tokens=60).choices[0].text
    stop = text.split()[3]
    made = api.text(stop=stop, max_tokens=60).choices[0]
    assert (made.text, made.finish_reason) == (text[: text.index(stop)], "stop")


def test_echo_is_not_searched(api: Api) -> None:
    """A sequence that the prompt has does not end the answer."""
    stop = api.question.split()[0]
    made = api.text(stop=stop, echo=True, max_tokens=4).choices[0]
    assert made.text.startswith(api.question) and len(made.text) > len(api.question)


def test_each_of_n_answers_ends(api: Api, answer: str) -> None:
    stop = answer.split()[2]
    choices = api.chat(stop=stop, n=2, max_tokens=100).choices
    assert [choice.message.content for choice in choices] == [answer[: answer.index(stop)]] * 2


@pytest.mark.needs("extras")
def test_the_sequence_can_be_included(api: Api, answer: str) -> None:
    stop = answer.split()[2]
    made = api.chat(stop=stop, max_tokens=100, extra_body={"include_stop_str_in_output": True}).choices[0]
    assert made.message.content == answer[: answer.index(stop) + len(stop)]


@pytest.mark.needs("extras")
def test_the_end_can_be_ignored(api: Api, whole: Any) -> None:
    many = whole.usage.completion_tokens + 5
    made = api.chat(max_tokens=many, extra_body={"ignore_eos": True})
    assert made.usage.completion_tokens == many and made.choices[0].finish_reason == "length"


@pytest.mark.needs("extras")
def test_the_end_can_be_kept_off(api: Api, whole: Any) -> None:
    many = whole.usage.completion_tokens + 5
    assert api.chat(max_tokens=many + 5, extra_body={"min_tokens": many}).usage.completion_tokens >= many


@pytest.mark.needs("extras", "tokenize")
def test_a_token_can_be_the_end(api: Api, answer: str) -> None:
    entries = api.chat(logprobs=True, max_tokens=4).choices[0].logprobs.content
    body = {"model": api.model, "prompt": entries[2].token, "add_special_tokens": False}
    tokens = api.post("/tokenize", body).json()["tokens"]
    assert len(tokens) == 1
    made = api.chat(max_tokens=100, extra_body={"stop_token_ids": tokens}).choices[0]
    # As vLLM has it: the token itself is shown, unless it is special.
    assert made.finish_reason == "stop" and made.message.content == "".join(entry.token for entry in entries[:3])


@pytest.mark.needs("extras")
def test_bad_words_are_not_written(api: Api, answer: str) -> None:
    word = " " + answer.split()[1]
    made = api.chat(max_tokens=20, extra_body={"bad_words": [word]}).choices[0]
    assert word not in made.message.content


@pytest.mark.parametrize("stop", [5, {"a": 1}, [1], [None], True])
def test_what_is_no_text_is_refused(api: Api, stop: Any) -> None:
    refused(api.post("/v1/chat/completions", api.chat_body(stop=stop)))
