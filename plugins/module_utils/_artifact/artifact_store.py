# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories named by fingerprint, immutable once published, published by one rename.

``<root>/<name>/<fingerprint>/`` is a published artefact with a ``manifest.json``; ``<fingerprint>.partial``
beside it is one in the making, which nobody but its maker looks into, and ``<fingerprint>.incoming`` one that comes
from another host, which may be made here at the same time. ``<fingerprint>.verified.json`` has the digests of what of
that is on the disk for good, ``<fingerprint>.pieces.json`` says how it is handed on, ``<fingerprint>.left_out.json``
what of it another host has (the ranks of other nodes), ``<fingerprint>.digests.json`` how its files were when they were
last read, and in a store that hosts share, ``<fingerprint>.lock`` is held by the one that makes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from .._base import files
from .._base.errors import FleetError
from .._base.names import show
from .fingerprint import tree_digest, walk, write_known_index
from .store import Store

MANIFEST = "manifest.json"
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
RANK_FILE = re.compile(r"rank(\d+)\.engine$")


def of_other_ranks(names: Iterable[str], ranks: Collection[int]) -> list[str]:
    """Those of *names* that only ranks beside *ranks* read; none where *ranks* is empty, which stands for all."""
    found = [(name, RANK_FILE.search(name)) for name in names]
    return [name for name, match in found if ranks and match and int(match.group(1)) not in ranks]


def manifest_text(manifest: Mapping[str, Any], held: Mapping[str, tuple[int, str]]) -> str:
    """The manifest of an artefact with the files *held*, each with its size and its sha256."""
    files_of = {path: {"size": size, "sha256": sha256} for path, (size, sha256) in held.items()}
    return json.dumps({**manifest, "files": files_of}, indent=1, sort_keys=True) + "\n"


