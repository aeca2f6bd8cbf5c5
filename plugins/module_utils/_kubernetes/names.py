# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, labels, quantities and references as Kubernetes takes them: what is given is judged, what follows is made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .._base.errors import FleetError
from .._base.names import show
from .._base.sizes import GIB, MIB

LABEL_LENGTH = 63
# Of a workload: its pods add a number, and its revisions a digest.
WORKLOAD_LENGTH = 40
DIGEST = 8


class Form(NamedTuple):
    """What a text looks like, and the same in words."""

    pattern: re.Pattern[str]
    words: str


_PART = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
LABEL = Form(re.compile(_PART), "a name of Kubernetes: at most 63 lower-case letters, digits and dashes")
SUBDOMAIN = Form(
    re.compile(rf"(?=.{{1,253}}$){_PART}(?:\.{_PART})*"),
    "a name of Kubernetes: lower-case letters, digits, '-' and '.'",
)
HOST = Form(re.compile(rf"(?=.{{1,253}}$)(?:\*\.)?{_PART}(?:\.{_PART})*"), "a DNS name such as llm.example.com")
LABEL_KEY = Form(
    re.compile(rf"(?:(?=[^/]{{1,253}}/){_PART}(?:\.{_PART})*/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{{0,61}}[A-Za-z0-9])?"),
    "the key of a label, such as nvidia.com/gpu.product",
)
LABEL_VALUE = Form(
    re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"),
    "the value of a label: at most 63 letters, digits, '-', '_' and '.'",
)
RESOURCE = Form(LABEL_KEY.pattern, "a resource of nodes, such as nvidia.com/gpu")
SECRET_KEY = Form(re.compile(r"(?!\.\.)[A-Za-z0-9._-]{1,253}"), "a key of a Secret")
QUANTITY = Form(
    re.compile(r"[0-9]+(?:\.[0-9]+)?(?:m|[kMGTPE]|[KMGTPE]i)?"), "a quantity of Kubernetes such as 64Gi, 8 or 500m"
)
SIZES = {"": 1, "k": 1 << 10, "m": MIB, "g": GIB, "t": 1 << 40}


def check(value: Any, form: Form, what: str) -> str:
    """*value* where it has that form; raises `FleetError`."""
    if isinstance(value, str) and form.pattern.fullmatch(value):
        return value
    raise FleetError(f"{what} is {show(value)}; give {form.words}.")


def check_labels(labels: Mapping[str, Any], what: str) -> dict[str, str]:
    """Labels by key, in the order of their keys."""
    return {
        check(key, LABEL_KEY, f"A key of {what}"): check(labels[key], LABEL_VALUE, f"{what}.{key}")
        for key in sorted(labels, key=str)
    }


def name_of(*parts: str) -> str:
    """The name of a workload and its Service: *parts* joined, and with a digest where that lost something."""
    given = "-".join(parts)
    made = given.replace(".", "-")
    if made == given and len(made) <= WORKLOAD_LENGTH:
        return made
    digest = hashlib.sha256(given.encode()).hexdigest()[:DIGEST]
    return f"{made[: WORKLOAD_LENGTH - DIGEST - 1].rstrip('-')}-{digest}"


def bytes_of(size: str) -> int:
    """The bytes of a size as podman takes it, where g is a GiB."""
    digits = re.match(r"[0-9]+", size)
    if digits is None:
        raise FleetError(f"{show(size)} is no size; give one such as 2g or 512m.")
    unit = size[digits.end() : digits.end() + 1].lower()
    return int(digits.group()) * SIZES.get("" if unit == "b" else unit, 1)


def quantity(size: int) -> str:
    """Bytes as a quantity."""
    for unit, one in (("Gi", GIB), ("Mi", MIB)):
        if size % one == 0:
            return f"{size // one}{unit}"
    return str(size)


def literal(word: str) -> str:
    """A word of a command, an argument or a variable of which Kubernetes expands nothing."""
    return word.replace("$", "$$") if "$(" in word or "$$" in word else word
