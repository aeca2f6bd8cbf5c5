# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The YAML that CDI specifications are written in, read without PyYAML (hosts have none).

Block mappings and sequences, flow collections, plain and quoted scalars, comments. Anchors, tags, block
scalars and several documents do not occur in specifications that tools write; they are refused, not guessed.
"""

from __future__ import annotations

import json
import re
from typing import Any, Optional

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
_OCTAL = re.compile(r"0o?([0-7]+)$")
_HEX = re.compile(r"0x[0-9a-fA-F]+$")
_CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}
_QUOTED = re.compile(r"""\"(?:[^"\\]|\\.)*\"|'(?:[^']|'')*'""")
# A plain key begins with no sign that means something, and a dash only where no space follows.
_PLAIN_KEY = re.compile(r"""(?:[^\s"'#\[\]{},&*!|>%@`-]|-(?=\S))(?:[^:]|:(?=\S))*?(?=\s*:(?:\s|$))""")
_COLON = re.compile(r"\s*:(?:\s+|$)")
_REFUSED = re.compile(r"[&*!|>%@`]")


class YamlError(ValueError):
    """The text is not the YAML that this reader knows; the message says in which line."""


def load(text: str) -> Any:
    """The value that *text* describes: a tree of dicts, lists, strings, numbers, booleans and None."""
    if text.lstrip().startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError:
            pass  # a flow collection of YAML is read below
    return _Reader(text).document()


def _quoted_end(text: str, at: int) -> int:
    """Where the quoted scalar that begins at *at* ends, or *at* where none begins there."""
    if text[at] not in "\"'" or text[:at].rstrip()[-1:] not in ("", "-", ":", "[", "{", ","):
        return at
    match = _QUOTED.match(text, at)
    return match.end() if match else at


def _strip_comment(line: str) -> str:
    at = 0
    while at < len(line):
        end = _quoted_end(line, at)
        if end == at:
            if line[at] == "#" and (at == 0 or line[at - 1] in " \t"):
                return line[:at]
            end = at + 1
        at = end
    return line


def _key(line: str) -> Optional[tuple[str, str]]:
    """(key, what follows it) of a line of a block mapping, None for any other line."""
    match = _QUOTED.match(line) or _PLAIN_KEY.match(line)
    colon = _COLON.match(line, match.end()) if match else None
    return (match.group(0), line[colon.end() :].strip()) if match and colon else None


def scalar(text: str) -> Any:
    """The value of one plain or quoted scalar."""
    text = text.strip()
    if text.startswith('"'):
        try:
            return json.loads(text)
        except ValueError as error:
            raise YamlError(f"unreadable quoted string {text!r}") from error
    if text.startswith("'"):
        if len(text) < 2 or not text.endswith("'"):
            raise YamlError(f"unreadable quoted string {text!r}")
        return text[1:-1].replace("''", "'")
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    if _INTEGER.match(text):
        return int(text)
    octal = _OCTAL.match(text)
    if octal:
        return int(octal.group(1), 8)
    if _HEX.match(text):
        return int(text, 16)
    if _REFUSED.match(text):
        raise YamlError(f"unexpected {text[0]!r} at the start of {text!r}")
    return text


