# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the host is looked at: files under a root, commands, device numbers.

Everything that ``gpu_host_info`` knows comes through one L(System). A test gives it a recorded tree and
recorded answers, so that a host which nobody has at hand can be examined like the one at hand.
"""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from .._base.command import Answer, run_command

Runner = Callable[[Sequence[str]], Answer]
DeviceNumber = Callable[[Path], Optional[tuple[int, int]]]
DiskUsage = Callable[[Path], Optional[tuple[int, int]]]


def device_number(path: Path) -> Optional[tuple[int, int]]:
    """(major, minor) of the character device at *path*, or None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    if not stat.S_ISCHR(status.st_mode):
        return None
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def disk_usage(path: Path) -> Optional[tuple[int, int]]:
    """(total, free for an ordinary writer) in bytes of the file system that holds *path*."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


@dataclass
class System:
    """The host to look at. *root* is ``/`` but in a test, where it is a recorded tree."""

    root: Path = Path("/")
    run: Runner = run_command
    device_number: DeviceNumber = device_number
    disk_usage: DiskUsage = disk_usage
    machine: str = field(default_factory=platform.machine)
    user: int = field(default_factory=os.geteuid)

    def path(self, absolute: str) -> Path:
        """Where *absolute* lies under the root."""
        return self.root / absolute.lstrip("/")

    def text(self, absolute: str) -> Optional[str]:
        """The file's text without surrounding space, or None where it cannot be read."""
        try:
            return self.path(absolute).read_text(errors="replace").strip("\x00 \t\r\n")
        except OSError:
            return None

    def data(self, absolute: str, limit: int = 65536) -> Optional[bytes]:
        """At most *limit* bytes of the file, or None where it cannot be read."""
        try:
            with self.path(absolute).open("rb") as stream:
                return stream.read(limit)
        except OSError:
            return None

    def names(self, absolute: str) -> list[str]:
        """The sorted names in the directory, none where there is no such directory."""
        try:
            return sorted(entry.name for entry in self.path(absolute).iterdir())
        except OSError:
            return []

    def exists(self, absolute: str) -> bool:
        """Whether something is at *absolute* (a dangling link is nothing)."""
        return self.path(absolute).exists()

    def link_name(self, absolute: str) -> Optional[str]:
        """The last part of what the symbolic link points to, None where it is no link."""
        try:
            return os.path.basename(os.readlink(self.path(absolute)))
        except OSError:
            return None

    def kernel_release(self) -> str:
        """The running kernel's release, as ``uname -r`` says it."""
        return self.text("/proc/sys/kernel/osrelease") or ""
