# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing and removing so that a reader, or a crash, sees the old state or the whole new one."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import FleetError


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error name *path* where the system names no file, as on a disk that is full when it is written to."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write *content* to *path*: aside, on disk, and there by one rename."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with naming(path), os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def link_atomically(link: Path, target: str) -> None:
    """Let *link* point at *target*, by one rename; nothing is done where it does."""
    if link.is_symlink() and os.readlink(link) == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    new = link.with_name(f".{link.name}.new")
    remove(new)
    os.symlink(target, new)
    os.replace(new, link)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is none, or nothing that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def sync(path: str | os.PathLike[str]) -> None:
    """Put a file, or the entries of a directory, on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Put every file and directory below *root* on disk, directories last."""
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            sync(os.path.join(directory, name))
        sync(directory)


def inside(root: Path, path: str, what: str) -> Path:
    """*path* below *root*; anything that would lead outside is refused. *what* is what has such files."""
    if not path or path.startswith("/") or set(path.split("/")) & {"", ".", ".."}:
        raise FleetError(f"{path!r} leads out of the {what}; give a directory whose files are all inside it.")
    return root / path


def exchange(one: Path, other: Path) -> bool:
    """Let two places have each other's content, in one step; False where the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    at_cwd, exchanging = -100, 2  # as in fcntl.h and linux/fs.h
    return bool(renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchanging) == 0)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole directory that may be absent."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
