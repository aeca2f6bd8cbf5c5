# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkpoint as an artefact, which is what goes from host to host in verified pieces.

``<root>/handed/<name>/<digest>/files/`` holds links to the files of the checkpoint, which take no room, and
``manifest.json`` beside them their sha256. It is there while a run hands the checkpoint on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._artifact.artifact_store import FINGERPRINT, MANIFEST, ArtifactStore, manifest_text
from .._artifact.fingerprint import Told, TreeDigest, change_links, tree_digest
from .._artifact.pieces import PIECE, PieceDigests, PieceFile, Pieces
from .._artifact.serve import Offer
from .._artifact.transfer import KINDS
from .._base import files
from .._base.errors import FleetError
from .store import CheckpointStore

KIND = "checkpoint"
FILES = "files"
MODE = 0o644  # as a checkpoint's files are published


class Handed:
    """The checkpoint *name* below *root*, as it is handed on and as it arrives."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.store = CheckpointStore(root / "checkpoints")
        self.path = self.store.path(name)  # refuses a name that would lead out of it
        self.artifacts = ArtifactStore(root / KINDS[KIND])

    def source(self) -> dict[str, Any]:
        """From where it was downloaded, as it is kept beside it; {} where it was not."""
        return files.read_object(self.store.record(self.name))

    def digest(self, write_index: bool = True) -> str:
        """The digest of what is published; empty where nothing is."""
        tree = self.store.current(self.name, write_index=write_index)
        return tree.digest if tree else ""

    def offered(self) -> set[str]:
        """The digests of the artefacts of this name that are here, or have begun to arrive."""
        home = self.artifacts.home(self.name)
        return {path.name[:64] for path in home.iterdir() if FINGERPRINT.match(path.name)} if home.is_dir() else set()

    def arrived(self, digest: str) -> bool:
        """Whether the artefact is here, as a whole."""
        return self.artifacts.has(self.name, digest)

    def offer(self) -> str:
        """Make the artefact of what is published; its fingerprint is the checkpoint's digest."""
        with self.store.lock(self.name):
            tree = self.store.current(self.name)
            if tree is None:
                raise FleetError(f"{self.path} is not there, so it cannot be handed on; bring it there first.")
            if not self.artifacts.has(self.name, tree.digest):
                self._clear()
                target = self.artifacts.staging(self.name, tree.digest) / FILES
                contents = tree.contents()

                change_links(self.path, self.store.index(self.name), lambda: _link(self.path, target, contents))
                held = {f"{FILES}/{path}": sha256 for path, sha256 in contents.items()}
                self.artifacts.publish(self.name, tree.digest, {}, held)
        return tree.digest

    def adopt(self, digest: str, source: dict[str, Any], keep: bool = False) -> bool:
        """Publish what arrived, or keep what is here if it is the same, as what came from *source*.

        False where neither is here. With *keep* the artefact stays, for who receives it from here.
        """
        with self.store.lock(self.name):
            if self.digest() != digest:
                if not self.artifacts.has(self.name, digest):
                    return False
                arrived = self.artifacts.path(self.name, digest)
                held = (self.artifacts.manifest(arrived) or {})["files"]
                contents = {path[len(FILES) + 1 :]: about["sha256"] for path, about in held.items()}
                made = arrived / FILES
                if keep:
                    made = self.store.staging(self.name)
                    files.remove(made)
                    index = self.artifacts.digests_file(arrived)
                    change_links(arrived, index, lambda: _link(arrived / FILES, made, contents))
                self.store.adopt(self.name, made, contents, digest)
                if not keep:
                    self._clear()
            self.store.write_record(self.name, source)
        return True

    def clear(self) -> bool:
        """Remove the artefact, and what is left of others of this name; True if there was any. The checkpoint stays."""
        with self.store.lock(self.name):
            return self._clear()

    def _clear(self) -> bool:
        home = self.artifacts.home(self.name)
        if not home.is_dir():
            return False
        change_links(self.path, self.store.index(self.name), lambda: files.remove(home))
        return True


def _link(source: Path, target: Path, paths: Iterable[str]) -> None:
    for path in paths:
        place = files.inside(target, path, "checkpoint")
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(source / path, place)


@dataclass(frozen=True)
class Local:
    """A checkpoint that is a directory of this machine, as the artefact that a host makes of the same checkpoint."""

    root: Path
    tree: TreeDigest
    pieces: Pieces
    manifest: Path

    def offer(self) -> Offer:
        """What is handed out of it; links are followed, as the snapshots of a hub's cache are."""

        def opened(name: str) -> int:
            path = self.manifest if name == MANIFEST else self.root / name[len(FILES) + 1 :]
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

        return Offer(self.pieces, opened)


def local(root: Path, index: Path, stays: int = 0) -> Local:
    """The directory *root*, read once: *index* keeps what that told, and files beside it the rest.

    Of what is read, the first *stays* bytes, which are sent first, are left in the page cache.
    """
    heard: dict[str, PieceDigests] = {}

    def listener(path: str) -> Told:
        heard[path] = PieceDigests()
        return heard[path].told

    tree = tree_digest(root, index, listener=listener, stays=stays)
    return local_of(root, index, tree, heard, stays)


def local_of(root: Path, index: Path, tree: TreeDigest, heard: Mapping[str, PieceDigests], stays: int = 0) -> Local:
    """The same from its *tree*, and from what was *heard* while files were read for that."""
    beside, manifest = index.with_suffix(".pieces.json"), index.with_suffix(".manifest.json")
    known = _known_pieces(beside)
    found: dict[str, PieceFile] = {}
    for path, record in tree.files.items():
        before = known.get(f"{FILES}/{path}")
        if path in heard:
            pieces = heard[path].digests()
        elif before is not None and before.sha256 == record.sha256:
            pieces = before.pieces
        else:  # it was read for its digest alone
            pieces = _pieces_of_file(root / path, record.sha256, stays)
            stays = max(0, stays - record.size)
        found[f"{FILES}/{path}"] = PieceFile(record.size, MODE, record.sha256, pieces)
    text = manifest_text({"fingerprint": tree.digest}, {name: (file.size, file.sha256) for name, file in found.items()})
    body = text.encode()
    told = PieceDigests()
    told.told(memoryview(body))
    found[MANIFEST] = PieceFile(len(body), MODE, hashlib.sha256(body).hexdigest(), told.digests())
    made = Pieces(tree.digest, found)
    if known != found:
        files.write_atomically(manifest, body)
        files.write_atomically(beside, made.encoded())
    return Local(root, tree, made, manifest)


def _pieces_of_file(path: Path, sha256: str, stays: int) -> tuple[str, ...]:
    told = PieceDigests()
    if tree_digest(path, None, listener=lambda _: told.told, stays=stays).digest != sha256:
        raise FleetError(f"{path} was altered and its times and size were not; touch it and run again.")
    return told.digests()


def _known_pieces(path: Path) -> dict[str, PieceFile]:
    """What an earlier run found out; {} where it is not there, or made for pieces of another size."""
    try:
        kept = Pieces.decoded(path.read_bytes())
    except (OSError, FleetError):
        return {}
    return kept.files if kept.piece == PIECE else {}
