# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints on a host: ``<root>/<name>/`` and, beside it, the digests of its files.

A checkpoint is taken in beside its place, verified, and put there by a rename. What was taken in before an
interruption is found again and not transferred a second time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._artifact.fingerprint import TreeDigest, file_sha256, tree_digest, walk, write_known_index
from .._artifact.pagecache import forget
from .._artifact.store import Store
from .._base import files
from .._base.errors import FleetError
from .inspect import inspect_checkpoint

# Relative path -> sha256 of the content.
Files = Mapping[str, str]


@dataclass(frozen=True)
class Difference:
    """Relative paths, sorted, that differ between what is on the host and what should be."""

    added: list[str]
    changed: list[str]
    removed: list[str]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    def lines(self) -> list[str]:
        """One line per file, for ``reasons`` and the diff."""
        return [
            *(f"{path}: added" for path in self.added),
            *(f"{path}: content differs" for path in self.changed),
            *(f"{path}: removed" for path in self.removed),
        ]


def compare(current: Files, wanted: Files) -> Difference:
    """What has to change for *current* to become *wanted*."""
    return Difference(
        added=sorted(set(wanted) - set(current)),
        changed=sorted(path for path in set(wanted) & set(current) if wanted[path] != current[path]),
        removed=sorted(set(current) - set(wanted)),
    )


class CheckpointStore(Store):
    """The checkpoints below one directory of the host, each with its files of digests beside it."""

    ASIDE = ".old"
    EXCHANGES = True

    def path(self, name: str) -> Path:
        """Where the checkpoint *name* is, or will be."""
        return self.home(name)

    def index(self, name: str) -> Path:
        """The digests of the files of the checkpoint *name*."""
        return self._beside(name, ".digests.json")

    def source_index(self, name: str) -> Path:
        """The digests of the files of the directory of this host that *name* is copied from."""
        return self._beside(name, ".source-digests.json")

    def record(self, name: str) -> Path:
        """From where the checkpoint *name* was downloaded, where it was."""
        return self._beside(name, ".source.json")

    def staging(self, name: str) -> Path:
        """Where files are gathered before they are published."""
        return self.partial_of(self.home(name))

    def lock_file(self, name: str) -> Path:
        """Beside the checkpoint, which holds nothing but its own files."""
        return self.home(name).with_name(f".{name}.lock")

    def _beside(self, name: str, ending: str) -> Path:
        home = self.home(name)
        return home.with_name(home.name + ending)

    def current(self, name: str, verify: str = "stat", write_index: bool = True) -> TreeDigest | None:
        """The digest of what is published, or None where nothing is."""
        if not self.path(name).is_dir():
            return None
        return tree_digest(self.path(name), self.index(name), verify=verify, write_index=write_index)

    def compare_sizes(self, name: str, wanted: Mapping[str, int]) -> tuple[Difference, bool]:
        """What has to change by the sizes of the files; and whether most bytes are in files whose sizes are right."""
        path = self.path(name)
        sizes = {relative: status.st_size for relative, status in walk(path, ())} if path.is_dir() else {}
        same = sum(size for relative, size in wanted.items() if sizes.get(relative) == size)
        difference = compare({p: str(s) for p, s in sizes.items()}, {p: str(s) for p, s in wanted.items()})
        return difference, bool(sizes) and same * 2 >= sum(wanted.values())

    def missing(self, name: str, wanted: Files) -> list[str]:
        """Make the staging directory and return the files that it still lacks.

        Files that are published already, or that an interrupted transfer left complete, are taken over.
        """
        staging = self.staging(name)
        staging.mkdir(parents=True, exist_ok=True)
        published = self.current(name)
        at_hand = published.contents() if published else {}
        lacking: list[str] = []
        for path, sha256 in sorted(wanted.items()):
            target = files.inside(staging, path, "checkpoint")
            if target.is_file() and not target.is_symlink() and file_sha256(target) == sha256:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            files.remove(target)
            if at_hand.get(path) == sha256:
                os.link(self.path(name) / path, target)
            else:
                lacking.append(path)
        return lacking

    def copy(self, name: str, source: Path, paths: list[str]) -> None:
        """Bring *paths* of the directory *source* of this host into the staging directory."""
        for path in paths:
            target = files.inside(self.staging(name), path, "checkpoint")
            # Follows links: the snapshots of a hub's cache are links to files elsewhere.
            shutil.copyfile(source / path, target)

    def publish(self, name: str, wanted: Files) -> TreeDigest:
        """Verify what was gathered and put it in its place.

        Raises `FleetError` where a file is missing or differs from what was announced; nothing is published
        then, and the damaged file is removed so that the next run transfers it again.
        """
        staging = self.staging(name)
        for extra in _relative_files(staging) - set(wanted):
            files.remove(staging / extra)
        for path in sorted(wanted):
            target = files.inside(staging, path, "checkpoint")
            if not target.is_file():
                raise FleetError(f"{name}: {path} did not arrive on the host; run again to transfer what is missing.")
            os.chmod(target, 0o644)
        # The index names files relative to the tree, so what is read here once stays known after the rename.
        tree = tree_digest(staging, self.index(name))
        damaged = compare(tree.contents(), wanted).changed
        if damaged:
            for path in damaged:
                files.remove(staging / path)
            raise FleetError(f"{name}: {damaged[0]} arrived damaged on the host (its sha256 differs); run again.")
        files.sync_tree(staging)
        # What serves needs its pages; a build reads what it needs again.
        for path in wanted:
            forget(staging / path)
        self._put(self.home(name))
        return tree

    def adopt(self, name: str, made: Path, contents: Files, digest: str) -> None:
        """Put the directory *made* in the checkpoint's place, whose files were verified as they arrived.

        Raises `FleetError` where it is no checkpoint, or not the one with this *digest*; nothing is published then.
        """
        inspect_checkpoint(made)
        found = write_known_index(made, self.index(name), contents)
        if found != digest or _relative_files(made) != set(contents):
            files.remove(made)
            raise FleetError(f"{name}: what arrived is not the checkpoint with digest {digest}; run again.")
        staging = self.staging(name)
        if made != staging:
            files.remove(staging)
            made.rename(staging)
        self._put(self.home(name))

    def write_record(self, name: str, source: Mapping[str, Any]) -> None:
        """Keep where the checkpoint came from; {} for what was not downloaded."""
        if source:
            files.write_atomically(self.record(name), json.dumps(source, indent=1, sort_keys=True).encode())
        else:
            files.remove(self.record(name))

    def remove(self, name: str) -> bool:
        """Remove the checkpoint *name*, what an interrupted transfer left of it, and its digests; True if any."""
        existed = self._take_away(self.home(name))
        for index in (self.index(name), self.source_index(name), self.record(name)):
            files.remove(index)
        return existed


def _relative_files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() or path.is_symlink()}
