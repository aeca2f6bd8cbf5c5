# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of a hub or another source, what has to be given for it, and the record of what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Optional
from urllib.parse import unquote, urlsplit

from .._base.errors import UNSHOWN, FleetError
from .._base.names import check_path, show
from .._base.urls import check_url

HUGGINGFACE, MODELSCOPE, GIT, URL = "huggingface", "modelscope", "git", "url"
# What each source needs, and what it takes beside that.
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    HUGGINGFACE: (("repo",), ("revision", "include", "exclude", "endpoint", "cache")),
    MODELSCOPE: (("repo",), ("revision", "include", "exclude", "endpoint")),
    GIT: (("url",), ("revision", "include", "exclude")),
    URL: ((), ("url", "sha256", "files", "include", "exclude")),
}
# What makes no other checkpoint of it where it changes: from where the same bytes come.
WHENCE = {HUGGINGFACE: ("endpoint", "cache"), MODELSCOPE: ("endpoint",), GIT: (), URL: ("url",)}
# Options of any of them.
TAKEN = tuple(sorted({option for both in OPTIONS.values() for options in both for option in options}))
SECRETS = ("token", "token_file")
CONSENTS = ("trust_remote_code", "allow_pickle")
DEFAULT_REVISION = {HUGGINGFACE: "main", MODELSCOPE: "master", GIT: "HEAD", URL: ""}
REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")
COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
# What is unpacked, by its ending.
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".tar.bz2", ".zip")
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
    url: str = ""
    sha256: str = ""
    # The address of each file -> its sha256.
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return self.repo or urlsplit(self.url or min(self.files))._replace(query="", fragment="").geturl()

    def asked(self) -> dict[str, Any]:
        """What makes another checkpoint of it where it changes."""
        needed, taken = OPTIONS[self.source]
        values = json.loads(json.dumps(asdict(self)))
        return {key: values[key] for key in ("source", *needed, *taken) if key not in WHENCE[self.source]}


def request_of(given: Mapping[str, Any], what: str) -> Request:
    """What *given* asks for, its options named as the fields of `Request`; *what* names it in a refusal."""
    source = str(given.get("source"))
    needed, taken = OPTIONS[source]
    for option in needed:
        if not given.get(option):
            raise FleetError(f"{what}{option} is missing; source {source} needs it.")
    for option in (known.name for known in fields(Request)):
        if option != "source" and option not in (*needed, *taken) and given.get(option):
            raise FleetError(f"{what}{option} is given, but source {source} takes {', '.join((*needed, *taken))}.")
    if not isinstance(given.get("files") or {}, Mapping):
        raise FleetError(f"{what}files is no dictionary; give the address of each file and its sha256.")
    request = Request(
        source=source,
        repo=str(given.get("repo") or ""),
        revision=str(given.get("revision") or DEFAULT_REVISION[source]),
        include=tuple(str(pattern) for pattern in given.get("include") or ()),
        exclude=tuple(str(pattern) for pattern in given.get("exclude") or ()),
        endpoint=str(given.get("endpoint") or "").rstrip("/"),
        cache=str(given.get("cache") or ""),
        url=str(given.get("url") or ""),
        sha256=str(given.get("sha256") or "").lower(),
        files={str(at): str(digest).lower() for at, digest in (given.get("files") or {}).items()},
    )
    _judge(request, what)
    return request


def _judge(request: Request, what: str) -> None:
    if request.repo and (not REPO.fullmatch(request.repo) or ".." in request.repo or "--" in request.repo):
        raise FleetError(f"{what}repo is {show(request.repo)}; give it as the hub writes it, OWNER/NAME.")
    if request.revision and (not REVISION.fullmatch(request.revision) or ".." in request.revision):
        raise FleetError(f"{what}revision is {show(request.revision)}; give a branch, a tag or a commit.")
    for option, address in (
        ("endpoint", request.endpoint),
        ("url", request.url),
        *(("files", at) for at in request.files),
    ):
        if address:
            _judge_url(address, f"{what}{option}")
    if request.source == URL:
        _judge_digests(request, what)
    if request.cache:
        check_path(request.cache, f"{what}cache")
    for pattern in (*request.include, *request.exclude):
        if not pattern or UNSHOWN.search(pattern):
            raise FleetError(f"{what}include or exclude has {show(pattern)}; give patterns such as '*.safetensors'.")


def _judge_digests(request: Request, what: str) -> None:
    if bool(request.url) == bool(request.files):
        raise FleetError(f"{what}url or files is needed, and not both; url is an archive, files are single ones.")
    if request.sha256 and request.files:
        raise FleetError(f"{what}sha256 belongs to url; in files, each address has its own.")
    for address, digest in {**({request.url: request.sha256} if request.url else {}), **request.files}.items():
        if not SHA256.fullmatch(digest):
            raise FleetError(f"{what}sha256 of {address} is {show(digest)}; give its 64 hexadecimal digits.")
    if request.url and not is_archive(request.url):
        raise FleetError(
            f"{what}url is {show(request.url)}, which is no {', '.join(ARCHIVES)}; give single files as files."
        )
    names = sorted(name_of(address) for address in request.files)
    for name, other in zip(names, ["", *names]):
        if name == other or name in ("", ".", ".."):
            raise FleetError(
                f"{what}files has {show(name)} twice, or no name; each address has to end in another name."
            )


def name_of(address: str) -> str:
    """What the file at *address* is called: the last part of its path."""
    return unquote(urlsplit(address).path).rpartition("/")[2]


def is_archive(address: str) -> bool:
    """Whether the file at *address* is one that is unpacked, by its name."""
    return name_of(address).lower().endswith(ARCHIVES)


def _judge_url(value: str, what: str) -> None:
    parts = check_url(value, what)
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
