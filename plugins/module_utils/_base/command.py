# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of the host that are asked something, each with a time-out. A command that does not answer is an answer."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from typing import NamedTuple, Optional

# Where commands are beside PATH, which is poor under sudo and in ssh's commands.
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# nvidia-smi hangs for minutes on a GPU that fell off the bus; the facts must come back all the same.
TIMEOUT_S = 60


class Answer(NamedTuple):
    """What a command said. *rc* is 127 where there is no such command and 124 where it ran too long."""

    rc: int
    out: str
    err: str = ""


def _path() -> str:
    # Some machines mount the driver's tools into the last one, which no PATH names.
    return f"{os.environ.get('PATH', '')}:{SEARCH_PATH}:/usr/local/nvidia/bin".lstrip(":")


def find(name: str) -> Optional[str]:
    """Where the command *name* is, None on a host without it."""
    return shutil.which(name, path=_path())


def run_command(argv: Sequence[str]) -> Answer:
    """Run *argv* in the C locale and never raise: a missing command is an answer too."""
    program = find(argv[0])
    if program is None:
        return Answer(127, "", f"{argv[0]}: not found")
    try:
        process = subprocess.Popen(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C", "LANGUAGE": "C", "PATH": _path()},
            start_new_session=True,
        )
    except OSError as error:
        return Answer(126, "", f"{argv[0]}: {error.strerror}")
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _abandon(process)
        return Answer(124, "", f"{argv[0]} gave no answer within {TIMEOUT_S} s")
    return Answer(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def _abandon(process: subprocess.Popen[bytes]) -> None:
    """Kill a command with its children. It is not waited for: what hangs in a driver does not die of a signal."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)
