# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client sees of Triton's text: whole characters, and nothing of a stop sequence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_gateway.text import AnswerText, StopFilter, TextAssembler

ALPHABET = "ab€😀 \n"
TEXTS = st.text(ALPHABET, max_size=30)
STOPS = st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3)


def stopped_token_by_token(text: str, stops: list[str]) -> str:
    """The definition: write character by character and stop as soon as a stop sequence is complete."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    return [*pieces, text[at:]]


@given(TEXTS, STOPS, st.lists(st.integers(0, 5), max_size=10))
def test_stop_sequences_end_the_text_wherever_its_pieces_are_cut(text: str, stops: list[str], sizes: list[int]) -> None:
    answer = AnswerText(stops, cumulative=False)
    shown = "".join(answer.feed(piece) for piece in cut(text, sizes)) + answer.finish(cut_off=True)
    assert shown == stopped_token_by_token(text, stops)
    assert answer.text == shown
    assert answer.stopped == any(stop in text for stop in stops)


@given(TEXTS, STOPS, st.lists(st.integers(0, 5), max_size=10))
def test_what_was_shown_is_never_taken_back(text: str, stops: list[str], sizes: list[int]) -> None:
    expected, shown = stopped_token_by_token(text, stops), ""
    answer = AnswerText(stops, cumulative=False)
    for piece in cut(text, sizes):
        shown += answer.feed(piece)
        assert expected.startswith(shown)


def test_text_is_held_back_no_longer_than_a_stop_sequence_is_possible() -> None:
    stop = StopFilter(["User:"])
    assert stop.feed("Hello Us") == "Hello "
    assert stop.feed("a") == "Usa"
    assert stop.feed("U") == ""
    assert stop.flush() == "U"


@given(st.text(max_size=20), st.lists(st.integers(0, 5), max_size=60))
def test_characters_cut_in_their_bytes_arrive_whole(text: str, sizes: list[int]) -> None:
    """Triton repeats the text so far; the tokenizer writes U+FFFD for bytes that make no character yet."""
    text = text.replace("\ufffd", "")
    raw, at, shown = text.encode(), 0, ""
    assembler = TextAssembler(cumulative=True)
    for size in [*sizes, len(raw)]:
        at += size
        new = assembler.feed(raw[:at].decode("utf-8", "replace"))
        assert "\ufffd" not in new
        shown += new
        assert text.startswith(shown)
    assert shown + assembler.flush(cut_off=True) == text


@pytest.mark.parametrize("cumulative", [True, False])
def test_an_answer_cut_off_inside_a_character_ends_before_it(cumulative: bool) -> None:
    assembler = TextAssembler(cumulative)
    assert assembler.feed("abc\ufffd\ufffd") == "abc"
    assert assembler.flush(cut_off=True) == ""


@pytest.mark.parametrize("cumulative", [True, False])
def test_an_answer_that_ends_by_itself_keeps_its_last_character(cumulative: bool) -> None:
    """Also where the model wrote U+FFFD itself."""
    assembler = TextAssembler(cumulative)
    assert assembler.feed("abc\ufffd") == "abc"
    assert assembler.flush(cut_off=False) == "\ufffd"


def test_a_replacement_character_that_the_model_meant_is_shown() -> None:
    assembler = TextAssembler(cumulative=True)
    assert assembler.feed("a\ufffd") == "a"
    assert assembler.feed("a\ufffdb") == "\ufffdb"


def test_spaces_at_the_start_of_a_piece_are_kept() -> None:
    answer = AnswerText([], cumulative=False)
    assert [answer.feed(piece) for piece in ("Hello", " world", "  \n")] == ["Hello", " world", "  \n"]


def test_a_space_that_the_tokenizer_takes_back_was_never_shown() -> None:
    assembler = TextAssembler(cumulative=True)
    shown = [assembler.feed(text) for text in ("Hello", "Hello ", "Hello.")]
    assert "".join(shown) == "Hello."
