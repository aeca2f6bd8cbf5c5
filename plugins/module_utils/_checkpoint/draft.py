# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkpoint of this machine that is read for its digests while it is sent, and not before.

The list of its pieces that is sent first is a draft without digests; the digest of each piece goes with it. Reading
keeps a little ahead of who receives, so that what it read is sent from the page cache, and given back there afterwards.
In the end all digests are those that reading it before would have made, and so are the list and that of the whole.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from .._artifact.fingerprint import Told, fingerprint, sizes_and_unread, tree_digest
from .._artifact.pagecache import CacheState
from .._artifact.pieces import PieceDigests, PieceFile, Pieces
from .._artifact.serve import Offer, Withdrawn
from .._base.errors import FleetError
from .._base.sizes import MIB
from .handed import FILES, MODE, Local, local_of

AHEAD = 64 * MIB  # what is read before it is asked for
MUCH = 0.5  # the share of its bytes from which on reading it before would take longer than what else there is to do


@dataclass(frozen=True)
class Draft:
    """The directory *root*, whose digests are not in *index*; *pieces* has none."""

    root: Path
    index: Path
    sizes: dict[str, int]
    pieces: Pieces


def draft(root: Path, index: Path) -> Draft | None:
    """What is sent of the directory *root* first; None where *index* tells most of its content."""
    found, unread = sizes_and_unread(root, index)
    sizes = {path: status.st_size for path, status in found.items()}
    if sum(sizes[path] for path in unread) <= MUCH * sum(sizes.values()):
        return None
    # As long as nothing of it is written to, it is the same draft, so that a broken transfer is taken up.
    dated = [[path, about.st_size, about.st_mtime_ns] for path, about in found.items()]
    mark = fingerprint(["draft", str(root), dated])
    files = {f"{FILES}/{path}": PieceFile(size, MODE, "", ()) for path, size in sizes.items()}
    return Draft(root, index, sizes, Pieces(mark, files))


class _Ended(Exception):
    """Nobody receives it any more."""


class Reading:
    """The files of a draft, read one after the other in a thread, as far as they are asked for."""

    def __init__(self, of: Draft, ahead: int = AHEAD) -> None:
        self.of, self.ahead = of, ahead
        self._news = threading.Condition()
        self._digests = {path: PieceDigests(of.pieces.piece) for path in of.sizes}
        self._begin, at = dict[str, int](), 0
        for path, size in of.sizes.items():
            self._begin[path], at = at, at + size
        self._read = self._asked = 0  # bytes of all
        self._stopped = False
        self._error: Exception | None = None
        self._found: Local | None = None
        # As it was before anything is read.
        self._caches = {path: self._cache(path) for path in of.sizes}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _cache(self, path: str) -> CacheState:
        descriptor = self._open(path)
        try:
            return CacheState.of(descriptor, self.of.sizes[path])
        finally:
            os.close(descriptor)

    def _open(self, path: str) -> int:
        # Links are followed, as the snapshots of a hub's cache are.
        try:
            return os.open(self.of.root / path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise FleetError(f"{self.of.root / path} cannot be read: {error.strerror}.") from error

    # -- reading -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        total = sum(self.of.sizes.values())
        try:
            tree = tree_digest(
                self.of.root, self.of.index, verify="full", listener=self._listener, stays=total, in_order=True
            )
            if {path: record.size for path, record in tree.files.items()} != self.of.sizes:
                raise self._written_to()
            found = local_of(self.of.root, self.of.index, tree, self._digests)
            with self._news:
                self._found = found
        except Exception as error:  # told by whoever asks what was found
            with self._news:
                self._error = error
        finally:
            with self._news:
                self._stopped = True
                self._news.notify_all()

    def _written_to(self) -> FleetError:
        return FleetError(f"{self.of.root} was written to while it was sent; wait until that ends, and run again.")

    def _listener(self, path: str) -> Told:
        if path not in self._digests:
            raise self._written_to()
        digests, size, told = self._digests[path], self.of.sizes[path], 0

        def hear(part: memoryview) -> None:
            nonlocal told
            digests.told(part)
            with self._news:
                told += len(part)
                self._read += len(part)
                if told >= size:
                    digests.digests()  # the last piece may be a short one
                self._news.notify_all()
                self._news.wait_for(lambda: self._stopped or self._read <= self._asked + self.ahead)
                if self._stopped:
                    raise _Ended

        return hear

    def stop(self) -> None:
        """Read no more."""
        with self._news:
            self._stopped = True
            self._news.notify_all()
        self._thread.join()

    @property
    def failure(self) -> Exception | None:
        """Why it could not be read; None where it could so far."""
        return None if isinstance(self._error, _Ended) else self._error

    def found(self) -> Local:
        """What was read, once all of it was sent; raises where it could not be read."""
        self._thread.join()
        if self._found is None:
            raise self.failure or FleetError(f"{self.of.root} was not read to its end; run again.")
        return self._found

    # -- what is handed out --------------------------------------------------------------------------------

    def offer(self) -> Offer:
        """What is handed out of it, each piece as soon as it was read."""
        return Offer(self.of.pieces, lambda name: self._open(_path(name)), self.wait, self.sha256, self.gone)

    def wait(self, name: str, start: int, seconds: float) -> bool:
        """Whether the piece at *start* was read, within *seconds*."""
        path, number = _path(name), start // self.of.pieces.piece
        with self._news:
            self._asked = max(self._asked, self._begin[path] + start + self.of.pieces.piece)
            self._news.notify_all()
            self._news.wait_for(lambda: self._stopped or self._digests[path].done > number, timeout=seconds)
            if self._digests[path].done > number:
                return True
            if self._stopped:
                raise Withdrawn
            return False

    def sha256(self, name: str, start: int) -> str:
        """The digest of a piece that was read."""
        return self._digests[_path(name)].at(start // self.of.pieces.piece)

    def gone(self, name: str, start: int, stop: int) -> None:
        """A part of a file was sent, and is not read again soon."""
        descriptor = self._open(_path(name))
        try:
            self._caches[_path(name)].release(descriptor, start, stop)
        finally:
            os.close(descriptor)


def _path(name: str) -> str:
    return name[len(FILES) + 1 :]
