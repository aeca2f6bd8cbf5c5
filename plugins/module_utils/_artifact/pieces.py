# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pieces of a published artefact, as one host hands it to another.

A manifest has the sha256 of whole files, which one core computes one after the other. Digests of pieces of 8 MiB
are computed on all cores, tell right from wrong while an artefact arrives, and tell what of a broken transfer is
good. They are computed once, in one read with the whole files' sha256, so that they stand for what the manifest says.

A draft is a list without digests, of files that are read for them only while they are sent: each piece comes with its
own. What came so is published by nobody before it was compared with the list that was made of it in the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .._base.errors import FleetError
from .._base.files import inside, write_atomically
from .._base.sizes import MIB
from .artifact_store import MANIFEST, ArtifactStore, of_other_ranks
from .fingerprint import MAX_THREADS, canonical_json, usable_cpus, walk
from .pagecache import CacheState

# A host hands on a piece once all of it is right, so a chain is late by some pieces for each of its hosts.
PIECE = 8 * MIB
# What is hashed and then written stays in the caches of a core in between.
BLOCK = MIB // 4
VERSION = 1
DIGEST = re.compile(r"[0-9a-f]{64}")


class PieceFile(NamedTuple):
    """One file: its size, its permissions, the sha256 of the whole and of every piece; both empty in a draft."""

    size: int
    mode: int
    sha256: str
    pieces: tuple[str, ...]


class Span(NamedTuple):
    """Where one piece of a file lies."""

    name: str
    number: int
    start: int
    size: int