class ArtifactStore(Store):
    """The artefacts below one root directory, e.g. ``<root>/engines``."""

    def __init__(self, root: Path, *, looks: bool = False, shared: bool = False) -> None:
        """*looks*: nothing is written, not even what was read. *shared*: hosts share it, to which a file has other
        times and inodes, so that what was read is noted for none; who takes something from there compares digests."""
        super().__init__(root)
        self._looks, self._shared = looks, shared

    def path(self, name: str, fingerprint: str) -> Path:
        """Where the artefact is, or would be, published."""
        if not FINGERPRINT.fullmatch(fingerprint):
            raise FleetError(f"{show(fingerprint)} is not a fingerprint; expected 64 hexadecimal digits.")
        return self.home(name) / fingerprint

    def partial(self, name: str, fingerprint: str) -> Path:
        """Where the artefact is made; it may be absent or hold what a killed run left."""
        return self.partial_of(self.path(name, fingerprint))

    def incoming(self, name: str, fingerprint: str) -> Path:
        """Where the artefact arrives from another host; what a killed run left there is taken up by the next."""
        path = self.path(name, fingerprint)
        return path.with_name(f"{path.name}.incoming")

    def pieces_file(self, name: str, fingerprint: str) -> Path:
        """Where the digests of the published artefact's pieces are kept."""
        path = self.path(name, fingerprint)
        return path.with_name(f"{path.name}.pieces.json")

    def verified_file(self, incoming: Path) -> Path:
        """Where the digests of the pieces at *incoming* are kept that were verified there and put on disk."""
        return incoming.with_name(f"{incoming.name.partition('.')[0]}.verified.json")

    def left_out_file(self, path: Path) -> Path:
        """Where the names of those files stand that the artefact at *path* leaves to other hosts."""
        return path.with_name(f"{path.name.partition('.')[0]}.left_out.json")

    def left_out(self, path: Path) -> list[str]:
        """The files of the manifest that the artefact at *path* leaves to other hosts; none of them is there."""
        names = files.read_object(self.left_out_file(path)).get("files") or []
        return [name for name in names if not (path / name).exists()]

    def digests_file(self, path: Path) -> Path:
        """Where the digests of the files of the artefact at *path* are, with the times and inodes that they had."""
        return path.with_name(f"{path.name.partition('.')[0]}.digests.json")

    def _note(self, path: Path, contents: Mapping[str, str]) -> None:
        """Note that the files at *path* have these sha256, so that none is read again until it is changed."""
        if self._shared:
            return
        manifest = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
        write_known_index(path, self.digests_file(path), {**contents, MANIFEST: manifest})

    def lacks(self, path: Path, ranks: Collection[int] = ()) -> list[str]:
        """Of what was left to other hosts, the files that *ranks* need here, or any where no ranks are given."""
        left = self.left_out(path)
        others = of_other_ranks(left, ranks)
        return [name for name in left if name not in others]

    def turn_file(self, name: str, fingerprint: str) -> Path:
        """The file whose lock is that of the host which makes the artefact for all."""
        path = self.path(name, fingerprint)
        return path.with_name(f"{path.name}.lock")

    def staging(self, name: str, fingerprint: str) -> Path:
        """An empty directory to make the artefact in; what an earlier run left there is removed."""
        partial = self.partial(name, fingerprint)
        files.remove(partial)
        partial.mkdir(parents=True)
        return partial

    def _seal(self, partial: Path, manifest: Mapping[str, Any], known: Mapping[str, str] | None) -> None:
        """Write the manifest with size and sha256 of every file, and put all of it on disk."""
        (partial / MANIFEST).unlink(missing_ok=True)
        sizes = {path: status.st_size for path, status in walk(partial, ())}
        if not sizes:
            raise FleetError(f"{partial} holds no file; nothing is published.")
        digests = tree_digest(partial, None, ignore=()).contents() if known is None else known
        text = manifest_text(manifest, {path: (sizes[path], digests[path]) for path in sizes})
        (partial / MANIFEST).write_text(text, encoding="utf-8")
        self._note(partial, {path: digests[path] for path in sizes})
        files.sync_tree(partial)

    def publish(
        self, name: str, fingerprint: str, manifest: Mapping[str, Any], known: Mapping[str, str] | None = None
    ) -> Path:
        """Turn the staging directory into the published artefact; an artefact already there is replaced.

        *known* are the sha256 of all files, where the caller has read them.
        """
        partial = self.partial(name, fingerprint)
        if not partial.is_dir():
            raise FleetError(f"{partial} does not exist; make the artefact there before it is published.")
        self._seal(partial, {**manifest, "fingerprint": fingerprint}, known)
        return self._rename(name, fingerprint)

    def _rename(self, name: str, fingerprint: str) -> Path:
        """The rename. A crash in between leaves a sealed partial, which `recover` publishes."""
        path = self._put(self.path(name, fingerprint))
        # What began to come from elsewhere is of no use any more, and nothing is left out.
        files.remove(self.incoming(name, fingerprint))
        files.remove(self.left_out_file(path))
        return path

    def adopt(self, name: str, fingerprint: str, left_out: Collection[str] = ()) -> Path:
        """Publish what has arrived, whose bytes the caller has verified; an artefact already there is replaced.

        It has to be an artefact of this fingerprint, whole but for *left_out*, or nothing is published.
        """
        incoming = self.incoming(name, fingerprint)
        held = (self.manifest(incoming) or {}).get("fingerprint")
        if held != fingerprint:
            raise FleetError(
                f"{name}: what arrived has the fingerprint {show(held)} instead of {fingerprint!r}; nothing is "
                "published. See which artefact the source hands out."
            )
        beside = self.left_out_file(incoming)
        if left_out:
            files.write_atomically(beside, json.dumps({"files": sorted(left_out)}).encode())
        manifest = self.manifest(incoming) or {"files": {}}
        found, problems = self._by_size(incoming, manifest)
        if problems:
            raise FleetError(f"{name}: {problems[0]} in what arrived; nothing is published. Run again.")
        self._note(incoming, {path: manifest["files"][path]["sha256"] for path in found})
        files.sync_tree(incoming)
        path = self._put(self.path(name, fingerprint), incoming)
        if not left_out:
            files.remove(beside)
        return path

    def recover(self, name: str, fingerprint: str) -> Path | None:
        """Publish a partial that was sealed but not yet renamed when its maker died; else None.

        A sealed partial has a manifest that names this fingerprint and agrees with every byte beside it.
        """
        partial = self.partial(name, fingerprint)
        manifest = self.manifest(partial)
        if manifest is None or manifest.get("fingerprint") != fingerprint or self.verify(partial, full=True):
            return None
        files.sync_tree(partial)
        return self._rename(name, fingerprint)

    def manifest(self, path: Path) -> dict[str, Any] | None:
        """The manifest of a published artefact; None where it is absent or cannot be read as one."""
        try:
            stored = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return stored if isinstance(stored, dict) and isinstance(stored.get("files"), dict) else None

    def verify(self, path: Path, full: bool) -> list[str]:
        """Sentences on what is wrong with the artefact at *path*; [] when intact, as far as it is to be here.

        By size, and by sha256 of each file whose times or inode are not those that were noted when it was published or
        last read; with *full* of every file.
        """
        manifest = self.manifest(path)
        if manifest is None:
            return [f"{MANIFEST} is missing or damaged"]
        found, problems = self._by_size(path, manifest)
        if not full and (problems or self._shared):
            return problems
        index = None if self._shared else self.digests_file(path)
        writes = not self._looks and os.access(path.parent, os.W_OK)
        tree = tree_digest(path, index, verify="full" if full else "stat", write_index=writes, ignore=())
        read = tree.contents()
        altered = [name for name in found if read.get(name) != manifest["files"][name]["sha256"]]
        return problems + [f"{name} was altered after publication" for name in altered]

    def _by_size(self, path: Path, manifest: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """The files that are there with the size that *manifest* says, and what is wrong with others."""
        found = {relative: status.st_size for relative, status in walk(path, ()) if relative != MANIFEST}
        held, left_out = manifest["files"], self.left_out(path)
        lost = [relative for relative in held if relative not in found and relative not in left_out]
        problems = [f"{relative} is missing" for relative in lost]
        added = sorted(relative for relative in found if relative not in held)
        problems += [f"{relative} was added after publication" for relative in added]
        here = [relative for relative in held if relative in found]
        wrong = [relative for relative in here if found[relative] != held[relative]["size"]]
        problems += [f"{name} has {found[name]} bytes instead of {held[name]['size']}" for name in wrong]
        return [relative for relative in here if relative not in wrong], problems

    def has(self, name: str, fingerprint: str, ranks: Collection[int] = ()) -> bool:
        """Whether it is published and intact (see `verify`); all of it, or what *ranks* need."""
        path = self.path(name, fingerprint)
        return path.is_dir() and not self.verify(path, full=False) and not self.lacks(path, ranks)

    def published(self, name: str) -> list[Path]:
        """All published artefacts of *name*, the newest first."""
        home = self.home(name)
        if not home.is_dir():
            return []
        paths = [path for path in home.iterdir() if FINGERPRINT.fullmatch(path.name) and path.is_dir()]
        return sorted(paths, key=lambda path: (-self._published_at(path), path.name))

    @staticmethod
    def _published_at(path: Path) -> int:
        """When the artefact was sealed, by the time of its manifest."""
        try:
            return (path / MANIFEST).stat().st_mtime_ns
        except OSError:
            return 0

    def remove(self, name: str, fingerprint: str) -> bool:
        """Remove an artefact, and what is left of making it; True if there was anything."""
        beside = [of(name, fingerprint) for of in (self.incoming, self.pieces_file, self.turn_file)]
        path = self.path(name, fingerprint)
        beside += [of(path) for of in (self.left_out_file, self.digests_file, self.verified_file)]
        existed = any(place.exists() for place in beside)
        for place in beside:
            files.remove(place)
        return self._take_away(path) or existed
