# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of a hub or another source, what has to be given for it, and the record of what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Optional
from urllib.parse import urlsplit

from .._base.errors import UNSHOWN, FleetError
from .._base.names import check_path, show

HUGGINGFACE = "huggingface"
# What each source needs, and what it takes beside that.
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    HUGGINGFACE: (("repo",), ("revision", "include", "exclude", "endpoint", "cache")),
}
# Options of any of them.
TAKEN = tuple(sorted({option for both in OPTIONS.values() for options in both for option in options}))
SECRETS = ("token", "token_file")
CONSENTS = ("trust_remote_code", "allow_pickle")
DEFAULT_REVISION = {HUGGINGFACE: "main"}
REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")
COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Request:
    """One checkpoint as it was asked for."""

    source: str
    repo: str = ""
    revision: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    endpoint: str = ""
    cache: str = ""

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return self.repo

    def asked(self) -> dict[str, Any]:
        """What makes another checkpoint of it where it changes; where the bytes come from does not."""
        values = json.loads(json.dumps(asdict(self)))
        return {key: value for key, value in values.items() if key not in ("endpoint", "cache")}


def request_of(given: Mapping[str, Any], what: str) -> Request:
    """What *given* asks for, its options named as the fields of `Request`; *what* names it in a refusal."""
    source = str(given.get("source"))
    needed, taken = OPTIONS[source]
    for option in needed:
        if not given.get(option):
            raise FleetError(f"{what}{option} is missing; source {source} needs it.")
    for option in (field.name for field in fields(Request)):
        if option != "source" and option not in (*needed, *taken) and given.get(option):
            raise FleetError(f"{what}{option} is given, but source {source} takes {', '.join((*needed, *taken))}.")
    request = Request(
        source=source,
        repo=str(given.get("repo") or ""),
        revision=str(given.get("revision") or DEFAULT_REVISION[source]),
        include=tuple(str(pattern) for pattern in given.get("include") or ()),
        exclude=tuple(str(pattern) for pattern in given.get("exclude") or ()),
        endpoint=str(given.get("endpoint") or "").rstrip("/"),
        cache=str(given.get("cache") or ""),
    )
    _judge(request, what)
    return request


def _judge(request: Request, what: str) -> None:
    if request.repo and (not REPO.fullmatch(request.repo) or ".." in request.repo or "--" in request.repo):
        raise FleetError(f"{what}repo is {show(request.repo)}; give it as the hub writes it, OWNER/NAME.")
    if request.revision and (not REVISION.fullmatch(request.revision) or ".." in request.revision):
        raise FleetError(f"{what}revision is {show(request.revision)}; give a branch, a tag or a commit.")
    if request.endpoint:
        _judge_url(request.endpoint, f"{what}endpoint")
    if request.cache:
        check_path(request.cache, f"{what}cache")
    for pattern in (*request.include, *request.exclude):
        if not pattern or UNSHOWN.search(pattern):
            raise FleetError(f"{what}include or exclude has {show(pattern)}; give patterns such as '*.safetensors'.")


def _judge_url(value: str, what: str) -> None:
    parts = urlsplit(value)
    if parts.scheme not in ("https", "http") or not parts.hostname or UNSHOWN.search(value) or " " in value:
        raise FleetError(f"{what} is {show(value)}; give an address that begins with https:// or http://.")
    if parts.username is not None or parts.password is not None:
        raise FleetError(f"{what} holds a name or a password, which logs would show; give it as token.")


@dataclass(frozen=True)
class Record:
    """What was fetched: the request, the commit that its revision was then, and the sha256 of each file."""

    asked: Mapping[str, Any]
    commit: str
    files: Mapping[str, str]


def read_record(path: Path) -> Optional[Record]:
    """The record at *path*; None where there is none, or one that cannot be understood."""
    try:
        found = json.loads(path.read_bytes())
        return Record(dict(found["asked"]), str(found["commit"]), dict(found["files"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
