# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls of tools in a model's text: how each family of models writes them, read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

DECODER = json.JSONDecoder()


class ToolCall(NamedTuple):
    """A function's name, and its arguments as the JSON text that OpenAI's clients expect."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Family:
    """How models of one family write a call."""

    begin: str  # before each call, or before all of them; "" where a call is all there is
    end: str  # after each call; "" where nothing is, and begin a special token, which postprocessing may leave out
    arguments: str  # the key of the arguments
    before: str  # what the answer starts with when a call is demanded: up to the object itself
    after: str  # and what ends it behind the object


FAMILIES = {
    "hermes": Family("<tool_call>", "</tool_call>", "arguments", "<tool_call>\n", "\n</tool_call>"),  # Hermes, Qwen
    "mistral": Family("[TOOL_CALLS]", "", "arguments", "[TOOL_CALLS][", "]"),
    "llama3": Family("<|python_tag|>", "", "parameters", "", ""),
    "json": Family("", "", "arguments", "", ""),
}


def family_of(template: str) -> str:
    """The name of the family whose calls a chat template writes."""
    for name in ("hermes", "mistral", "llama3"):
        if FAMILIES[name].begin in template:
            return name
    # Llama 3's later templates leave the tag to the model.
    return "llama3" if "ipython" in template and '"parameters"' in template else "json"


def demanded(family: Family, name: str | None) -> str:
    """How an answer begins that has to be a call, of *name* or of any function."""
    start = f'{family.before}{{"name": "'
    return start if name is None else f'{start}{name}", "{family.arguments}": '


class ToolCallReader:
    """Splits an answer into text and calls, wherever the borders of its pieces lie.

    What looks like a call and is none is text.
    """

    def __init__(
        self, family: Family, names: Collection[str], *, only_one: bool = False, demanded: bool = False
    ) -> None:
        """*names*: the functions that were offered; *only_one*: leave out further calls.

        *demanded*: the answer is a call, so that one which ends with its arguments is complete.
        """
        self._family, self._names, self._only_one, self._demanded = family, names, only_one, demanded
        self._held = ""
        self._started = False  # something that is no blank was seen
        self._inside = False  # of what may be a call
        self.calls = 0

    def feed(self, text: str) -> list[str | ToolCall]:
        """What is certain after *text*."""
        self._held += text
        return list(self._delimited() if self._family.end else self._bare())

    def finish(self) -> list[str | ToolCall]:
        """The rest."""
        held, self._held = self._held, ""
        if not self._inside:
            return [held] if held else []
        text = held.removeprefix(self._family.begin)
        found = [*self._read(text)]
        if not found and self._demanded:
            found = [*self._read(text.lstrip(" \n[") + "}")]
        return [*found] if found or not held else [held]

    def _delimited(self) -> Iterator[str | ToolCall]:
        begin, end = self._family.begin, self._family.end
        while True:
            if self._inside:
                at = self._held.find(end)
                if at < 0:
                    return
                whole, self._held = self._held[: at + len(end)], self._held[at + len(end) :]
                self._inside = False
                found = list(self._read(whole[len(begin) : -len(end)]))
                yield from found
                if not found:
                    yield whole
                continue
            at = self._held.find(begin)
            if at < 0:
                safe = len(self._held) - _overlap(self._held, begin)
                # Blanks may only separate a call from what is before it.
                safe = len(self._held[:safe].rstrip())
                if text := self._held[:safe]:
                    yield text
                self._held = self._held[safe:]
                return
            if text := self._held[:at].rstrip():
                yield text
            self._held = self._held[at:]
            self._inside = True

    def _bare(self) -> Iterator[str | ToolCall]:
        if not self._started:
            text = self._held.lstrip()
            if not text:
                return
            begin = self._family.begin
            if begin and len(text) < len(begin) and begin.startswith(text):
                return
            self._started = True
            self._inside = bool(begin and text.startswith(begin)) or text[0] in "{["
        if not self._inside and self._held:
            yield self._held
            self._held = ""

    def _read(self, text: str) -> Iterator[ToolCall]:
        """Yield the calls that *text* consists of: objects, a list of them, or objects with ``;`` between them."""
        at = 0
        while True:
            while at < len(text) and text[at] in " \t\r\n;,":
                at += 1
            if at >= len(text):
                return
            try:
                value, at = DECODER.raw_decode(text, at)
            except ValueError:
                return
            for entry in value if isinstance(value, list) else [value]:
                if call := self._call(entry):
                    self.calls += 1
                    if not (self._only_one and self.calls > 1):
                        yield call

    def _call(self, entry: Any) -> ToolCall | None:
        if not isinstance(entry, dict) or entry.get("name") not in self._names:
            return None
        arguments = entry.get(self._family.arguments, entry.get("parameters", entry.get("arguments", {})))
        if isinstance(arguments, str):
            return ToolCall(entry["name"], arguments)
        return ToolCall(entry["name"], json.dumps(arguments, ensure_ascii=False))


class ReasoningReader:
    """Splits what a model thinks, between ``<think>`` and ``</think>``, from what it answers."""

    BEGIN, END = "<think>", "</think>"

    def __init__(self, *, thinking: bool) -> None:
        """*thinking*: the prompt has opened the thoughts already."""
        self._state = "thinking" if thinking else "start"
        self._held = ""

    def feed(self, text: str) -> tuple[str, str]:
        """The (thoughts, answer) that are certain after *text*."""
        if self._state == "answer":
            return "", text
        self._held += text
        if self._state == "start":
            stripped = self._held.lstrip()
            if len(stripped) < len(self.BEGIN) and self.BEGIN.startswith(stripped):
                return "", ""
            if not stripped.startswith(self.BEGIN):
                self._state = "answer"
                return "", self._take(len(self._held))
            self._held = stripped[len(self.BEGIN) :]
            self._state = "thinking"
        at = self._held.find(self.END) if self._state == "thinking" else -1
        if at >= 0:
            thoughts = self._take(at)
            self._held = self._held[len(self.END) :]
            self._state = "after"
            return thoughts, self._after()
        if self._state == "after":
            return "", self._after()
        return self._take(len(self._held) - _overlap(self._held, self.END)), ""

    def finish(self) -> tuple[str, str]:
        """The rest."""
        rest = self._take(len(self._held))
        return (rest, "") if self._state == "thinking" else ("", "" if self._state == "after" else rest)

    def _after(self) -> str:
        """Leave out the blank lines between thoughts and answer."""
        self._held = self._held.lstrip("\n")
        if self._held:
            self._state = "answer"
        return self._take(len(self._held))

    def _take(self, count: int) -> str:
        taken, self._held = self._held[:count], self._held[count:]
        return taken


def _overlap(text: str, word: str) -> int:
    """The length of the longest end of *text* that *word* begins with."""
    for length in range(min(len(word) - 1, len(text)), 0, -1):
        if text.endswith(word[:length]):
            return length
    return 0
