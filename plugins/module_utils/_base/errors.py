# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error that users see: a sentence with what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from typing import Any

# What to do about a file that the system refuses, by the reason that it gives.
REMEDIES = {
    errno.ENOENT: "make the directory, or correct the path",
    errno.ENOTDIR: "a part of the path is a file: give a directory",
    errno.EISDIR: "it is a directory where a file belongs: give a file, or move it away",
    errno.EEXIST: "something else stands there: move it away, or give another path",
    errno.ENAMETOOLONG: "give a shorter name or path",
    errno.EACCES: "run with become, as root",
    errno.EPERM: "run with become, as root",
    errno.EROFS: "give a path on a file system that can be written",
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EIO: "look into the kernel's log for the disk's errors",
    errno.ELOOP: "links lead in a circle there: repair them",
}
# What to do where a server did not answer; Python gives no number where a time of its own ran out.
UNREACHED = "see that what is asked runs, and that the network lets it be reached"
# What only writing meets, or what stands where something is renamed to.
OF_THE_TARGET = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY)
# What a terminal or a log would act on instead of showing it: control characters, turns of the writing direction, and
# halves of characters, which cannot even be printed.
UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LONG_WORD = re.compile(r"\S{500,}")
# Characters of a sentence that are shown of its beginning and of its end, where what to do stands.
SHOWN_HEAD, SHOWN_TAIL = 2000, 500
# No name is longer, and comparing takes time in the square of the length.
NAME = 200


class FleetError(Exception):
    """A refusal that an operator can act on; modules turn it into C(fail_json(msg=...)), with *details* beside."""

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(one_line(message))
        self.details = details or {}


def escaped(text: str) -> str:
    """*text* with what a terminal or a log would act on shown as Python writes it."""
    return UNSHOWN.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """*text*, which may quote whatever a user gave, as one line that can be printed and read."""
    shown = escaped(text.strip())
    shown = LONG_WORD.sub(lambda match: f"{match.group()[:80]}... ({len(match.group())} characters)", shown)
    if len(shown) <= SHOWN_HEAD + SHOWN_TAIL:
        return shown
    return f"{shown[:SHOWN_HEAD]} ... {shown[-SHOWN_TAIL:]}"


def sentence(error: FleetError | OSError, where: str = "The host") -> str:
    """What an operator is told: which file (*where* for an error that names none), what the system says, what to do."""
    if isinstance(error, FleetError):
        return str(error)
    # Of a copy, the first is what is read; what cannot be written is the other.
    other = error.filename2 if error.errno in OF_THE_TARGET else None
    named = next((name for name in (other, error.filename) if isinstance(name, (str, bytes))), where)
    where = os.fsdecode(named)
    otherwise = (
        UNREACHED if isinstance(error, (TimeoutError, ConnectionError)) else "look at the file system of the host"
    )
    remedy = REMEDIES.get(error.errno or 0, otherwise)
    return one_line(f"{where}: {error.strerror or error}; {remedy}.")


def nearest(given: Any, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to *given*, or an empty string."""
    match = difflib.get_close_matches(str(given)[:NAME], list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""
