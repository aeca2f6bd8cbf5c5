# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a host the gateway's container sees: whole directories, so that what comes later needs no restart."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath


def mounts(directories: Iterable[str], files: Iterable[str]) -> list[str]:
    """Volumes of *directories*, whole, and of each of *files* that stands below none of them."""
    whole = {PurePosixPath(path) for path in directories}
    alone = {PurePosixPath(path) for path in files}
    wanted = whole | {path for path in alone if whole.isdisjoint(path.parents)}
    return [f"{path}:{path}:ro,z" for path in sorted(wanted, key=str)]
