# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may become a path: every name that directories, files, units and containers are called by, and every path.

A name such as ``..`` makes a path lead elsewhere, and a ``:`` or a line break makes podman or systemd read another
path than was meant, so both are judged here before anything is done with them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from .errors import UNSHOWN, FleetError

# All that the collection keeps on a host stands below it, unless a fleet names another root.
DEFAULT_ROOT = "/var/lib/trtllm"
DEFAULT_RELEASES = f"{DEFAULT_ROOT}/releases"

# With what stands before and after it, a name of this length is still a file's and a unit's name.
LONGEST = 128
# How stores call what is half made, replaced or known of an artefact: a name must not end like the files beside it.
RESERVED = (".partial", ".replaced", ".old", ".digests.json", ".source-digests.json", ".source.json")
IMAGE = re.compile(r"[A-Za-z0-9](?:[\w.:/@-]{0,510}\w)?", re.ASCII)
# Longer than any path that Linux takes.
LONGEST_TEXT = 4096
# Halves of UTF-16's pairs, which YAML can write and nothing can send.
HALVES = re.compile("[\ud800-\udfff]")
SHOWN = 80  # characters of a value in a sentence


class NameRule(NamedTuple):
    """What a kind of name looks like, and the same in words."""

    pattern: re.Pattern[str]
    words: str


# What directories, units and containers on a host can be called.
HOST_NAME = NameRule(
    re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST - 1}}}"),
    f"it names directories and units on the host, so use at most {LONGEST} letters, digits, '.', '_' and '-', with a "
    "letter or digit in front",
)
# What a model of the fleet can be called: clients write it too.
MODEL_NAME = NameRule(
    re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?"),
    "it names directories, units and the model of the OpenAI API, so use at most 63 lower-case letters, digits, dots "
    "and dashes, with a letter or digit at both ends",
)


def show(value: Any) -> str:
    """*value* for a sentence: in quotes, on one line, and not longer than a reader needs."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(str(value))} characters)"


def is_name(value: Any, rule: NameRule = HOST_NAME) -> bool:
    """Whether *value* can be a name."""
    return isinstance(value, str) and bool(rule.pattern.fullmatch(value)) and not value.endswith(RESERVED)


def check_name(value: Any, what: str, rule: NameRule = HOST_NAME) -> str:
    """*value* where it can be a name; *what* is the option that gave it."""
    if is_name(value, rule):
        return str(value)
    if isinstance(value, str) and rule.pattern.fullmatch(value):
        ending = next(ending for ending in RESERVED if value.endswith(ending))
        raise FleetError(
            f"{what} is {show(value)}; what ends in '{ending}' is half made or replaced, so give a name that ends "
            "otherwise."
        )
    raise FleetError(f"{what} is {show(value)}; {rule.words}.")


def check_image(value: Any, what: str) -> str:
    """*value* where it can be the name of an image, with a tag or a digest, or its ID."""
    if IMAGE.fullmatch(str(value)):
        return str(value)
    raise FleetError(
        f"{what} is {show(value)}; give an image as podman writes it, such as registry.example/triton:24.05, with a "
        "digest, or an ID."
    )


def check_absolute(value: Any, what: str) -> str:
    """*value* where it is the absolute path of something on the host, on one line."""
    text = str(value)
    if not text.startswith("/"):
        raise FleetError(
            f"{what} is {show(text)}; it takes an absolute path, as there is no directory that it could begin in."
        )
    if UNSHOWN.search(text):
        raise FleetError(f"{what} is {show(text)}; it takes a path without line breaks and other control characters.")
    return text


def check_path(value: Any, what: str) -> str:
    """*value* where it can be mounted into a container and stand in a unit as it is."""
    text = check_absolute(value, what)
    if ":" in text:
        raise FleetError(
            f"{what} is {show(text)}; it is mounted into containers, where ':' ends a path, so use one without ':'."
        )
    if ".." in text.split("/"):
        raise FleetError(f"{what} is {show(text)}; it is mounted into containers, so give it without '..'.")
    return text


def check_text(value: str, what: str, secret: bool = False) -> None:
    """Refuse a text that cannot stand in a unit, a command and a file of ours as it is; a *secret* is not shown."""
    if UNSHOWN.search(value):
        shown = "has" if secret else f"is {show(value)}; it has"
        raise FleetError(f"{what} {shown} line breaks or other control characters; give it as one line without them.")
    if len(value) > LONGEST_TEXT:
        raise FleetError(f"{what} has {len(value)} characters; give at most {LONGEST_TEXT}.")


def check_texts(spec: Mapping[str, Any], given: Mapping[str, Any], free: Collection[str] = (), where: str = "") -> None:
    """Refuse with `check_text` all text at any depth of what was given for *spec*, but for the options in *free*."""
    for option, about in spec.items():
        value, what = given.get(option), f"{where}{option}"
        if option not in free:
            _check_texts(value, about, free, what)
        elif isinstance(value, str) and HALVES.search(value):
            raise FleetError(f"{what} is {show(value)}, which is no Unicode text; give whole characters.")


def _check_texts(value: Any, about: Mapping[str, Any], free: Collection[str], what: str) -> None:
    if isinstance(value, str):
        check_text(value, what, bool(about.get("no_log")))
    elif isinstance(value, (list, tuple)):
        for number, element in enumerate(value):
            _check_texts(element, about, free, f"{what}[{number}]")
    elif isinstance(value, Mapping) and about.get("options"):
        check_texts(about["options"], value, free, f"{what}.")
    elif isinstance(value, Mapping):
        for key, element in value.items():
            check_text(str(key), f"A key of {what}")
            _check_texts(element, about, free, f"{what}.{key}")


def check_paths(spec: Mapping[str, Any], given: Mapping[str, Any], where: str = "") -> None:
    """Refuse what was given for an option of type path, at any depth, and is no absolute path on one line."""
    for option, about in spec.items():
        value, name = given.get(option), f"{where}{option}"
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        if "path" in (about.get("type"), about.get("elements")):
            for path in values:
                check_absolute(path, name)
        elif about.get("options"):
            for number, inner in enumerate(values):
                at = f"{name}[{number}]." if isinstance(value, list) else f"{name}."
                check_paths(about["options"], inner, at)
