# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of values that a parameter takes: each is judged, and spelled as upstream's models read it.

Text that is already spelled right stays as it is, so that what the documents write can be given word for word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Callable, Optional

from .._base.errors import FleetError, nearest
from .._base.versions import version_key

# What the C++ backend (GetParameter<bool>) takes; in a protobuf field the upper-case forms do not parse.
BOOLS = {
    "True": True, "true": True, "TRUE": True, "1": True, "False": False, "false": False, "FALSE": False, "0": False,
}  # fmt: skip
SCALAR_BOOLS = {text: value for text, value in BOOLS.items() if text not in ("TRUE", "FALSE")}
NAME = re.compile(r"[A-Za-z0-9_.-]+")
# Without leading zeros: Triton reads 010 as 8 where it stands outside a string, and as 10 inside one.
_WHOLE = re.compile(r"0|-?[1-9][0-9]*")
_ZEROS = re.compile(r"-?0[0-9]+")
_DECIMAL = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BRANCH = r"\{\s*[0-9]+\s*(?:,\s*[0-9]+\s*)*\}"
_TREE = re.compile(rf"\s*{_BRANCH}\s*(?:,\s*{_BRANCH}\s*)*")
_MOST_BITS = 256  # no parameter has half as many, and Python does not print a number of some thousand digits
_SHOWN = 60  # characters of a value that a message repeats


@dataclass(frozen=True)
class Limits:
    """What a value may be: *low* and *high* (included, unless *open_low*), or one of *choices*.

    *bits* is the width of the signed number that upstream reads a whole number into. *several* is the first release
    where a list may hold more than one element, or more than one list.
    """

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    bits: int = 32
    choices: tuple[str, ...] = ()
    several: str = ""


NO_LIMITS = Limits()
Kind = Callable[[Any, Limits, str, "tuple[int, ...]"], str]


def _show(raw: Any) -> str:
    text = f"'{raw}'" if isinstance(raw, str) else repr(raw)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _text(raw: Any, source: str, wanted: str) -> str:
    """Plain text out of a scalar; refuses what would not survive in the template."""
    if isinstance(raw, (dict, list, tuple)):
        raise FleetError(f"{source} is {_show(raw)}; it takes {wanted}.")
    if isinstance(raw, int) and raw.bit_length() > _MOST_BITS:
        raise FleetError(f"{source} is a number of {raw.bit_length()} bits; it takes {wanted}.")
    text = str(raw)
    if not text.strip():
        raise FleetError(f"{source} is empty; it takes {wanted}. Leave it out to leave it unset.")
    if "${" in text:
        raise FleetError(f"{source} is '{text}', which still holds a placeholder; give {wanted}.")
    if any(not character.isprintable() for character in text) or text != text.strip():
        raise FleetError(f"{source} is {text!r}, with blanks around it or control characters in it; give {wanted}.")
    return text


def _bounds(limits: Limits, whole: bool) -> str:
    if whole:
        ends = [f"at {word} {end:g}" for word, end in (("least", limits.low), ("most", limits.high)) if end is not None]
        return f"a whole number of {' and '.join(ends)}" if ends else "a whole number"
    if limits.high is None:
        return f"a number {'above' if limits.open_low else 'of at least'} {limits.low:g}"
    return f"a number {'above' if limits.open_low else 'from'} {limits.low:g} up to {limits.high:g}"


def _inside(number: float, limits: Limits) -> bool:
    if limits.low is not None and (number < limits.low or (limits.open_low and number == limits.low)):
        return False
    return limits.high is None or number <= limits.high


def whole(raw: Any, limits: Limits, source: str, key: tuple[int, ...]) -> str:
    """A whole number, as its one spelling: what comes out means the same to int() and to all of Triton."""
    wanted = _bounds(limits, True)
    text = _text(raw, source, wanted)
    if isinstance(raw, (bool, float)) or not _WHOLE.fullmatch(text):
        hint = ", without leading zeros, which would make it octal" if _ZEROS.fullmatch(text) else ""
        raise FleetError(f"{source} is {_show(raw)}; it takes {wanted}{hint}.")
    most = 2 ** (limits.bits - 1) - 1
    # More digits than any limit has are not turned into a number: Python refuses that for some thousands of them.
    number = int(text) if len(text) <= len(str(most)) + 1 else math.copysign(math.inf, -1 if text[0] == "-" else 1)
    if number > most:
        raise FleetError(
            f"{source} is {_show(text)}, more than upstream's {limits.bits}-bit number holds; give at most {most}."
        )
    if not _inside(number, limits):
        raise FleetError(f"{source} is {_show(raw)}; it takes {wanted}.")
    return text


def decimal(raw: Any, limits: Limits, source: str, key: tuple[int, ...]) -> str:
    """A number, whole or not."""
    wanted = _bounds(limits, False)
    text = _text(raw, source, wanted)
    if isinstance(raw, bool) or not _DECIMAL.fullmatch(text):
        raise FleetError(f"{source} is {_show(raw)}; it takes {wanted}.")
    number = float(text)
    if not math.isfinite(number) or not _inside(number, limits):
        raise FleetError(f"{source} is {_show(raw)}; it takes {wanted}.")
    return text


def flag(raw: Any, limits: Limits, source: str, key: tuple[int, ...]) -> str:
    """A boolean inside a string; spelled as the documents do."""
    return _flag(raw, source, BOOLS)


def scalar_flag(raw: Any, limits: Limits, source: str, key: tuple[int, ...]) -> str:
    """A boolean field of the configuration itself."""
    return _flag(raw, source, SCALAR_BOOLS)


