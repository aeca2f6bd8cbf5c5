# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers that all workers of a gateway see: what works where, what was used of a limit."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from openai_gateway.errors import ConfigError

ROWS = 1 << 14  # one for each number; memory is taken only for those that are used
NAME = 16  # bytes that stand for the name of a row
UNUSED = bytes(NAME)


class Shared:
    """Memory that processes forked from this one share. Each writes only its own part of a number, so without a lock;
    what a worker had goes with it when it dies."""

    def __init__(self, workers: int = 1) -> None:
        self.workers, self.worker = workers, 0  # how many, and the number of this one
        self._columns = workers + 1  # the last one belongs to all
        self._file = os.memfd_create("openai-gateway")
        size = ROWS * (NAME + 8 * self._columns)
        os.ftruncate(self._file, size)
        memory = memoryview(mmap.mmap(self._file, size))
        self._names, self._cells = memory[: ROWS * NAME], memory[ROWS * NAME :].cast("d")

    def __del__(self) -> None:
        os.close(self._file)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other workers from doing the same meanwhile. Not to be nested; the kernel frees it if a worker dies."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def number(self, name: str) -> Number:
        """The number of that name. Raises ConfigError where there are too many."""
        digest = hashlib.blake2b(name.encode(), digest_size=NAME).digest()
        first = int.from_bytes(digest[:4], "little")
        with self.locked():
            for step in range(ROWS):
                row = (first + step) % ROWS
                found = bytes(self._names[row * NAME : (row + 1) * NAME])
                if found == UNUSED:
                    self._names[row * NAME : (row + 1) * NAME] = digest
                if found in (digest, UNUSED):
                    begin = row * self._columns
                    return Number(self, self._cells[begin : begin + self._columns])
        raise ConfigError(f"there are more than {ROWS} limits and replicas; restart the gateway to forget old ones")

    def forget(self, worker: int) -> None:
        """What *worker* had: it is dead."""
        for row in range(ROWS):
            if self._names[row * NAME]:
                self._cells[row * self._columns + worker] = 0.0


class Number:
    """A number of which each worker has a part, and one part belongs to all."""

    def __init__(self, shared: Shared, cells: memoryview[float]) -> None:
        self._shared, self._cells, self._parts = shared, cells, cells[:-1]

    @property
    def mine(self) -> float:
        """This worker's part."""
        return float(self._parts[self._shared.worker])

    @mine.setter
    def mine(self, value: float) -> None:
        self._parts[self._shared.worker] = value

    @property
    def common(self) -> float:
        """The part of all; to be changed under the lock."""
        return float(self._cells[-1])

    @common.setter
    def common(self, value: float) -> None:
        self._cells[-1] = value

    @property
    def parts(self) -> list[float]:
        """The part of each worker."""
        return list(self._parts)

    @property
    def total(self) -> float:
        """The parts of all workers together."""
        return sum(self._parts.tolist())
