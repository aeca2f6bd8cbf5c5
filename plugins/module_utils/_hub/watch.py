# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a download tells while it runs: phase, bytes, rate, time left; and what its files should be at the end."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from .._base.errors import FleetError
from .._base.files import inside

INTERVAL = 1.0  # seconds between two looks at the directory
BLOCK = 1 << 20


@dataclass(frozen=True)
class Expected:
    """What the source says of a file: its sha256, or the name of its blob in git; neither where it says nothing."""

    size: int
    sha256: str = ""
    blob: str = ""


def blob_name(path: Path, algorithm: str) -> str:
    """What git calls the content of *path*."""
    digest = hashlib.new(algorithm, b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_as_expected(path: Path, expected: Expected, sha256: str) -> bool:
    """Whether the file at *path*, whose content has *sha256*, is what its source said."""
    if path.stat().st_size != expected.size or (expected.sha256 and expected.sha256 != sha256):
        return False
    if expected.sha256 or not expected.blob:
        return True
    return blob_name(path, "sha256" if len(expected.blob) == 64 else "sha1") == expected.blob


class Watch:
    """Keeps the status true while a download runs. *judge* refuses what must not be taken, by its names."""

    def __init__(
        self, target: Path, tell: Callable[[dict[str, Any]], None], judge: Callable[[list[str]], None]
    ) -> None:
        self.target, self.tell, self.judge = target, tell, judge
        self.commit, self.expected = "", dict[str, Expected]()
        self.phase, self.note = "resolving", ""
        self.total = 0
        self.begun, self._counting = time.monotonic(), threading.Lock()
        self.at_start: Optional[int] = None
        self.received = 0

    def say(self, note: str) -> None:
        """A word on what it waits for."""
        self.note = note
        self.update()

    def resolved(self, commit: str, expected: Mapping[str, Expected]) -> None:
        """It is known what will arrive. Raises `FleetError` for what must not, or cannot, be taken."""
        if not expected:
            raise FleetError("No file is left to download; correct include and exclude.")
        for name in expected:
            inside(self.target, name, "checkpoint")
        self.judge(sorted(expected))
        self.commit, self.expected = commit, dict(expected)
        self.total = sum(file.size for file in expected.values())
        self.begin("downloading")

    def count(self, received: int) -> None:
        """So many bytes have come over the network."""
        with self._counting:
            self.received += received

    def begin(self, phase: str, total: Optional[int] = None) -> None:
        """Another phase; bytes are counted from here, to *total* where it is known."""
        self.phase, self.note = phase, ""
        self.total = self.total if total is None else total
        self.begun, self.at_start = time.monotonic(), self.present()
        self.update()

    def present(self) -> int:
        """Bytes that have arrived, those of half files too."""
        found = 0
        for parent, _, names in os.walk(self.target):
            for name in names:
                with contextlib.suppress(OSError):
                    found += os.stat(os.path.join(parent, name)).st_size
        return found

    def copy(self, source: Path, target: Path) -> None:
        """A file of this machine; links are followed."""
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)

    def update(self, **changes: Any) -> None:
        """Tell how far it is."""
        done = min(self.present(), self.total) if self.total else 0
        arrived = max(0, done - (self.at_start or 0))
        seconds = time.monotonic() - self.begun
        rate = arrived / seconds if seconds > 0.5 else 0.0
        self.tell(
            {
                "phase": self.phase,
                "note": self.note,
                "commit": self.commit,
                "files": {name: asdict(file) for name, file in self.expected.items()},
                "bytes_done": done,
                "bytes_total": self.total,
                "received": self.received,
                "rate": int(rate),
                "left": int((self.total - done) / rate) if rate > 0 else None,
                **changes,
            }
        )

    @contextlib.contextmanager
    def ticking(self) -> Iterator[None]:
        """Tell it every second while the block runs."""
        ended = threading.Event()

        def tick() -> None:
            while not ended.wait(INTERVAL):
                self.update()

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
