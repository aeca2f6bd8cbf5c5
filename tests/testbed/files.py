# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks and files that are whole or absent."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lock(path: Path) -> Iterator[int]:
    """Hold an exclusive lock, as a file descriptor.

    The kernel drops it when the last process that has the descriptor dies, so a stale one cannot exist; a child
    that outlives a killed parent and still works in the place can be given it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another testbed command ({path.name})", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle.fileno()


def write(path: Path, content: str, mode: int = 0o644) -> bool:
    """Write by rename, only if the content differs. True if it did."""
    if path.is_file() and path.read_text() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.touch(mode)
    partial.chmod(mode)
    partial.write_text(content)
    partial.rename(path)
    return True


def empty_directory(path: Path) -> Path:
    """Make `path` an empty directory. Crosses no mount: a killed mmdebstrap may have left some."""
    if path.exists():
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in sorted((m for m in mounts if m.startswith(f"{path}/")), reverse=True):
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(path)
    path.mkdir(parents=True)
    return path