@dataclass(frozen=True)
class Pieces:
    """What an artefact consists of. Two hosts that agree on `identity` mean the same bytes."""

    fingerprint: str
    files: dict[str, PieceFile]
    piece: int = PIECE

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def is_draft(self) -> bool:
        """Whether its digests are still to be made."""
        return any(not file.sha256 for file in self.files.values())

    def spans(self) -> list[Span]:
        """All pieces, in the order in which they are sent."""
        return [
            Span(name, start // self.piece, start, min(self.piece, file.size - start))
            for name, file in self.files.items()
            for start in range(0, file.size, self.piece)
        ]

    def digest(self, span: Span) -> str:
        """The sha256 of a piece; empty in a draft."""
        return self.files[span.name].pieces[span.number] if self.files[span.name].sha256 else ""

    def encoded(self) -> bytes:
        """The form that is kept and sent."""
        files = {name: file._asdict() for name, file in self.files.items()}
        return canonical_json(
            {"version": VERSION, "fingerprint": self.fingerprint, "piece": self.piece, "files": files}
        )

    def of_ranks(self, ranks: Collection[int]) -> Pieces:
        """Without what only other ranks read; all of it where no ranks are given."""
        others = of_other_ranks(self.files, ranks)
        kept = {name: file for name, file in self.files.items() if name not in others}
        return Pieces(self.fingerprint, kept, self.piece)

    @property
    def identity(self) -> str:
        """sha256 over all of it."""
        return hashlib.sha256(self.encoded()).hexdigest()

    @classmethod
    def decoded(cls, content: bytes) -> Pieces:
        """From what `encoded` gave; anything else is refused."""
        try:
            stored = json.loads(content)
            if stored["version"] != VERSION:
                raise ValueError("version")
            files = {name: _file(name, about, stored["piece"]) for name, about in stored["files"].items()}
            if len({bool(file.sha256) for file in files.values()}) > 1:
                raise ValueError("digests of some files alone")
            return cls(str(stored["fingerprint"]), files, stored["piece"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FleetError(f"What was received is no list of pieces ({error}); see what the source runs.") from None


def _file(name: str, about: Any, piece: int) -> PieceFile:
    """One entry of a list of pieces; what could lead elsewhere or is no whole number of pieces raises."""
    inside(Path("/"), name, "artefact")
    size, mode, pieces = int(about["size"]), int(about["mode"]), tuple(about["pieces"])
    if piece >= 1 and size >= 0 and about["sha256"] == "" and not pieces:
        return PieceFile(size, mode & 0o777, "", ())
    if piece < 1 or size < 0 or len(pieces) != -(-size // piece):
        raise ValueError(f"{name} has {len(pieces)} pieces")
    if not all(DIGEST.fullmatch(digest) for digest in (about["sha256"], *pieces)):
        raise ValueError(f"{name} has a digest that is none")
    return PieceFile(size, mode & 0o777, about["sha256"], pieces)


class PieceDigests:
    """The sha256 of each piece of a file that is told to it, one part after the other."""

    def __init__(self, piece: int = PIECE) -> None:
        self.piece, self._done, self._left = piece, list[str](), piece
        self._hash = hashlib.sha256()

    def told(self, part: memoryview) -> None:
        """The next part of the file."""
        while part:
            self._hash.update(part[: self._left])
            taken = min(len(part), self._left)
            part, self._left = part[taken:], self._left - taken
            if not self._left:
                self._end()

    def _end(self) -> None:
        self._done.append(self._hash.hexdigest())
        self._hash, self._left = hashlib.sha256(), self.piece

    @property
    def done(self) -> int:
        """How many pieces were told whole."""
        return len(self._done)

    def at(self, number: int) -> str:
        """The digest of a piece that was told whole."""
        return self._done[number]

    def digests(self) -> tuple[str, ...]:
        """Those of all that was told; the last piece may be a short one."""
        if self._left < self.piece:
            self._end()
        return tuple(self._done)


def hash_span(descriptor: int, start: int, size: int, whole: Any = None) -> str:
    """sha256 of one piece of an open file; what is read is added to *whole* too, a hash in the making."""
    cache = CacheState.of(descriptor, start + size, start)
    digest, view, done = hashlib.sha256(), memoryview(bytearray(min(BLOCK, size))), 0
    while done < size:
        count = os.preadv(descriptor, [view[: min(BLOCK, size - done)]], start + done)
        if not count:
            break
        digest.update(view[:count])
        if whole is not None:
            whole.update(view[:count])
        done += count
    cache.release(descriptor, start, start + size)
    return digest.hexdigest()


def _read_file(path: Path, piece: int) -> PieceFile:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        status, whole = os.fstat(descriptor), hashlib.sha256()
        spans = [(start, min(piece, status.st_size - start)) for start in range(0, status.st_size, piece)]
        pieces = tuple(hash_span(descriptor, start, size, whole) for start, size in spans)
    finally:
        os.close(descriptor)
    return PieceFile(status.st_size, stat.S_IMODE(status.st_mode) & 0o777, whole.hexdigest(), pieces)


def _held(store: ArtifactStore, path: Path) -> dict[str, Any]:
    """What the manifest of the artefact at *path* says of its files; raises where they differ from it."""
    problems = store.verify(path, full=False) + [f"{name} is on another host" for name in store.lacks(path)]
    if problems:
        raise FleetError(f"{path} cannot be handed on: {problems[0]}; make it again, as the next run here does.")
    held: dict[str, Any] = (store.manifest(path) or {})["files"]
    return held


def _make(store: ArtifactStore, path: Path, piece: int) -> Pieces:
    held = _held(store, path)
    names = sorted(name for name, _ in walk(path, ()))
    for name in names:
        # A link of an image's making could lead anywhere on the host.
        if any(os.path.islink(path / part) for part in (name, *map(str, Path(name).parents))):
            raise FleetError(f"{path / name} is a link, and what it leads to is not handed on; make it a file.")
    with ThreadPoolExecutor(max(1, min(usable_cpus(), MAX_THREADS, len(names)))) as pool:
        files = dict(zip(names, pool.map(lambda name: _read_file(path / name, piece), names)))
    for name, about in held.items():
        if files[name].sha256 != about["sha256"]:
            raise FleetError(
                f"{path / name} was altered after publication, so it is not handed on; make it again, as the next run "
                "here does."
            )
    return Pieces(path.name, files, piece)


def pieces_of(store: ArtifactStore, name: str, fingerprint: str, piece: int = PIECE) -> Pieces:
    """The pieces of a published artefact: as they were computed once, or computed now and kept beside it."""
    path, kept = store.path(name, fingerprint), store.pieces_file(name, fingerprint)
    if not path.is_dir():
        raise FleetError(f"{path} is not there, so it cannot be handed on; make it first.")
    manifest = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest() if (path / MANIFEST).is_file() else ""
    if kept.is_file():
        try:
            pieces = Pieces.decoded(kept.read_bytes())
        except FleetError:
            pieces = Pieces(fingerprint, {}, piece)
        # They are those of this artefact, and not of one that was replaced, if they are those of its manifest.
        if MANIFEST in pieces.files and pieces.files[MANIFEST].sha256 == manifest and _held(store, path):
            return pieces
    pieces = _make(store, path, piece)
    write_atomically(kept, pieces.encoded())
    return pieces
