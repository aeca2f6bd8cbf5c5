# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""config.pbtxt: fill the ``${name}`` placeholders of a template, and read the protobuf text of the result.

The reader accepts and rejects what ``google.protobuf.text_format`` does for ``inference.ModelConfig`` (a contract
test says so), with one exception: an unknown backslash escape is refused, as Triton's own C++ parser does.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple

from .._base.errors import FleetError, nearest
from .schema_messages import ENUMS, MESSAGES, ROOT, FieldType

# The three places where a placeholder can stand. Only inside quotes may it stay unfilled and still parse.
STRING, SCALAR, COMMENT = "string", "scalar", "comment"

# As string.Template's braced form, which upstream's fill_template.py uses.
PLACEHOLDER = re.compile(r"\$\{([_a-zA-Z][_a-zA-Z0-9]*)\}")

_TOKEN = re.compile(
    r"""(?P<skip>(?:\s|\#[^\n]*)+)
    |(?P<name>[A-Za-z_][0-9A-Za-z_+-]*)
    |(?P<number>(?:[0-9+-]|\.[0-9])[0-9A-Za-z_.+-]*)
    |(?P<string>"[^"\n\\]*(?:\\.[^"\n\\]*)*(?:"|\\?$)|'[^'\n\\]*(?:\\.[^'\n\\]*)*(?:'|\\?$))
    |(?P<other>.)""",
    re.VERBOSE | re.MULTILINE,
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_SIMPLE_ESCAPES = {
    b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v",
    b"\\": b"\\", b"'": b"'", b'"': b'"', b"?": b"?",
}  # fmt: skip
_OCTAL = re.compile(r"(-?)0([0-9]+)")
_RANGES = {"i32": (-(2**31), 2**31), "i64": (-(2**63), 2**63), "u32": (0, 2**32), "u64": (0, 2**64)}
_BOOLS = {"true": True, "t": True, "1": True, "True": True, "false": False, "f": False, "0": False, "False": False}
_MAX_DEPTH = 100


class PbtxtError(FleetError):
    """Text that is not a model configuration; the message says where and why."""


class Placeholder(NamedTuple):
    """One ``${name}``: what surrounds it, and its first and last (exclusive) character."""

    name: str
    context: str
    start: int
    end: int


class Occurrence(NamedTuple):
    """Where a field stands in the text: of the whole field, and of its value."""

    start: int
    end: int
    value_start: int
    value_end: int


@dataclass
class Document:
    """A parsed configuration: nested dictionaries and lists, and where each field stands by its dotted path."""

    value: dict[str, Any]
    places: dict[str, list[Occurrence]] = field(default_factory=dict)


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


def placeholders(text: str) -> list[Placeholder]:
    """All placeholders of *text*, in order."""
    found = list(PLACEHOLDER.finditer(text))
    if not found:
        return []
    spans = [(match.start(), match.lastgroup) for match in _TOKEN.finditer(text)]
    starts = [start for start, _ in spans]
    contexts = {"string": STRING, "skip": COMMENT}
    result = []
    for match in found:
        kind = spans[bisect.bisect_right(starts, match.start()) - 1][1]
        result.append(Placeholder(match.group(1), contexts.get(kind or "", SCALAR), match.start(), match.end()))
    return result


def quote(value: str) -> str:
    """*value* as it stands between the quotes of a string literal."""
    if value.isprintable() and '"' not in value and "\\" not in value:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return "".join(c if c.isprintable() else "".join(f"\\{byte:03o}" for byte in c.encode()) for c in escaped)


def fill(text: str, values: Mapping[str, str]) -> str:
    """*text* with every placeholder that *values* names replaced; the others stay as they are.

    The result is that of plain substitution, except that quotes and backslashes in a string are escaped.
    """
    parts, position = [], 0
    for placeholder in placeholders(text):
        if placeholder.name not in values:
            continue
        value = values[placeholder.name]
        parts += [text[position : placeholder.start], quote(value) if placeholder.context == STRING else value]
        position = placeholder.end
    return "".join([*parts, text[position:]])


def unescape(literal: str) -> str:
    """The value of a string literal's inside. Raises ValueError for an unknown escape or bytes that are not UTF-8."""
    if "\\" not in literal:
        return literal

    def one(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, letter = match.groups()
        if octal is not None:
            number = int(octal, 8)
            if number > 255:
                raise ValueError(f"\\{octal.decode()} is more than a byte")
            return bytes([number])
        if hexadecimal is not None:
            return bytes([int(hexadecimal, 16)])
        if letter not in _SIMPLE_ESCAPES:
            raise ValueError(f"unknown escape \\{letter.decode(errors='replace')}")
        return _SIMPLE_ESCAPES[letter]

    return _ESCAPE.sub(one, literal.encode()).decode()


def parse(text: str) -> Document:
    """Read *text* as ``inference.ModelConfig``; raises `PbtxtError` with line and column."""
    return _Parser(text).document()


class _Parser:
    """Recursive descent over the tokens, guided by the message tables."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [
            _Token(m.lastgroup or "", m.group(), m.start()) for m in _TOKEN.finditer(text) if m.lastgroup != "skip"
        ]
        self.tokens.append(_Token("end", "", len(text)))
        self.index = 0
        self.places: dict[str, list[Occurrence]] = {}
        self.readers: dict[str, Callable[[str], Any]] = {"str": self._string, "bool": self._bool, "float": self._float}

    def document(self) -> Document:
        value: dict[str, Any] = {}
        groups: dict[str, str] = {}
        while self._token.kind != "end":
            self._field(ROOT, value, "", groups, 0)
        return Document(value, self.places)

    @property
    def _token(self) -> _Token:
        return self.tokens[self.index]

    def _error(self, problem: str, token: _Token | None = None) -> PbtxtError:
        start = (token or self._token).start
        line = self.text.count("\n", 0, start) + 1
        column = start - (self.text.rfind("\n", 0, start) + 1) + 1
        return PbtxtError(f"line {line}, column {column}: {problem}")

    def _take(self, text: str) -> bool:
        if self._token.text == text and self._token.kind == "other":
            self.index += 1
            return True
        return False

    def _need(self, text: str, at: str) -> None:
        if not self._take(text):
            raise self._error(f"expected '{text}' at {at}, found {self._found()}")

    def _found(self) -> str:
        return "the end of the file" if self._token.kind == "end" else f"'{self._token.text}'"

    def _field(self, message: str, value: dict[str, Any], path: str, groups: dict[str, str], depth: int) -> None:
        """One ``name: value`` or ``name { ... }`` of *message*, put into *value*."""
        token = self._token
        fields = MESSAGES[message]
        kind = fields.get(token.text) if token.kind == "name" else None
        if kind is None:
            hint = nearest(token.text, fields) if token.kind == "name" else ""
            raise self._error(f"{self._found()} is not a field of {path or 'a model configuration'}{hint}")
        self.index += 1
        name = token.text
        if kind.group is not None and groups.setdefault(kind.group, name) != name:
            raise self._error(f"{name} cannot stand beside {groups[kind.group]}; only one of them may be given", token)
        if kind.is_message:
            self._take(":")
        else:
            self._need(":", name)
        self._values(kind, value, name, f"{path}.{name}" if path else name, token.start, depth)
        _ = self._take(",") or self._take(";")

    def _values(self, kind: FieldType, value: dict[str, Any], name: str, path: str, start: int, depth: int) -> None:
        """The value, or the bracketed list of values, of one field."""
        first = self._token.start
        if kind.repeated and self._take("["):
            value.setdefault(name, {} if kind.key else [])
            if not self._take("]"):
                self._value(kind, value, name, path, depth)
                while not self._take("]"):
                    self._need(",", path)
                    self._value(kind, value, name, path, depth)
        else:
            self._value(kind, value, name, path, depth)
        previous = self.tokens[self.index - 1]
        end = previous.start + len(previous.text)
        self.places.setdefault(path, []).append(Occurrence(start, end, first, end))

    def _value(self, kind: FieldType, value: dict[str, Any], name: str, path: str, depth: int) -> None:
        if kind.key is not None:
            entry = self._braced(kind.entry, path, depth)
            fields = MESSAGES[kind.entry]
            value.setdefault(name, {})[entry.get("key", fields["key"].default)] = entry.get(
                "value", fields["value"].default
            )
        elif kind.repeated:
            value.setdefault(name, []).append(self._single(kind, path, depth))
        else:
            # A scalar set to its default leaves no trace in proto3, so setting it again is no error.
            leaves_trace = kind.is_message or kind.group is not None
            if name in value and (leaves_trace or value[name] != kind.default):
                raise self._error(f"{path} is set twice")
            value[name] = self._single(kind, path, depth)

    def _single(self, kind: FieldType, path: str, depth: int) -> Any:
        return self._braced(kind.type, path, depth) if kind.is_message else self._scalar(kind.type, path)

    def _braced(self, message: str, path: str, depth: int) -> dict[str, Any]:
        """``{ fields }`` or ``< fields >``."""
        if depth >= _MAX_DEPTH:
            raise self._error(f"{path} is nested too deeply")
        close = ">" if self._take("<") else "}"
        if close == "}":
            self._need("{", path)
        value: dict[str, Any] = {}
        groups: dict[str, str] = {}
        while not self._take(close):
            if self._token.kind == "end":
                raise self._error(f"{path} is not closed; expected '{close}'")
            self._field(message, value, path, groups, depth + 1)
        return value

    def _scalar(self, kind: str, path: str) -> Any:
        token = self._token
        reader = self.readers.get(kind) or (self._enum(kind) if kind in ENUMS else self._integer(kind))
        try:
            return reader(path)
        except ValueError as problem:
            raise self._error(f"{path} {problem}", token) from None

    def _string(self, path: str) -> str:
        """Adjacent literals are one string."""
        if self._token.kind != "string":
            raise ValueError(f"takes a quoted string, found {self._found()}")
        parts = []
        while self._token.kind == "string":
            text = self._token.text
            if len(text) < 2 or text[-1] != text[0]:
                raise ValueError(f"has a string without its closing quote: {text}")
            parts.append(unescape(text[1:-1]))
            self.index += 1
        return "".join(parts)

    def _bool(self, path: str) -> bool:
        if self._token.text not in _BOOLS:
            raise ValueError(f"takes true or false, found {self._found()}")
        self.index += 1
        return _BOOLS[self.tokens[self.index - 1].text]

    def _integer(self, kind: str) -> Callable[[str], int]:
        def read(path: str) -> int:
            try:
                octal = _OCTAL.fullmatch(self._token.text)
                number = int(f"{octal[1]}0o{octal[2]}" if octal else self._token.text, 0)
            except ValueError:
                raise ValueError(f"takes a whole number, found {self._found()}") from None
            low, high = _RANGES[kind]
            if not low <= number < high:
                raise ValueError(f"takes a number from {low} to {high - 1}, found {number}")
            self.index += 1
            return number

        return read

    def _float(self, path: str) -> float:
        text = self._token.text
        try:
            if re.match(r"-?0[0-9]", text):
                raise ValueError
            number = float(text.rstrip("fF") if re.fullmatch(r"-?[0-9.].*[0-9.][fF]+", text) else text)
        except ValueError:
            raise ValueError(f"takes a number, found {self._found()}") from None
        self.index += 1
        return number

    def _enum(self, kind: str) -> Callable[[str], Any]:
        def read(path: str) -> Any:
            """The value's name. A number that has none stays a number: proto3 enums are open."""
            text = self._token.text
            names = ENUMS[kind]
            if text not in names:
                try:
                    number = int(text, 0)
                except ValueError:
                    raise ValueError(f"takes one of {', '.join(names)}, found {self._found()}") from None
                low, high = _RANGES["i32"]
                if not low <= number < high:
                    raise ValueError(f"takes one of {', '.join(names)}, found {self._found()}")
                self.index += 1
                return names[number] if 0 <= number < len(names) else number
            self.index += 1
            return text

        return read
