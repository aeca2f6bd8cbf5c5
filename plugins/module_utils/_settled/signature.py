# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tells whether a file is still the one that it was, without reading it.

Sizes, times, inodes and rights. A change of the content moves the ctime, which nobody can set; only for a file as young
as the look its content is added, as in the index of digests.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from .._artifact.fingerprint import RACY_NS, file_sha256

# Words of a signature, in their order, by which a difference is told.
WORDS = ("kind", "mode", "owner", "group", "inode", "size", "time of the content", "time of the last change", "content")
# What we open to lock it says nothing; package managers keep what they have resolved under such an ending too.
SKIPPED = re.compile(r"(\..*)?\.lock|[0-9a-f]{64}\.lock")


def signature(path: Path, noted_ns: int) -> str:
    """What is known of *path*, as ``kind mode uid gid inode [size mtime ctime [content]]``; empty where nothing is.

    Of a directory its entries tell the rest, and of a link what it points to counts with it, as the snapshots of a
    hub's cache are links. *noted_ns*: when it was looked at for the first time.
    """
    try:
        found = os.lstat(path)
        kind = stat.S_IFMT(found.st_mode)
        words = [f"{kind:o}", f"{stat.S_IMODE(found.st_mode):o}", found.st_uid, found.st_gid, found.st_ino]
        if kind != stat.S_IFDIR:
            words += [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
        if kind == stat.S_IFLNK:
            told = f"{os.readlink(path)} {_of_target(path, noted_ns)}"
            words.append(hashlib.sha256(os.fsencode(told)).hexdigest())
        elif kind == stat.S_IFREG and found.st_ctime_ns >= noted_ns - RACY_NS:
            words.append(file_sha256(path, found.st_size))
    except OSError:
        return ""
    return " ".join(str(word) for word in words)


def _of_target(link: Path, noted_ns: int) -> str:
    """What is known of the file that *link* leads to; empty where it leads to none."""
    try:
        found = os.stat(link)
        if not stat.S_ISREG(found.st_mode):
            return ""
        known = f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        return f"{known} {file_sha256(link, found.st_size)}" if found.st_ctime_ns >= noted_ns - RACY_NS else known
    except OSError:
        return ""


def tree(top: Path, left_out: Callable[[str], bool] = lambda name: False) -> Iterator[Path]:
    """*top* and all that is below it, each directory once, also where links lead to it, as who has a second disk lays
    them. *left_out*: by the path below *top*."""
    yield top
    seen: set[tuple[int, int]] = set()
    for directory, directories, names in os.walk(top, followlinks=True):
        if _known(directory, seen):
            directories.clear()
            continue
        below = os.path.relpath(directory, top)
        prefix = "" if below == "." else f"{below}/"
        directories[:] = sorted(name for name in directories if not left_out(prefix + name))
        for name in [*directories, *sorted(names)]:
            if not SKIPPED.fullmatch(name) and not left_out(prefix + name):
                yield Path(directory, name)


def _known(directory: str, seen: set[tuple[int, int]]) -> bool:
    """Whether *directory* is one of those *seen*, to which it is added."""
    try:
        found = os.stat(directory)
    except OSError:
        return True
    here = (found.st_dev, found.st_ino)
    known = here in seen
    seen.add(here)
    return known


def difference(before: str, now: str) -> str:
    """In words how a signature differs from the one before it."""
    if not before or not now:
        return "is new" if not before else "is gone"
    old, new = before.split(), now.split()
    changed = [word for word, one, other in zip(WORDS, old, new) if one != other]
    if len(old) != len(new) and not changed:
        changed = ["content"]
    return f"differs in {', '.join(changed)}"
