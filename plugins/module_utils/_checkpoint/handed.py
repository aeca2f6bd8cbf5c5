# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkpoint as an artefact, which is what goes from host to host in verified pieces.

``<root>/handed/<name>/<digest>/files/`` holds links to the files of the checkpoint, which take no room, and
``manifest.json`` beside them their sha256. It is there while a run hands the checkpoint on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .._artifact.artifact_store import FINGERPRINT, ArtifactStore
from .._artifact.fingerprint import change_links
from .._artifact.transfer import KINDS
from .._base import files
from .._base.errors import FleetError
from .store import CheckpointStore

KIND = "checkpoint"
FILES = "files"


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

                def link() -> None:
                    for path in contents:
                        place = files.inside(target, path, "checkpoint")
                        place.parent.mkdir(parents=True, exist_ok=True)
                        os.link(self.path / path, place)

                change_links(self.path, self.store.index(self.name), link)
                held = {f"{FILES}/{path}": sha256 for path, sha256 in contents.items()}
                self.artifacts.publish(self.name, tree.digest, {}, held)
        return tree.digest

    def adopt(self, digest: str, source: dict[str, Any]) -> bool:
        """Publish what arrived, or keep what is here if it is the same, as what came from *source*.

        False where neither is here.
        """
        with self.store.lock(self.name):
            if self.digest() != digest:
                if not self.artifacts.has(self.name, digest):
                    return False
                arrived = self.artifacts.path(self.name, digest)
                held = (self.artifacts.manifest(arrived) or {})["files"]
                contents = {path[len(FILES) + 1 :]: about["sha256"] for path, about in held.items()}
                self.store.adopt(self.name, arrived / FILES, contents, digest)
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
