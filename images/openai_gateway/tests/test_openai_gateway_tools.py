# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls and thoughts are read the same however an answer is cut into pieces."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_gateway.tools import FAMILIES, ReasoningReader, ToolCall, ToolCallReader, family_of

NAMES = ("weather", "time")
ARGUMENTS = st.dictionaries(
    st.text("ab{}\"'\\<é ", max_size=4), st.text('x}]{["\n</tool_call>', max_size=8), max_size=3
)
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), min_size=1, max_size=3)
SIZES = st.lists(st.integers(0, 7), max_size=60)


def write(family: str, calls: list[tuple[str, dict[str, str]]], special: bool) -> str:
    """The calls as a model of *family* writes them; *special*: Triton lets special tokens through."""
    objects = [json.dumps({"name": name, FAMILIES[family].arguments: given}) for name, given in calls]
    if family == "hermes":
        return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in objects)
    if family == "mistral":
        return ("[TOOL_CALLS] " if special else " ") + f"[{', '.join(objects)}]"
    if family == "llama3":
        return ("<|python_tag|>" if special else "") + "; ".join(objects)
    return "\n".join(objects)


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    return [*pieces, text[at:]]


def read(family: str, pieces: list[str], **more: bool) -> tuple[str, list[ToolCall]]:
    reader = ToolCallReader(FAMILIES[family], NAMES, **more)
    found = [item for piece in pieces for item in reader.feed(piece)] + reader.finish()
    return "".join(i for i in found if isinstance(i, str)), [i for i in found if isinstance(i, ToolCall)]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@given(calls=CALLS, sizes=SIZES)
def test_calls_are_found_wherever_the_pieces_are_cut(
    family: str, special: bool, calls: list[tuple[str, dict[str, str]]], sizes: list[int]
) -> None:
    if family == "hermes":  # its end marker is no token that JSON could not hold
        calls = [(n, {k: v.replace("</tool_call>", "") for k, v in a.items()}) for n, a in calls]
    text, found = read(family, cut(write(family, calls, special), sizes))
    assert text.strip() == ""
    assert [(call.name, json.loads(call.arguments)) for call in found] == calls


@pytest.mark.parametrize("family", FAMILIES)
@given(text=st.text("ab <>{}[]|/\"':tool_call\n", max_size=40), sizes=SIZES)
def test_what_is_no_call_is_text(family: str, text: str, sizes: list[int]) -> None:
    assert read(family, cut(text, sizes)) == (text, [])


@pytest.mark.parametrize("text", ['{"name": "other", "arguments": {}}', '{"name": "weather"', "[1, 2]", "{}"])
@pytest.mark.parametrize("family", ["json", "llama3", "mistral"])
def test_json_that_calls_nothing_that_was_offered_is_text(family: str, text: str) -> None:
    assert read(family, [text]) == (text, [])


def test_text_before_a_call_is_shown_at_once() -> None:
    reader = ToolCallReader(FAMILIES["hermes"], NAMES)
    assert reader.feed("Let me look. <to") == ["Let me look."]
    assert reader.feed("day>") == [" <today>"]


def test_only_one_call_where_no_more_are_wanted() -> None:
    text = write("hermes", [("weather", {}), ("time", {})], True)
    assert [call.name for call in read("hermes", [text], only_one=True)[1]] == ["weather"]


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("...<tool_call>...", "hermes"),
        ("...[TOOL_CALLS]...", "mistral"),
        ("...<|python_tag|>...", "llama3"),
        ('ipython {"name": ..., "parameters": ...}', "llama3"),
        ("{{ tools }}", "json"),
    ],
)
def test_the_template_shows_the_family(template: str, family: str) -> None:
    assert family_of(template) == family


@given(thoughts=st.text("ab<think/> \n", max_size=20), answer=st.text("ab<think/> \n", max_size=20), sizes=SIZES)
@pytest.mark.parametrize("opened", [True, False])
def test_thoughts_end_at_their_mark_wherever_the_pieces_are_cut(
    opened: bool, thoughts: str, answer: str, sizes: list[int]
) -> None:
    thoughts = thoughts.replace("</think>", "")
    reader = ReasoningReader(thinking=opened)
    pieces = cut(f"{'' if opened else '<think>'}{thoughts}</think>{answer}", sizes)
    found = [*map(reader.feed, pieces), reader.finish()]
    assert "".join(t for t, _ in found) == thoughts
    assert "".join(a for _, a in found) == answer.lstrip("\n")


@given(text=st.text("ab<think/> \n", max_size=20), sizes=SIZES)
def test_an_answer_without_thoughts_is_an_answer(text: str, sizes: list[int]) -> None:
    if text.lstrip().startswith("<think>"):
        return
    reader = ReasoningReader(thinking=False)
    found = [*map(reader.feed, cut(text, sizes)), reader.finish()]
    assert "".join(a for _, a in found) == text and not any(t for t, _ in found)
