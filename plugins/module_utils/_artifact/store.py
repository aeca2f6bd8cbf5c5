# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all stores on a host have in common: checked names, a lock for each, and places that change by one rename."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from .._base import files
from .._base.errors import FleetError
from .._base.names import check_name, is_name

PARTIAL = ".partial"
LOCK_POLL = 0.2  # seconds
LOCK_TIMEOUT = 600.0  # seconds; publishing holds the lock while it hashes what was made


class Store:
    """Things called by names below one root directory."""

    # What is replaced waits beside its place, under its name with this ending, until the new one stands there.
    ASIDE = ".replaced"
    # Whether what is made and what stands there change places in one step, where the file system can.
    EXCHANGES = False

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def home(self, name: str) -> Path:
        """The directory of what is called *name*; a name that would lead elsewhere raises."""
        return self.root / check_name(name, "name")

    def names(self) -> list[str]:
        """What has a directory here."""
        found = self.root.iterdir() if self.root.is_dir() else []
        return sorted(entry.name for entry in found if is_name(entry.name) and entry.is_dir())

    def lock_file(self, name: str) -> Path:
        """The file whose lock is the lock of *name*."""
        return self.home(name) / ".lock"

    @contextlib.contextmanager
    def lock(self, name: str, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
        """Hold the lock of *name*: whoever makes, publishes or removes does. Waits up to *timeout* seconds.

        The kernel drops it with the process, so a killed holder leaves nothing behind.
        """
        path = self.lock_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout
        with open(path, "a", encoding="utf-8") as handle:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise FleetError(
                            f"Another run has held {path} for {timeout:g} s; wait for it or end it."
                        ) from None
                    time.sleep(LOCK_POLL)
            yield

    def lock_files(self, name: str) -> list[Path]:
        """All files that are locked while *name* is in use."""
        return [self.lock_file(name)]

    @contextlib.contextmanager
    def unused(self, name: str, look: bool = False) -> Iterator[bool]:
        """Whether no process holds a lock of *name*; it stays so within the block, where this holds them then.

        With *look*, as in check mode, no file is made for it.
        """
        with contextlib.ExitStack() as held:
            for path in self.lock_files(name):
                if not path.exists() if look else not path.parent.is_dir():
                    continue
                handle = held.enter_context(open(path, "r" if look else "a", encoding="utf-8"))
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield False
                    return
            yield True

    def aside(self, target: Path) -> Path:
        """Where what stands at *target* steps to when it is replaced or removed."""
        return target.with_name(target.name + self.ASIDE)

    @staticmethod
    def partial_of(target: Path) -> Path:
        """Where what will stand at *target* is made."""
        return target.with_name(target.name + PARTIAL)

    def _put(self, target: Path, made: Path | None = None) -> Path:
        """Put what was made for *target* there, at its partial or at *made*.

        What stands there steps aside; a crash in between loses neither.
        """
        partial, aside = made or self.partial_of(target), self.aside(target)
        files.remove(aside)
        if self.EXCHANGES and os.path.lexists(target) and files.exchange(partial, target):
            partial.rename(aside)
        else:
            if os.path.lexists(target):
                target.rename(aside)
            partial.rename(target)
        files.sync(target.parent)
        files.remove(aside)
        return target

    def _take_away(self, target: Path) -> bool:
        """Remove *target* and what is left of making it; True if there was anything.

        The rename first makes it vanish at once: nobody sees half of it.
        """
        partial, aside = self.partial_of(target), self.aside(target)
        existed = any(os.path.lexists(path) for path in (target, partial, aside))
        files.remove(aside)
        if os.path.lexists(target):
            target.rename(aside)
        files.remove(aside)
        files.remove(partial)
        return existed
