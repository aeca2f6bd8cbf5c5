# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the host is looked at: files under a root, commands, device numbers.

Everything that C(gpu_host_info) knows comes through one L(System). A test gives it a recorded tree and
recorded answers, so that a host which nobody has at hand can be examined like the one at hand.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Optional

# nvidia-smi hangs for minutes on a GPU that fell off the bus; the facts must come back all the same.
COMMAND_TIMEOUT_S = 60


class Answer(NamedTuple):
    """What a command said. *rc* is 127 where there is no such command and 124 where it ran too long."""

    rc: int
    out: str
    err: str = ""


Runner = Callable[[Sequence[str]], Answer]
DeviceNumber = Callable[[Path], Optional[tuple[int, int]]]
DiskUsage = Callable[[Path], Optional[tuple[int, int]]]


def run_command(argv: Sequence[str]) -> Answer:
    """Run *argv* in the C locale and never raise: a missing command is an answer too."""
    environment = {**os.environ, "LC_ALL": "C", "LANGUAGE": "C"}
    # A module's PATH often lacks sbin, where modinfo and mokutil may be.
    environment["PATH"] = environment.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
    if shutil.which(argv[0], path=environment["PATH"]) is None:
        return Answer(127, "", f"{argv[0]}: not found")
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(124, "", f"{argv[0]} gave no answer within {COMMAND_TIMEOUT_S} s")
    except OSError as error:
        return Answer(126, "", f"{argv[0]}: {error.strerror}")
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def device_number(path: Path) -> Optional[tuple[int, int]]:
    """Return (major, minor) of the character device at *path*, or None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    if not stat.S_ISCHR(status.st_mode):
        return None
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def disk_usage(path: Path) -> Optional[tuple[int, int]]:
    """Return (total, free for an ordinary writer) in bytes of the file system that holds *path*."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


@dataclass
class System:
    """The host to look at. *root* is C(/) but in a test, where it is a recorded tree."""

    root: Path = Path("/")
    run: Runner = run_command
    device_number: DeviceNumber = device_number
    disk_usage: DiskUsage = disk_usage
    machine: str = field(default_factory=platform.machine)

    def path(self, absolute: str) -> Path:
        """Return where *absolute* lies under the root."""
        return self.root / absolute.lstrip("/")

    def text(self, absolute: str) -> Optional[str]:
        """Return the file's text without surrounding space, or None where it cannot be read."""
        try:
            return self.path(absolute).read_text(errors="replace").strip("\x00 \t\r\n")
        except OSError:
            return None

    def data(self, absolute: str, limit: int = 65536) -> Optional[bytes]:
        """Return at most *limit* bytes of the file, or None where it cannot be read."""
        try:
            with self.path(absolute).open("rb") as stream:
                return stream.read(limit)
        except OSError:
            return None

    def names(self, absolute: str) -> list[str]:
        """Return the sorted names in the directory, none where there is no such directory."""
        try:
            return sorted(entry.name for entry in self.path(absolute).iterdir())
        except OSError:
            return []

    def exists(self, absolute: str) -> bool:
        """Tell whether something is at *absolute* (a dangling link is nothing)."""
        return self.path(absolute).exists()

    def link_name(self, absolute: str) -> Optional[str]:
        """Return the last part of what the symbolic link points to, None where it is no link."""
        try:
            return os.path.basename(os.readlink(self.path(absolute)))
        except OSError:
            return None

    def kernel_release(self) -> str:
        """Return the running kernel's release, as C(uname -r) says it."""
        return self.text("/proc/sys/kernel/osrelease") or ""
