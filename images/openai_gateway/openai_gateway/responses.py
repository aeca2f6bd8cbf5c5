# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenAI's objects: whole answers and the chunks of a stream."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from openai_gateway.generation import Finish


def event(value: Any) -> bytes:
    """Return one server-sent event. ASCII only, so that no client's idea of a line end can break it."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def usage(finish: Finish) -> dict[str, int]:
    """Return OpenAI's usage object."""
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
    }


@dataclass(frozen=True)
class ResponseBuilder:
    """How one endpoint words its answers."""

    model: str
    chat: bool
    include_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    token: str = field(default_factory=lambda: secrets.token_hex(12))

    def whole(self, text: str, finish: Finish) -> dict[str, Any]:
        """Return a complete answer."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish.reason, "logprobs": None}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(finish)}

    def opening(self) -> bytes:
        """Return the chunk that begins a stream: chat names the role there."""
        return self._chunk({"role": "assistant", "content": ""}, None) if self.chat else b""

    def piece(self, text: str) -> bytes:
        """Return the chunk with *text*."""
        return self._chunk({"content": text} if self.chat else text, None)

    def closing(self, finish: Finish) -> bytes:
        """Return the chunks that end a stream."""
        last = self._chunk({} if self.chat else "", finish.reason)
        if self.include_usage:
            head = self._head("chat.completion.chunk")
            last += event({**head, "choices": [], "usage": usage(finish)})
        return last + DONE

    def _chunk(self, content: Any, finish_reason: str | None) -> bytes:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        choice["delta" if self.chat else "text"] = content
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        if self.include_usage:
            chunk["usage"] = None
        return event(chunk)

    def _head(self, chat_object: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.token}",
            "object": chat_object if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
        }
