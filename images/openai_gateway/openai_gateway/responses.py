# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenAI's objects: whole answers and the chunks of a stream."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, Protocol

from openai_gateway.errors import ApiError
from openai_gateway.generation import Finish, Piece
from openai_gateway.prompts import Plan
from openai_gateway.schema import StreamOptions
from openai_gateway.tools import ReasoningReader, ToolCall, ToolCallReader

ENCODE = json.JSONEncoder(separators=(",", ":")).encode
DONE = b"data: [DONE]\n\n"
Tokens = Sequence[tuple[str, float]]


class Builder(Protocol):
    """How one endpoint words its answers.

    A stream is its opening, then pieces and finished of each choice, then its closing.
    """

    def opening(self) -> bytes:
        """What begins a stream."""

    def pieces(self, choice: int, pieces: list[Piece]) -> bytes:
        """The events of *pieces*."""

    def finished(self, choice: int, finish: Finish) -> bytes:
        """The events that end one choice."""

    def closing(self, total: Finish) -> bytes:
        """The events that end the stream."""

    def error(self, error: ApiError) -> bytes:
        """The event that ends a stream that broke off."""

    def whole(self, answers: Sequence[tuple[list[Piece], Finish]], total: Finish) -> dict[str, Any]:
        """A complete answer."""


def new_id(prefix: str) -> str:
    """An id of OpenAI's kind."""
    # ids must differ, not be secret; this generator, unlike one of our own, is seeded anew in each forked worker
    return f"{prefix}{random.getrandbits(96):024x}"


def event(value: Any) -> bytes:
    """One server-sent event. ASCII only, so that no client's idea of a line end can break it."""
    return b"data: " + ENCODE(value).encode() + b"\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class ChatReader:
    """Splits one answer of a chat into thoughts, text and calls, piece by piece."""

    def __init__(self, plan: Plan) -> None:
        self._reasoning = ReasoningReader(thinking=plan.thinking) if plan.thinks and not plan.begun else None
        self._tools: ToolCallReader | None = None
        if plan.family:
            self._tools = ToolCallReader(plan.family, plan.functions, only_one=plan.only_one, demanded=bool(plan.begun))
            self._tools.feed(plan.begun)
        self._named = plan.named

    @property
    def plain(self) -> bool:
        """Whether every answer is text alone."""
        return self._reasoning is None and self._tools is None

    def feed(self, text: str) -> list[dict[str, Any]]:
        """What *text* adds to the message, as OpenAI's deltas."""
        thoughts = ""
        if self._reasoning:
            thoughts, text = self._reasoning.feed(text)
        found: Iterable[str | ToolCall] = self._tools.feed(text) if self._tools and text else [text]
        return self._deltas(thoughts, found)

    def finish(self) -> list[dict[str, Any]]:
        """The deltas that were held back."""
        thoughts, text = self._reasoning.finish() if self._reasoning else ("", "")
        if self._tools is None:
            return self._deltas(thoughts, [text])
        return self._deltas(thoughts, [*self._tools.feed(text), *self._tools.finish()])

    def reason(self, finish: Finish) -> str:
        """OpenAI's finish_reason."""
        called = self._tools is not None and self._tools.calls and not self._named
        return "tool_calls" if called and finish.reason == "stop" else finish.reason

    def _deltas(self, thoughts: str, found: Iterable[str | ToolCall]) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = [{"reasoning_content": thoughts}] if thoughts else []
        for item in found:
            if isinstance(item, ToolCall):
                assert self._tools is not None
                function = {"name": item.name, "arguments": item.arguments}
                call = {"index": self._index, "id": new_id("call_"), "type": "function", "function": function}
                self._index += 1
                deltas.append({"tool_calls": [call]})
            elif item:
                deltas.append({"content": item})
        return deltas

    _index = 0


