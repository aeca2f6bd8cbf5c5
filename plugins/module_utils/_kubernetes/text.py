# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML as text, the same for the same value on every controller: sorted, and quoted wherever a reader could differ.

In a Helm chart a `Value` is read from the chart's values, and whatever else looks like a template is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What comes first of an object.
FIRST = ("apiVersion", "kind", "metadata")
# Needs no quotes in any version of YAML: no number, date, boolean or null begins so, but for the words below.
PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
# Text that a literal block gives back as it is.
BLOCK = re.compile("[\t\n\x20-\x7e\xa0-\u1fff\u2070-\ud7ff\ue000-\ufefe]*")
TRAILING = re.compile(r"[ \t]+$", re.M)
ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
TEMPLATE, AS_TEXT = "{{", '{{ "{{" }}'


@dataclass(frozen=True)
class Value:
    """What a user of the chart may change: the keys that lead to it in its values, and what it is by default."""

    path: tuple[str, ...]
    default: Any

    def expression(self) -> str:
        """How a template reads it."""
        return "{{ index .Values " + " ".join(json.dumps(key) for key in self.path) + " | toJson }}"


@dataclass(frozen=True)
class Namespace:
    """The namespace of an object: in a chart the one that it is installed into."""

    name: str


def plain(value: Any) -> Any:
    """*value* as it is without a chart."""
    if isinstance(value, Value):
        return plain(value.default)
    if isinstance(value, Namespace):
        return value.name
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def dump(value: Mapping[str, Any], chart: bool = False) -> str:
    """One document, without a mark before it. With *chart* it is a template of a Helm chart."""
    return "".join(f"{line if line.strip() else ''}\n" for line in _mapping(value, chart, top=True))


def _mapping(value: Mapping[str, Any], chart: bool, top: bool = False) -> list[str]:
    keys = sorted(value, key=lambda key: (FIRST.index(key) if top and key in FIRST else len(FIRST), str(key)))
    lines: list[str] = []
    for key in keys:
        lines += _entry(f"{_scalar(str(key), chart)}:", value[key], chart)
    return lines


def _entry(head: str, value: Any, chart: bool) -> list[str]:
    """A key with its value."""
    if isinstance(value, Mapping) and value:
        return [head, *(f"  {line}" for line in _mapping(value, chart))]
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return [head, *_items(value, chart)]
    if isinstance(value, str) and _is_block(value):
        return [f"{head} {_chomping(value)}", *_block(value, chart)]
    return [f"{head} {_scalar(value, chart)}"]


def _items(value: Sequence[Any], chart: bool) -> list[str]:
    lines: list[str] = []
    for item in value:
        if isinstance(item, Mapping) and item:
            first, *others = _mapping(item, chart)
            lines += [f"- {first}", *(f"  {line}" for line in others)]
        elif isinstance(item, str) and _is_block(item):
            lines += [f"- {_chomping(item)}", *_block(item, chart)]
        elif isinstance(item, (list, tuple)) and item:
            lines += ["-", *(f"  {line}" for line in _items(item, chart))]
        else:
            lines.append(f"- {_scalar(item, chart)}")
    return lines


def _scalar(value: Any, chart: bool) -> str:
    if isinstance(value, Value):
        return value.expression() if chart else _flow(plain(value))
    if isinstance(value, Namespace):
        return "{{ .Release.Namespace | quote }}" if chart else _scalar(value.name, chart)
    if isinstance(value, str):
        text = value if PLAIN.fullmatch(value) and value.lower() not in WORDS else quoted(value)
        return text.replace(TEMPLATE, AS_TEXT) if chart else text
    return json.dumps(value)


def _flow(value: Any) -> str:
    """A value of any shape on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{quoted(str(key))}: {_flow(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def quoted(text: str) -> str:
    """A text in quotes, in the letters that every reader knows."""
    return '"' + "".join(_escaped(letter) for letter in text) + '"'


def _escaped(letter: str) -> str:
    code = ord(letter)
    if letter in ESCAPES:
        return ESCAPES[letter]
    if 0x20 <= code <= 0x7E:
        return letter
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _is_block(text: str) -> bool:
    """Whether it reads better as lines, and comes back the same."""
    good = BLOCK.fullmatch(text) and not TRAILING.search(text)
    return "\n" in text.strip("\n") and text[0] not in " \t\n" and bool(good)


def _chomping(text: str) -> str:
    if not text.endswith("\n"):
        return "|-"
    return "|+" if text.endswith("\n\n") else "|"


def _block(text: str, chart: bool) -> list[str]:
    """Its lines, two columns in."""
    lines = (text[:-1] if text.endswith("\n") else text).split("\n")
    return [f"  {line.replace(TEMPLATE, AS_TEXT) if chart else line}" if line else "" for line in lines]
