# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Permissions and SELinux label of a published repository: readable by all, by containers too."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

DIRECTORY_MODE, FILE_MODE = 0o755, 0o644
# What podman's :z gives to files that several containers share.
SELINUX_TYPE, SELINUX_LEVEL = "container_file_t", "s0"
SELINUX_FS = Path("/sys/fs/selinux/enforce")
ATTRIBUTE = "security.selinux"


def _below(root: Path) -> Iterator[tuple[str, int]]:
    """*root* and everything below it, with the mode it should have."""
    for directory, _, names in os.walk(root):
        yield directory, DIRECTORY_MODE
        for name in names:
            yield os.path.join(directory, name), FILE_MODE


def selinux_enabled() -> bool:
    """Whether the kernel labels files, in enforcing or permissive mode."""
    return SELINUX_FS.exists()


def wanted_label(present: str) -> str:
    """*present* with the type and level for containers; user and role stay."""
    user, role = (present.split(":") + ["", ""])[:2]
    return f"{user or 'system_u'}:{role or 'object_r'}:{SELINUX_TYPE}:{SELINUX_LEVEL}"


def _label(path: str) -> str:
    try:
        return os.getxattr(path, ATTRIBUTE).rstrip(b"\0").decode()
    except OSError:
        return ""


def insecure(root: Path) -> list[str]:
    """Sentences on each file or directory whose mode or label is not as published."""
    problems = []
    labelled = selinux_enabled()
    for path, mode in _below(root):
        relative = os.path.relpath(path, root)
        found = stat.S_IMODE(os.lstat(path).st_mode)
        if found != mode:
            problems.append(f"{relative} has mode {found:04o} instead of {mode:04o}")
        if labelled and _label(path) != wanted_label(_label(path)):
            problems.append(f"{relative} has the SELinux label {_label(path) or 'none'}")
    return problems


def secure(root: Path) -> None:
    """Set modes and, where SELinux is on, the label."""
    labelled = selinux_enabled()
    for path, mode in _below(root):
        if stat.S_IMODE(os.lstat(path).st_mode) != mode:
            os.chmod(path, mode)
        if labelled and _label(path) != wanted_label(_label(path)):
            os.setxattr(path, ATTRIBUTE, wanted_label(_label(path)).encode() + b"\0")
