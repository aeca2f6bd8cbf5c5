# SPDX-License-Identifier: GPL-3.0-or-later
"""A stream is the whole answer in pieces, in each API's own events, wherever the borders of its pieces lie."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_gateway.anthropic_messages import MessagesBuilder
from openai_gateway.generation import Finish, GenerateRequest, Piece
from openai_gateway.openai_responses import ResponsesBuilder, ResponsesRequest
from openai_gateway.prompts import Plan
from openai_gateway.responses import Builder, ChatBuilder, CompletionBuilder
from openai_gateway.tools import FAMILIES

FINISH = Finish("stop", 3, 9)
# What a line, an event or a JSON text could break at.
TEXTS = st.text(st.sampled_from('ab \n\r\t\0\u2028\u0085é€😀"\\{}[]:,<>/') | st.characters(codec="utf-8"), max_size=40)
SIZES = st.lists(st.integers(0, 5), max_size=20)
REQUEST = {"text": "Hi", "chat": True, "max_tokens": 9, "limit_param": "max_tokens", "sampling": {}, "optional": {}}
TOOLS: dict[str, Any] = {"family": FAMILIES["hermes"], "functions": ("weather",)}


def plan(**more: Any) -> Plan:
    return Plan([GenerateRequest(**REQUEST)], 1, 1, **more)


def builder(api: str, made: Plan) -> Builder:
    if api == "completions":
        return CompletionBuilder("tiny", made, None)
    if api == "chat":
        return ChatBuilder("tiny", made, None, top=False)
    if api == "responses":
        return ResponsesBuilder(ResponsesRequest(model="tiny", input="Hi"), made)
    return MessagesBuilder("tiny", made)


def cut(text: str, sizes: list[int]) -> list[Piece]:
    pieces, at = [], 0
    for size in [*sizes, len(text)]:
        if part := text[at : at + size]:
            pieces.append(Piece(part, 3, len(pieces) + 1))
        at += size
    return pieces


def streamed(api: str, made: Plan, pieces: list[Piece]) -> list[dict[str, Any]]:
    """The stream as any reader of server-sent events finds it."""
    one = builder(api, made)
    data = one.opening() + b"".join(one.pieces(0, [piece]) for piece in pieces)
    data += one.finished(0, FINISH) + one.closing(FINISH)
    assert data.isascii() and data.endswith(b"\n\n")
    values = []
    for event in data.decode().removesuffix("\n\n").split("\n\n"):
        *names, line = event.split("\n")
        assert line.startswith("data: ") and len(names) == (api in ("responses", "messages"))
        if line != "data: [DONE]":
            values.append(json.loads(line.removeprefix("data: ")))
            assert names in ([], [f"event: {values[-1].get('type')}"])
    return values


def text_of(api: str, events: list[dict[str, Any]]) -> str:
    """What a client joins."""
    if api == "completions":
        return "".join(event["choices"][0]["text"] for event in events)
    if api == "chat":
        return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    if api == "responses":
        return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    return "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")


@pytest.mark.parametrize("api", ["completions", "chat", "responses", "messages"])
@settings(deadline=None)  # a busy machine is no defect
@given(text=TEXTS, sizes=SIZES)
def test_the_pieces_of_a_stream_join_to_the_answer(api: str, text: str, sizes: list[int]) -> None:
    assert text_of(api, streamed(api, plan(), cut(text, sizes))) == text
    whole = json.dumps(builder(api, plan()).whole([(cut(text, sizes), FINISH)], FINISH))
    assert json.dumps(text) in whole or not text


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
@settings(deadline=None)  # a busy machine is no defect
@given(city=TEXTS, sizes=SIZES)
def test_the_arguments_of_a_streamed_call_are_json(api: str, city: str, sizes: list[int]) -> None:
    call = json.dumps({"name": "weather", "arguments": {"city": city.replace("<", "")}})
    events = streamed(api, plan(**TOOLS), cut(f"<tool_call>{call}</tool_call>", sizes))
    found = ""
    for event in events:
        if api == "chat":
            calls = event["choices"][0]["delta"].get("tool_calls", [])
            found += "".join(one["function"]["arguments"] for one in calls)
        elif event["type"] == "response.function_call_arguments.delta":
            found += event["delta"]
        elif event["type"] == "content_block_delta":
            found += event["delta"]["partial_json"]
    assert json.loads(found) == json.loads(call)["arguments"]
    assert api == "messages" or text_of(api, events) == ""


@pytest.mark.parametrize("api", ["completions", "chat"])
@settings(deadline=None)  # a busy machine is no defect
@given(text=TEXTS.filter(bool), sizes=SIZES)
def test_the_reason_comes_once_and_last(api: str, text: str, sizes: list[int]) -> None:
    reasons = [event["choices"][0]["finish_reason"] for event in streamed(api, plan(), cut(text, sizes))]
    assert reasons[-1] == "stop" and not any(reasons[:-1])
