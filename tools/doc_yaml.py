# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML as a person would write it, for what is generated into files that people read."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from typing import Any

WIDTH = 120


def fill(text: str, indent: str) -> str:
    """*text* in lines of at most `WIDTH`, each after *indent*."""
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def text_of(key: str, text: str, indent: str) -> str:
    """``key: text``, folded where it has to be."""
    line = f"{indent}{key}: {text}"
    if len(line) <= WIDTH and ": " not in text and " #" not in text:
        return line + "\n"
    return f"{indent}{key}: >-\n{fill(text, indent + '  ')}\n"


def list_of(key: str, values: Iterable[Any], indent: str) -> str:
    """``key: [value, value]``, below its key where it is long."""
    text = f"[{', '.join(map(str, values))}]"
    line = f"{indent}{key}: {text}"
    return f"{line}\n" if len(line) <= WIDTH else f"{indent}{key}:\n{fill(text, indent + '  ')}\n"


def value_of(value: Any) -> str:
    """A default: text as it is, everything else as JSON, which is YAML too."""
    return value if isinstance(value, str) else json.dumps(value)
