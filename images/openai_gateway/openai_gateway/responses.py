# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenAI's objects: whole answers and the chunks of a stream."""

from __future__ import annotations

import json
import random
import time
from json.encoder import encode_basestring_ascii
from typing import Any

from openai_gateway.generation import Finish, Piece

ENCODE = json.JSONEncoder(separators=(",", ":")).encode
RANDOM = random.Random()  # seeded by the system; ids must differ, not be secret
DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """Return one server-sent event. ASCII only, so that no client's idea of a line end can break it."""
    return b"data: " + ENCODE(value).encode() + b"\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return OpenAI's usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class ResponseBuilder:
    """How one endpoint words its answers."""

    def __init__(self, model: str, chat: bool, include_usage: bool = False, usage_always: bool = False) -> None:
        """*include_usage*: a stream ends with the counts; *usage_always*: each of its chunks has them so far."""
        self._chat, self._include_usage, self._usage_always = chat, include_usage, usage_always
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{RANDOM.getrandbits(96):024x}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        if chat:
            self._stream_head = {**self._head, "object": "chat.completion.chunk"}
        else:
            self._stream_head = self._head
        self._around: tuple[bytes, bytes] | None = None

    def whole(self, text: str, finish: Finish) -> dict[str, Any]:
        """Return a complete answer."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish.reason, "logprobs": None}
        if self._chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        return {**self._head, "choices": [choice], "usage": usage(finish.prompt_tokens, finish.completion_tokens)}

    def opening(self) -> bytes:
        """Return the chunk that begins a stream: chat names the role there."""
        return self._chunk({"role": "assistant", "content": ""}, None) if self._chat else b""

    def pieces(self, pieces: list[Piece]) -> bytes:
        """Return the chunks of *pieces*."""
        if self._usage_always:
            chunks = [self._chunk(self._delta(p.text), None, usage(p.read, p.written)) for p in pieces]
            return b"".join(chunks)
        if self._around is None:
            # Every piece of a stream has the same event around its text, so that is written once.
            before, _, after = self._chunk(self._delta(""), None).rpartition(b'""')
            self._around = before, after
        before, after = self._around
        return b"".join([before + encode_basestring_ascii(piece.text).encode() + after for piece in pieces])

    def closing(self, finish: Finish) -> bytes:
        """Return the chunks that end a stream."""
        counts = usage(finish.prompt_tokens, finish.completion_tokens)
        last = self._chunk({} if self._chat else "", finish.reason, counts)
        if self._include_usage:
            last += event({**self._stream_head, "choices": [], "usage": counts})
        return last + DONE

    def _delta(self, text: str) -> Any:
        return {"content": text} if self._chat else text

    def _chunk(self, content: Any, finish_reason: str | None, counts: dict[str, int] | None = None) -> bytes:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        choice["delta" if self._chat else "text"] = content
        chunk: dict[str, Any] = {**self._stream_head, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = counts if self._usage_always else None
        return event(chunk)