def _flag(raw: Any, source: str, spelled: dict[str, bool]) -> str:
    text = _text(raw, source, "true or false")
    if isinstance(raw, float) or text not in spelled:
        raise FleetError(f"{source} is {_show(raw)}; it takes true or false.")
    return text


def choice(raw: Any, limits: Limits, source: str, key: tuple[int, ...]) -> str:
    """One of a few words."""
    wanted = f"one of {', '.join(limits.choices)}" if len(limits.choices) > 1 else f"'{limits.choices[0]}' only"
    text = _text(raw, source, wanted)
    if text not in limits.choices:
        raise FleetError(f"{source} is '{text}'; it takes {wanted}{nearest(text, limits.choices) or '.'}")
    return text


def path(raw: Any, limits: Limits, source: str, key: tuple[int, ...]) -> str:
    """An absolute path of the host; containers see it at the same place."""
    text = _text(raw, source, "an absolute path of the host")
    if not text.startswith("/"):
        raise FleetError(
            f"{source} is '{text}'; it takes an absolute path of the host (a name of the Hugging Face Hub would be "
            "downloaded by Triton at every start)."
        )
    if ".." in text.split("/"):
        raise FleetError(f"{source} is '{text}'; it takes a path without '..', as it is mounted into containers.")
    return text


def name(raw: Any, limits: Limits, source: str, key: tuple[int, ...]) -> str:
    """The name of a Triton model."""
    text = _text(raw, source, "the name of a model of the repository")
    if not NAME.fullmatch(text):
        raise FleetError(f"{source} is '{text}'; a model's name has letters, digits, '_', '.' and '-' only.")
    return text


def _elements(raw: Any, separator: str) -> list[Any]:
    if isinstance(raw, (list, tuple)):
        return list(raw)
    return [part.strip() for part in str(raw).split(separator)]


def numbers(raw: Any, limits: Limits, source: str, key: tuple[int, ...]) -> str:
    """Whole numbers separated by commas; a YAML list is as good."""
    wanted = f"{_bounds(limits, True)}, or several separated by commas"
    parts = _elements(raw, ",")
    if isinstance(raw, (bool, float, dict)) or not parts:
        raise FleetError(f"{source} is {_show(raw)}; it takes {wanted}.")
    texts = [whole(part, limits, source, key) for part in parts]
    if len(texts) > 1 and limits.several and key < version_key(limits.several):
        raise FleetError(
            f"{source} is '{','.join(texts)}'; before release {limits.several} it takes one number, not a list."
        )
    return raw if isinstance(raw, str) else ",".join(texts)


def ids(raw: Any, limits: Limits, source: str, key: tuple[int, ...]) -> str:
    """Lists of GPU or rank numbers: ``0,1``, or ``0,1;2,3`` for two instances of the model."""
    nested = isinstance(raw, (list, tuple)) and all(isinstance(part, (list, tuple)) for part in raw)
    sets = _elements(raw, ";") if isinstance(raw, str) or nested else [raw]
    if isinstance(raw, (bool, float, dict)) or not sets:
        raise FleetError(f"{source} is {_show(raw)}; it takes numbers separated by commas, such as 0,1.")
    each = replace(limits, low=limits.low or 0)
    lists = [[whole(part, each, source, key) for part in _elements(one, ",")] for one in sets]
    if len(lists) > 1 and limits.several and key < version_key(limits.several):
        raise FleetError(f"{source} is {_show(raw)}; before release {limits.several} it takes one list, without ';'.")
    for one in lists:
        repeated = next((number for number in one if one.count(number) > 1), None)
        if repeated is not None:
            raise FleetError(f"{source} is {_show(raw)}, which names {repeated} twice; name each once.")
    return raw if isinstance(raw, str) else ";".join(",".join(one) for one in lists)


def id_lists(text: str) -> list[list[int]]:
    """``0,1;2,3`` as lists of numbers."""
    return [[int(part) for part in one.split(",")] for one in text.split(";")]


def tree(raw: Any, limits: Limits, source: str, key: tuple[int, ...]) -> str:
    """A tree of choices, ``{0, 0}, {0, 1}``; a YAML list of lists is as good."""
    wanted = "branches such as {0, 0, 0}, {0, 1}"
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        branches = [", ".join(str(number) for number in branch) for branch in raw if isinstance(branch, Sequence)]
        text = ", ".join(f"{{{branch}}}" for branch in branches) if len(branches) == len(raw) else ""
    else:
        text = _text(raw, source, wanted)
    if not _TREE.fullmatch(text):
        raise FleetError(f"{source} is {_show(raw)}; it takes {wanted}.")
    for number in re.findall(r"[0-9]+", text):
        whole(number, limits, source, key)
    return text


def is_true(text: Optional[str]) -> bool:
    """Whether a flag that was judged above says true; None is false."""
    return text is not None and BOOLS[text]


def same(kind: str, one: str, other: str) -> bool:
    """Whether two spellings of a value of *kind* mean the same."""
    if kind in ("bool", "scalar_bool"):
        return BOOLS[one] == BOOLS[other]
    if kind in ("int", "float"):
        return float(one) == float(other)
    return one == other


KINDS: dict[str, Kind] = {
    "bool": flag,
    "scalar_bool": scalar_flag,
    "int": whole,
    "float": decimal,
    "choice": choice,
    "path": path,
    "name": name,
    "numbers": numbers,
    "ids": ids,
    "tree": tree,
}
