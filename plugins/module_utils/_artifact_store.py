# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories named by fingerprint, immutable once published, published by one rename.

``<root>/<name>/<fingerprint>/`` is a published artefact with a ``manifest.json``; ``<fingerprint>.partial``
beside it is one in the making, which nobody but its maker looks into.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._fingerprint import file_sha256, tree_digest, walk

MANIFEST = "manifest.json"
PARTIAL = ".partial"
REPLACED = ".replaced"
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LOCK_POLL = 0.2  # seconds


def _sync(path: str) -> None:
    """fsync a file or directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(root: Path) -> None:
    """fsync every file and directory below *root*, directories last."""
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            _sync(os.path.join(directory, name))
        _sync(directory)


def _clear(path: Path) -> None:
    """Remove a directory or link that may be absent."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


class ArtifactStore:
    """The artefacts below one root directory, e.g. ``/var/lib/trtllm/engines``."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def home(self, name: str) -> Path:
        """The directory of all artefacts called *name*; a name that is not one plain word raises."""
        if not NAME.fullmatch(name):
            raise FleetError(f"'{name}' cannot name an artefact; use letters, digits, '.', '_' and '-'.")
        return self.root / name

    def path(self, name: str, fingerprint: str) -> Path:
        """Where the artefact is, or would be, published."""
        if not FINGERPRINT.fullmatch(fingerprint):
            raise FleetError(f"'{fingerprint}' is not a fingerprint; expected 64 hexadecimal digits.")
        return self.home(name) / fingerprint

    @contextlib.contextmanager
    def lock(self, name: str, timeout: float | None = None) -> Iterator[None]:
        """Hold the lock of *name*; wait up to *timeout* seconds (None: as long as it takes; 0: not at all).

        The kernel drops it with the process, so a killed holder leaves nothing behind.
        """
        home = self.home(name)
        home.mkdir(parents=True, exist_ok=True)
        deadline = None if timeout is None else time.monotonic() + timeout
        with open(home / ".lock", "a", encoding="utf-8") as handle:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if deadline is not None and time.monotonic() >= deadline:
                        raise FleetError(
                            f"Another run has held {home}/.lock for {timeout:g} s; wait for it or end it."
                        ) from None
                    time.sleep(LOCK_POLL)
            yield

    def partial(self, name: str, fingerprint: str) -> Path:
        """Where the artefact is made; it may be absent or hold what a killed run left."""
        target = self.path(name, fingerprint)
        return target.with_name(target.name + PARTIAL)

    def staging(self, name: str, fingerprint: str) -> Path:
        """An empty directory to make the artefact in; what an earlier run left there is removed."""
        partial = self.partial(name, fingerprint)
        _clear(partial)
        partial.mkdir(parents=True)
        return partial

    def _seal(self, partial: Path, manifest: Mapping[str, Any]) -> None:
        """Write the manifest with size and sha256 of every file, and put all of it on disk."""
        (partial / MANIFEST).unlink(missing_ok=True)
        tree = tree_digest(partial, None, ignore=())
        if not tree.files:
            raise FleetError(f"{partial} holds no file; nothing is published.")
        held = {path: {"size": record.size, "sha256": record.sha256} for path, record in tree.files.items()}
        text = json.dumps({**manifest, "files": held}, indent=1, sort_keys=True)
        (partial / MANIFEST).write_text(text + "\n", encoding="utf-8")
        _sync_tree(partial)

    def publish(self, name: str, fingerprint: str, manifest: Mapping[str, Any]) -> Path:
        """Turn the staging directory into the published artefact; an artefact already there is replaced."""
        partial = self.partial(name, fingerprint)
        if not partial.is_dir():
            raise FleetError(f"{partial} does not exist; make the artefact there before it is published.")
        self._seal(partial, {**manifest, "fingerprint": fingerprint})
        return self._rename(name, fingerprint)

    def _rename(self, name: str, fingerprint: str) -> Path:
        """The rename. A replaced artefact steps aside first; a crash in between leaves a sealed partial."""
        target, partial = self.path(name, fingerprint), self.partial(name, fingerprint)
        aside = target.with_name(target.name + REPLACED)
        _clear(aside)
        if target.exists():
            target.rename(aside)
        partial.rename(target)
        _sync(str(target.parent))
        _clear(aside)
        return target

    def recover(self, name: str, fingerprint: str) -> Path | None:
        """Publish a partial that was sealed but not yet renamed when its maker died; else None.

        A sealed partial has a manifest that names this fingerprint and agrees with every byte beside it.
        """
        partial = self.partial(name, fingerprint)
        manifest = self.manifest(partial)
        if manifest is None or manifest.get("fingerprint") != fingerprint or self.verify(partial, full=True):
            return None
        _sync_tree(partial)
        return self._rename(name, fingerprint)

    def manifest(self, path: Path) -> dict[str, Any] | None:
        """The manifest of a published artefact; None where it is absent or cannot be read as one."""
        try:
            stored = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return stored if isinstance(stored, dict) and isinstance(stored.get("files"), dict) else None

    def verify(self, path: Path, full: bool) -> list[str]:
        """Sentences on what is wrong with the artefact at *path*; [] when intact.

        By size always; with *full* by sha256, which reads every byte.
        """
        manifest = self.manifest(path)
        if manifest is None:
            return [f"{MANIFEST} is missing or damaged"]
        found = {relative: status.st_size for relative, status in walk(path, ()) if relative != MANIFEST}
        problems = [f"{relative} is missing" for relative in manifest["files"] if relative not in found]
        added = sorted(relative for relative in found if relative not in manifest["files"])
        problems += [f"{relative} was added after publication" for relative in added]
        for relative, held in manifest["files"].items():
            if relative not in found:
                continue
            size = found[relative]
            if size != held["size"]:
                problems.append(f"{relative} has {size} bytes instead of {held['size']}")
            elif full and file_sha256(path / relative, size) != held["sha256"]:
                problems.append(f"{relative} was altered after publication")
        return problems

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
        """Remove an artefact, and what is left of making it; True if there was anything.

        The rename first makes it vanish at once: nobody sees half of it.
        """
        target, partial = self.path(name, fingerprint), self.partial(name, fingerprint)
        aside = target.with_name(target.name + REPLACED)
        existed = any(path.exists() for path in (target, partial, aside))
        _clear(aside)
        if target.exists():
            target.rename(aside)
        _clear(aside)
        _clear(partial)
        return existed
