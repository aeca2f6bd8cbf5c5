# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn it is to make an artefact that hosts share in a directory which all of them have mounted.

The turn is the kernel's lock on a file beside the artefact's place, one for each fingerprint. It goes with the process
that holds it, and with the host: NFS version 4 lets it go when the host's lease is over (90 s where the server does not
say otherwise), Lustre when the host is evicted. A file system that has no such lock refuses it, in a sentence.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from .._base.errors import FleetError

# Who only looks whether the turn is free holds the lock for a moment.
TRIES, PAUSE = 5, 0.1


class Turn:
    """The turn of this process, once `take` says so. Leave the context to give it back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writes = True
        self._descriptor: int | None = None

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.give_back()

    @property
    def taken(self) -> bool:
        """Whether it is this process's turn."""
        return self._descriptor is not None

    def take(self) -> bool:
        """Take it, unless another process has it. Where nothing can be written there is none to take."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            self.writes = False
            return False
        self._descriptor = descriptor
        try:
            for _ in range(TRIES):
                if self._locked(descriptor, fcntl.LOCK_EX):
                    # Only for those who read it in a message.
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, socket.gethostname().encode(), 0)
                    return True
                time.sleep(PAUSE)
        except BaseException:
            self.give_back()
            raise
        self.give_back()
        return False

    def give_back(self) -> None:
        """Let others have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def free(self) -> bool:
        """Whether nobody has it."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return True
        try:
            return self._locked(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def holder(self) -> str:
        """The host that has it, or last had it; empty where that is not known."""
        with contextlib.suppress(OSError):
            return self.path.read_text(encoding="utf-8", errors="replace")[:255].strip()
        return ""

    def _locked(self, descriptor: int, how: int) -> bool:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise FleetError(
                f"{self.path} cannot be locked ({error.strerror}); mount its file system with locks "
                "(Lustre: -o flock), or hand artefacts on from host to host."
            ) from None
        return True