def message_of(deltas: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Join the deltas of an answer to its message."""
    texts: dict[str, list[str]] = {"content": [], "reasoning_content": []}
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        for name, parts in texts.items():
            parts += [delta[name]] if name in delta else []
        calls += [{k: v for k, v in call.items() if k != "index"} for call in delta.get("tool_calls", ())]
    content = "".join(texts["content"])
    message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else ""), "refusal": None}
    if texts["reasoning_content"]:
        message["reasoning_content"] = "".join(texts["reasoning_content"])
    return {**message, "tool_calls": calls} if calls else message


class _OpenAIBuilder:
    """What completions and chat completions have in common."""

    prefix: str
    object: str
    stream_object: str

    def __init__(self, model: str, plan: Plan, options: StreamOptions | None) -> None:
        self._plan = plan
        self._usage_always = bool(options and options.continuous_usage_stats)
        self._include_usage = self._usage_always or bool(options and options.include_usage)
        self._head = {"id": new_id(self.prefix), "object": self.object, "created": int(time.time()), "model": model}
        self._stream_head = {**self._head, "object": self.stream_object}
        self._around: tuple[bytes, bytes] | None = None

    def closing(self, total: Finish) -> bytes:
        """The events that end the stream."""
        if not self._include_usage:
            return DONE
        counts = usage(total.prompt_tokens, total.completion_tokens)
        return event({**self._stream_head, "choices": [], "usage": counts}) + DONE

    def error(self, error: ApiError) -> bytes:
        """The event that ends a stream that broke off."""
        return event(error.body())

    def _plain(self, pieces: list[Piece], empty: dict[str, Any]) -> bytes:
        """The chunks of an answer that is text alone: all have the same event around their texts."""
        if self._around is None:
            before, _, after = self._chunk(empty).rpartition(b'""')
            self._around = before, after
        before, after = self._around
        return b"".join([before + encode_basestring_ascii(piece.text).encode() + after for piece in pieces])

    def _chunk(self, choice: dict[str, Any], counts: dict[str, int] | None = None) -> bytes:
        chunk: dict[str, Any] = {**self._stream_head, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = counts if self._usage_always else None
        return event(chunk)


class CompletionBuilder(_OpenAIBuilder):
    """``/v1/completions``."""

    prefix, object, stream_object = "cmpl-", "text_completion", "text_completion"

    def __init__(self, model: str, plan: Plan, options: StreamOptions | None) -> None:
        super().__init__(model, plan, options)
        self._shown = [0] * len(plan.requests)
        request = plan.requests[0]
        self._logprobs = request.logprobs and plan.each == plan.keep
        self._fast = plan.one and not self._logprobs and not self._usage_always

    def opening(self) -> bytes:
        """The prompts, where they are wanted."""
        echoes = [(i, request.echo) for i, request in enumerate(self._plan.requests) if request.echo]
        return b"".join(self._chunk({**_choice(i), "text": text}) for i, text in echoes)

    def pieces(self, choice: int, pieces: list[Piece]) -> bytes:
        """The events of *pieces*."""
        if self._fast:
            return self._plain(pieces, {**_choice(choice), "text": ""})
        chunks = []
        for piece in pieces:
            logprobs = self._tokens(choice, piece.tokens) if self._logprobs else None
            content = {**_choice(choice), "logprobs": logprobs, "text": piece.text}
            chunks.append(self._chunk(content, usage(piece.read, piece.written)))
        return b"".join(chunks)

    def finished(self, choice: int, finish: Finish) -> bytes:
        """The events that end one choice."""
        last = {**_choice(choice, finish.reason), "text": ""}
        return self._chunk(last, usage(finish.prompt_tokens, finish.completion_tokens))

    def whole(self, answers: Sequence[tuple[list[Piece], Finish]], total: Finish) -> dict[str, Any]:
        """A complete answer."""
        choices = []
        echo = self._plan.requests[0].echo
        for index, (pieces, finish) in enumerate(answers):
            text = "".join([piece.text for piece in pieces])
            if echo:
                text = self._plan.requests[index // self._plan.keep * self._plan.each].echo + text
            choice = {**_choice(index, finish.reason), "text": text}
            if self._logprobs:
                choice["logprobs"] = self._tokens(index, [token for piece in pieces for token in piece.tokens])
            choices.append(choice)
        return {**self._head, "choices": choices, "usage": usage(total.prompt_tokens, total.completion_tokens)}

    def _tokens(self, choice: int, tokens: Tokens) -> dict[str, Any]:
        offsets = []
        for text, _ in tokens:
            offsets.append(self._shown[choice])
            self._shown[choice] += len(text)
        return {
            "tokens": [text for text, _ in tokens],
            "token_logprobs": [value for _, value in tokens],
            "top_logprobs": [{text: value} for text, value in tokens],
            "text_offset": offsets,
        }


class ChatBuilder(_OpenAIBuilder):
    """``/v1/chat/completions``."""

    prefix, object, stream_object = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def __init__(self, model: str, plan: Plan, options: StreamOptions | None, *, top: bool) -> None:
        """*top*: each token's alternatives are wanted, which is the token itself."""
        super().__init__(model, plan, options)
        self._readers = [ChatReader(plan) for _ in plan.requests]
        self._logprobs, self._top = plan.requests[0].logprobs, top
        self._fast = plan.one and not self._logprobs and not self._usage_always and self._readers[0].plain

    def opening(self) -> bytes:
        """The chunks that name the role."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._chunk({**_choice(i), "delta": delta}) for i in range(len(self._readers)))

    def pieces(self, choice: int, pieces: list[Piece]) -> bytes:
        """The events of *pieces*."""
        if self._fast:
            return self._plain(pieces, {**_choice(choice), "delta": {"content": ""}})
        chunks = []
        for piece in pieces:
            logprobs = self._tokens(piece.tokens) if self._logprobs else None
            deltas = self._readers[choice].feed(piece.text) or ([{"content": ""}] if logprobs else [])
            for delta in deltas:
                content = {**_choice(choice), "logprobs": logprobs, "delta": delta}
                chunks.append(self._chunk(content, usage(piece.read, piece.written)))
                logprobs = None
        return b"".join(chunks)

    def finished(self, choice: int, finish: Finish) -> bytes:
        """The events that end one choice."""
        reader = self._readers[choice]
        counts = usage(finish.prompt_tokens, finish.completion_tokens)
        held = b"".join(self._chunk({**_choice(choice), "delta": delta}, counts) for delta in reader.finish())
        return held + self._chunk({**_choice(choice, reader.reason(finish)), "delta": {}}, counts)

    def whole(self, answers: Sequence[tuple[list[Piece], Finish]], total: Finish) -> dict[str, Any]:
        """A complete answer."""
        choices = []
        for index, (pieces, finish) in enumerate(answers):
            reader = self._readers[index]
            message = message_of([*reader.feed("".join([piece.text for piece in pieces])), *reader.finish()])
            choice = {**_choice(index, reader.reason(finish)), "message": message}
            if self._logprobs:
                choice["logprobs"] = self._tokens([token for piece in pieces for token in piece.tokens])
            choices.append(choice)
        return {**self._head, "choices": choices, "usage": usage(total.prompt_tokens, total.completion_tokens)}

    def _tokens(self, tokens: Tokens) -> dict[str, Any]:
        content = []
        for text, value in tokens:
            # Half a character has no bytes that the gateway could know.
            raw = None if "\ufffd" in text else list(text.encode())
            entry = {"token": text, "logprob": value, "bytes": raw}
            content.append({**entry, "top_logprobs": [dict(entry)] if self._top else []})
        return {"content": content, "refusal": None}


def _choice(index: int, reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "logprobs": None, "finish_reason": reason}