class _Flow:
    """A flow collection such as ``[a, {b: c}]``, read by descent."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def read(self) -> Any:
        value = self._value()
        self._space()
        if self.at != len(self.text):
            raise YamlError(f"text after the end of {self.text[: self.at]!r}")
        return value

    def _space(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t\n":
            self.at += 1

    def _peek(self) -> str:
        self._space()
        if self.at >= len(self.text):
            raise YamlError(f"unclosed collection {self.text!r}")
        return self.text[self.at]

    def _value(self) -> Any:
        sign = self._peek()
        if sign == "[":
            return self._items("]")
        if sign == "{":
            return dict(self._items("}"))
        return scalar(self._token())

    def _items(self, end: str) -> list[Any]:
        self.at += 1
        items: list[Any] = []
        while self._peek() != end:
            if end == "]":
                items.append(self._value())
            else:
                key = scalar(self._token())
                if self._peek() != ":":
                    raise YamlError(f"no value for {key!r} in {self.text!r}")
                self.at += 1
                items.append((key, None if self._peek() in ",}" else self._value()))
            if self._peek() == ",":
                self.at += 1
            elif self._peek() != end:
                raise YamlError(f"missing comma in {self.text!r}")
        self.at += 1
        return items

    def _token(self) -> str:
        self._peek()
        start = self.at
        match = _QUOTED.match(self.text, start)
        if match:
            self.at = match.end()
            return match.group(0)
        while self.at < len(self.text) and self.text[self.at] not in ",[]{}":
            after = self.text[self.at + 1 : self.at + 2]
            if self.text[self.at] == ":" and after in ("", " ", ",", "}", "]"):
                break
            self.at += 1
        return self.text[start : self.at]


class _Reader:
    """Lines with their indentation, read by descent."""

    def __init__(self, text: str) -> None:
        self.lines: list[tuple[int, int, str]] = []
        for number, raw in enumerate(text.splitlines(), 1):
            line = _strip_comment(raw).rstrip()
            if not line or line == "---" or line == "...":
                continue
            if "\t" in line[: len(line) - len(line.lstrip())]:
                raise YamlError(f"line {number}: a tab indents it")
            self.lines.append((number, len(line) - len(line.lstrip()), line.lstrip()))
        self.at = 0

    def document(self) -> Any:
        if not self.lines:
            return None
        value = self._block(self.lines[0][1])
        if self.at < len(self.lines):
            number, _indent, line = self.lines[self.at]
            raise YamlError(f"line {number}: {line!r} does not fit the indentation")
        return value

    def _block(self, indent: int) -> Any:
        number, _found, line = self.lines[self.at]
        if line.startswith("- ") or line == "-":
            return self._sequence(indent)
        if _key(line):
            return self._mapping(indent)
        self.at += 1
        return self._inline(line, number)

    def _sequence(self, indent: int) -> list[Any]:
        items: list[Any] = []
        while self.at < len(self.lines):
            number, found, line = self.lines[self.at]
            if found != indent or not (line.startswith("- ") or line == "-"):
                break
            rest = line[1:].lstrip()
            if not rest:
                self.at += 1
                items.append(self._nested(indent))
                continue
            # The text after the dash is a block of its own, indented to where it stands.
            self.lines[self.at] = (number, indent + len(line) - len(rest), rest)
            items.append(self._block(indent + len(line) - len(rest)))
        return items

    def _mapping(self, indent: int) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        while self.at < len(self.lines):
            number, found, line = self.lines[self.at]
            pair = _key(line)
            if found != indent or pair is None or line.startswith("- "):
                break
            key, rest = scalar(pair[0]), pair[1]
            if key in result:
                raise YamlError(f"line {number}: the key {key!r} stands there twice")
            self.at += 1
            result[key] = self._inline(rest, number) if rest else self._nested(indent, in_mapping=True)
        return result

    def _nested(self, indent: int, in_mapping: bool = False) -> Any:
        if self.at >= len(self.lines):
            return None
        _number, found, line = self.lines[self.at]
        # A sequence may stand at the indentation of its key.
        if found > indent or (in_mapping and found == indent and (line.startswith("- ") or line == "-")):
            return self._block(found)
        return None

    def _inline(self, text: str, number: int) -> Any:
        try:
            if text[0] in "[{":
                while not _balanced(text) and self.at < len(self.lines):
                    text += " " + self.lines[self.at][2]
                    self.at += 1
                return _Flow(text).read()
            return scalar(text)
        except YamlError as error:
            raise YamlError(f"line {number}: {error}") from error


def _balanced(text: str) -> bool:
    depth = at = 0
    while at < len(text):
        end = _quoted_end(text, at)
        if end == at:
            depth += (text[at] in "[{") - (text[at] in "]}")
            end = at + 1
        at = end
    return depth <= 0
