# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Converted checkpoints on a host, which builds of several engines share: ``<root>/converted/<fingerprint>``."""

from __future__ import annotations

from pathlib import Path

from .._artifact.store import Store


class ConvertedStore(Store):
    """Those below the directory *root* of the fleet. The runner of a build makes them and locks them, see `Runner`."""

    LOCKS = ("making", "used")

    def __init__(self, root: Path) -> None:
        super().__init__(Path(root) / "converted")

    def lock_file(self, name: str) -> Path:
        """The beginning of the names of its locks, each of which ends in one of LOCKS."""
        return self.root / ".locks" / self.home(name).name

    def lock_files(self, name: str) -> list[Path]:
        """One that a build holds which makes it, and one that builds hold which read it."""
        lock = self.lock_file(name)
        return [lock.with_name(f"{lock.name}.{kind}") for kind in self.LOCKS]

    def remove(self, name: str) -> bool:
        """Remove it, and what is left of making it; True if there was anything. Its locks stay: others may wait."""
        return self._take_away(self.home(name))
