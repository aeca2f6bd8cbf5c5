# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory to build an image from, as one host hands it to another: what belongs to it, its digest, its archive.

What ``.containerignore``, or ``.dockerignore`` where that is not there, leaves out is neither read nor sent. Its rules
are those of podman: patterns of Go's ``filepath.Match`` and ``**``, ``!`` takes back, the last one that matches counts.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from .._artifact.fingerprint import file_sha256, fingerprint
from .._base.errors import FleetError

IGNORE_FILES = (".containerignore", ".dockerignore")
CONTAINERFILE, TREE = "Containerfile", "context"  # what an archive holds
# What stands for what in a pattern. ``**/`` is any number of directories, none too.
_TOKENS = re.compile(r"\*\*/|\*\*|\*|\?|\[(?:\\.|[^\]\\])+\]|\\.|.", re.DOTALL)


def _expression(pattern: str) -> re.Pattern[str]:
    """A pattern of an ignore file as a regular expression of whole paths."""
    found = ""
    for token in _TOKENS.findall(pattern):
        if token == "**/":
            found += "(?:.*/)?"
        elif token == "**":
            found += ".*"
        elif token == "*":
            found += "[^/]*"
        elif token == "?":
            found += "[^/]"
        elif token.startswith("[") and len(token) > 1:
            found += token
        else:
            found += re.escape(token[-1])
    return re.compile(found, re.DOTALL)


class Ignored:
    """The rules of one ignore file."""

    def __init__(self, text: str) -> None:
        self.rules: list[tuple[bool, re.Pattern[str]]] = []
        for line in text.splitlines():
            pattern = line.strip()
            if not pattern or pattern.startswith("#"):
                continue
            back = pattern.startswith("!")
            pattern = os.path.normpath(pattern[1:].strip() if back else pattern).lstrip("/")
            try:
                self.rules.append((not back, _expression(pattern)))
            except re.error as error:
                raise FleetError(f"The ignore file has {line.strip()!r}, which is no pattern ({error}).") from None

    def __call__(self, path: str) -> bool:
        """Whether *path*, or a directory that it is in, is left out."""
        parts = PurePosixPath(path).parts
        above = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
        out = False
        for leaves_out, expression in self.rules:
            if any(expression.fullmatch(one) for one in above):
                out = leaves_out
        return out

    @classmethod
    def of(cls, root: Path) -> Ignored:
        """Those of the context at *root*; none where it has no ignore file."""
        for name in IGNORE_FILES:
            with contextlib.suppress(FileNotFoundError):
                return cls((root / name).read_text(encoding="utf-8"))
        return cls("")

    @property
    def takes_back(self) -> bool:
        """Whether something below a directory that is left out may belong to the context all the same."""
        return not all(leaves_out for leaves_out, _ in self.rules)


@dataclass(frozen=True)
class Context:
    """A context of this machine: the paths below *root* that belong to it, and the Containerfile."""

    root: Path
    containerfile: Path
    paths: tuple[str, ...]

    @classmethod
    def of(cls, root: Path, containerfile: str = "") -> Context:
        """The one at *root*; *containerfile* is below it, or absolute. Raises `FleetError` for what is none."""
        if not root.is_dir():
            raise FleetError(f"There is no directory {str(root)!r} on the controller to build from; correct context.")
        file = root / (containerfile or CONTAINERFILE)
        if not file.is_file():
            raise FleetError(f"There is no {file} on the controller; give containerfile, the file to build from.")
        return cls(root, file, tuple(sorted(_belonging(root, Ignored.of(root)))))

    @property
    def digest(self) -> str:
        """Over the path, the kind, the permission to run and the content of each; over nothing else."""
        return fingerprint([[path, *_content(self.root / path)] for path in self.paths])

    def pack(self, stream: IO[bytes]) -> None:
        """Write an archive with the context and the Containerfile, without owners and times."""
        with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as archive:
            text = self.containerfile.read_bytes()
            head = tarfile.TarInfo(CONTAINERFILE)
            head.size, head.mode = len(text), 0o644
            archive.addfile(head, io.BytesIO(text))
            for path in self.paths:
                member = archive.gettarinfo(self.root / path, f"{TREE}/{path}")
                member.uid = member.gid = member.mtime = 0
                member.uname = member.gname = ""
                if member.islnk():  # the second name of a file, which is a file of its own here
                    member.type, member.size = tarfile.REGTYPE, (self.root / path).stat().st_size
                with (self.root / path).open("rb") if member.isreg() else io.BytesIO() as content:
                    archive.addfile(member, content if member.isreg() else None)


def _content(path: Path) -> tuple[str, str]:
    """What a digest says of *path*."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return "link", os.readlink(path)
    if stat.S_ISDIR(status.st_mode):
        return "directory", ""
    return ("program" if status.st_mode & 0o100 else "file"), file_sha256(path, status.st_size)


def _belonging(root: Path, ignored: Ignored) -> Iterator[str]:
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                path, out = prefix + entry.name, ignored(prefix + entry.name)
                if entry.is_symlink() or entry.is_file():
                    if not out:
                        yield path
                elif entry.is_dir():
                    if not out:
                        yield path
                    if not out or ignored.takes_back:
                        pending.append(f"{path}/")
                elif not out:
                    raise FleetError(
                        f"{entry.path} is neither a file nor a directory; leave it out by .containerignore."
                    )


def unpack(archive: Path, place: Path) -> tuple[Path, Path]:
    """Unpack what `Context.pack` wrote into *place*, which is not there yet: the context and the Containerfile."""
    place.mkdir(mode=0o700)
    with tarfile.open(archive) as members:
        for member in members:
            parts = PurePosixPath(member.name).parts
            inside = bool(parts) and parts[0] in (CONTAINERFILE, TREE) and ".." not in parts
            if not inside or not (member.isfile() or member.isdir() or member.issym()):
                raise FleetError(f"{archive} has {member.name!r}, which no context has; run again.")
            target = place.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.parent.resolve() != place.resolve().joinpath(*parts[:-1]):
                raise FleetError(f"{archive} has {member.name!r} behind a link; run again.")
            if member.isdir():
                target.mkdir(exist_ok=True)
            elif member.issym():
                target.symlink_to(member.linkname)
                continue
            else:
                source = members.extractfile(member)
                with target.open("xb") as stream:
                    while source is not None and (block := source.read(1 << 20)):
                        stream.write(block)
            target.chmod(member.mode & 0o777)
            os.utime(target, (0, 0))
    (place / TREE).mkdir(exist_ok=True)
    return place / TREE, place / CONTAINERFILE
