# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers as a list of blocks (thoughts, text, calls), as the newer APIs have them, whole and streamed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from openai_gateway.generation import Finish, Piece
from openai_gateway.prompts import Plan
from openai_gateway.responses import ChatReader, message_of

THOUGHTS, TEXT = "reasoning_content", "content"


class BlockBuilder(ABC):
    """The stream of one answer: blocks are opened, filled and closed one after another."""

    def __init__(self, plan: Plan) -> None:
        self._reader = ChatReader(plan)
        self._open: str | None = None
        self._filled: list[str] = []  # texts of the open block
        self._index = -1
        self._read = 0  # tokens of the prompt

    # What an API says.

    @abstractmethod
    def begin(self) -> bytes:
        """The events that begin the stream."""

    @abstractmethod
    def block_begin(self, kind: str) -> bytes:
        """The events that open a block of thoughts or text."""

    @abstractmethod
    def block_text(self, kind: str, text: str) -> bytes:
        """The event with more of the open block."""

    @abstractmethod
    def block_end(self, kind: str, text: str) -> bytes:
        """The events that close a block that holds *text*."""

    @abstractmethod
    def block_call(self, call: dict[str, Any]) -> bytes:
        """The events of a call, OpenAI's object, which comes whole."""

    @abstractmethod
    def end(self, finish: Finish, reason: str) -> bytes:
        """The events that end the stream; *reason*: OpenAI's."""

    @abstractmethod
    def answer(self, message: dict[str, Any], finish: Finish, reason: str) -> dict[str, Any]:
        """A complete answer; *message*: OpenAI's object."""

    # How it becomes a stream.

    def opening(self) -> bytes:
        """Nothing yet: the stream begins with the number of the prompt's tokens."""
        return b""

    def pieces(self, choice: int, pieces: list[Piece]) -> bytes:
        """The events of *pieces*."""
        head = self._begun(pieces[0].read if pieces else 0)
        return head + b"".join([self._add(self._reader.feed(piece.text)) for piece in pieces])

    def finished(self, choice: int, finish: Finish) -> bytes:
        """The events that end the answer."""
        head = self._begun(finish.prompt_tokens)
        rest = self._add(self._reader.finish()) + self._close()
        return head + rest + self.end(finish, self._reader.reason(finish))

    def closing(self, total: Finish) -> bytes:
        """Nothing: there is one answer only."""
        return b""

    def whole(self, answers: Sequence[tuple[list[Piece], Finish]], total: Finish) -> dict[str, Any]:
        """A complete answer."""
        pieces, finish = answers[0]
        text = "".join([piece.text for piece in pieces])
        message = message_of([*self._reader.feed(text), *self._reader.finish()])
        return self.answer(message, finish, self._reader.reason(finish))

    def _begun(self, read: int) -> bytes:
        if self._index >= 0 or self._read:
            return b""
        self._read = read or -1
        return self.begin()

    def _add(self, deltas: Iterable[dict[str, Any]]) -> bytes:
        data = b""
        for delta in deltas:
            for call in delta.get("tool_calls", ()):
                data += self._close()
                self._index += 1
                data += self.block_call(call)
            for kind in (THOUGHTS, TEXT):
                if text := delta.get(kind):
                    data += self._fill(kind, text)
        return data

    def _fill(self, kind: str, text: str) -> bytes:
        data = b""
        if self._open != kind:
            data = self._close()
            self._open, self._index = kind, self._index + 1
            data += self.block_begin(kind)
        self._filled.append(text)
        return data + self.block_text(kind, text)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        kind, text = self._open, "".join(self._filled)
        self._open, self._filled = None, []
        return self.block_end(kind, text)
