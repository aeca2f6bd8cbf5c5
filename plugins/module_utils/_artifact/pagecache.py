# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading large files without changing what the page cache holds.

``mincore(2)`` says which pages of a file are resident before it is read; afterwards exactly the others are
given back with ``posix_fadvise(DONTNEED)``. Where ``mincore`` cannot be asked, nothing is given back:
dropping pages that a serving process needs would be worse than leaving ours behind.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

WINDOW = 256 << 20  # bytes of file per mincore call: one byte of answer per page
_RESIDENT = bytes(value & 1 for value in range(256))  # no other bit of an answer is defined


def _resident_pages(descriptor: int, offset: int, length: int) -> bytes | None:
    """One byte per page of ``[offset, offset + length)``, 1 where resident; None where that is unknown."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        with mmap.mmap(descriptor, length, access=mmap.ACCESS_COPY, offset=offset) as view:
            answer = ctypes.create_string_buffer((length + mmap.PAGESIZE - 1) // mmap.PAGESIZE)
            # ACCESS_COPY gives a private mapping that from_buffer accepts; no page of it is touched.
            anchor = ctypes.c_char.from_buffer(view)
            failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(length), answer)
            del anchor
            return None if failed else answer.raw.translate(_RESIDENT)
    except (OSError, ValueError, AttributeError):
        return None


@dataclass
class CacheState:
    """Which pages of one file, from *begin* on, were resident before it was read, in windows of 256 MiB, compressed."""

    size: int
    windows: list[bytes] = field(default_factory=list)
    begin: int = 0

    @classmethod
    def of(cls, descriptor: int, size: int, begin: int = 0) -> CacheState:
        """Ask for all that will be read before the first read: read-ahead would blur a later answer.

        That is the file up to *size*, from *begin* on, which has to be a multiple of the page size.
        """
        state = cls(size, begin=begin)
        for offset in range(begin, size, WINDOW):
            pages = _resident_pages(descriptor, offset, min(WINDOW, size - offset))
            if pages is None:
                return cls(size)
            state.windows.append(zlib.compress(pages, 1))
        return state

    def absent(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of the runs within ``[start, end)`` that were not resident."""
        page = mmap.PAGESIZE
        for number, window in enumerate(self.windows):
            base = self.begin + number * WINDOW
            if base >= end or base + WINDOW <= start:
                continue
            pages = zlib.decompress(window)
            low = max(0, start - base) // page
            high = min(len(pages), (end - base + page - 1) // page)
            while (first := pages.find(b"\0", low, high)) >= 0:
                last = pages.find(b"\1", first, high)
                last = high if last < 0 else last
                yield base + first * page, (last - first) * page
                low = last

    def release(self, descriptor: int, start: int, end: int | None) -> None:
        """Give back what was not resident of ``[start, end)``; *end* None means to the end of the file."""
        for offset, length in self.absent(start, self.size if end is None else end):
            os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


def forget(path: Path) -> None:
    """Give back all pages of a file that is on the disk and will not be read soon."""
    with open(path, "rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
