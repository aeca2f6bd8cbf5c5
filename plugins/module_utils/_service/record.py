# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What served when: one JSON line per change of a service, with the unit itself, so that it can come back.

``<directory>/<service>.jsonl``; a line has ``time`` (UTC), ``outcome`` (see below), ``unit_path``,
``unit_sha256``, ``unit`` (the text) and what the caller adds (image, engine, repository, release).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

from .._base.files import write_atomically

SERVING, FAILED, PUT_BACK, ROLLED_BACK, REMOVED = "serving", "failed", "put back", "rolled back", "removed"
GOOD = (SERVING, PUT_BACK, ROLLED_BACK)
KEEP = 50
# Without these a line tells nothing.
NEEDED = ("time", "outcome", "unit_path", "unit_sha256", "unit")
OWN_KEYS = (*NEEDED, "error", "service", "differs")

Entry = dict[str, Any]


def checksum(text: str) -> str:
    """The sha256 of a unit's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def entry(outcome: str, unit_path: str, unit: str, now: float, extra: Mapping[str, Any]) -> Entry:
    """A line of the record."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "outcome": outcome,
        **extra,
        "unit_path": unit_path,
        "unit_sha256": checksum(unit),
        "unit": unit,
    }


def _entry(line: str) -> Optional[Entry]:
    """The entry of a line, or None for a line that is damaged."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in NEEDED):
        return None
    return found if checksum(found["unit"]) == found["unit_sha256"] else None


@contextlib.contextmanager
def releases_lock(directory: Path) -> Iterator[None]:
    """Held by whoever changes the services of a host, or what their units name. *directory* is made where it is not."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o755)
    with open(directory / ".lock", "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class ReleaseRecord:
    """The record of one service."""

    def __init__(self, directory: Path, service: str) -> None:
        self.path = directory / f"{service}.jsonl"

    def entries(self) -> list[Entry]:
        """All lines, oldest first; a line that was cut off or damaged is left out."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [found for found in map(_entry, lines) if found is not None]

    def append(self, added: Entry) -> None:
        """Add a line; only the last ones are kept. Written aside and renamed, so that no reader sees half."""
        lines = [json.dumps(line, sort_keys=True) for line in [*self.entries(), added][-KEEP:]]
        write_atomically(self.path, ("\n".join(lines) + "\n").encode())

    def known(self, unit: str) -> Entry:
        """What the newest line about *unit* (a text) says beside the unit; empty where there is none."""
        return {key: value for key, value in self._newest(unit).items() if key not in OWN_KEYS}

    def tells(self, unit: str, extra: Mapping[str, Any]) -> bool:
        """Whether the record says of *unit* (a text) that it serves, and *extra* of it."""
        good = self._newest(unit).get("outcome") in GOOD
        return good and self.known(unit) == json.loads(json.dumps({**extra}))

    def differs(self, unit: str) -> list[str]:
        """In what *unit* (a text) differed from its container from the start."""
        return list(self._newest(unit).get("differs") or [])

    def served(self, sha256: str) -> Optional[Entry]:
        """The newest line that says that the unit with this *sha256* served, or None."""
        lines = reversed(self.entries())
        return next((line for line in lines if line["unit_sha256"] == sha256 and line["outcome"] in GOOD), None)

    def _newest(self, unit: str) -> Entry:
        sha256 = checksum(unit)
        return next((line for line in reversed(self.entries()) if line["unit_sha256"] == sha256), {})

    def before(self, unit: str) -> Optional[Entry]:
        """The unit that served before *unit* (a text), or None.

        Units that served, each with its socket and what it read again itself, form a stack, and a rollback takes the
        top off: two rollbacks go two steps back.
        """
        current = checksum(unit)
        good = [line for line in self.entries() if line.get("outcome") in GOOD and line.get("unit")]
        served: list[Entry] = []
        for line in good:
            known = [index for index, seen in enumerate(served) if _state(seen) == _state(line)]
            # Coming back to an older unit undoes what was after it.
            served = served[: known[0]] if known and line["outcome"] == ROLLED_BACK else served
            if not served or _state(served[-1]) != _state(line):
                served.append(line)
        positions = [index for index, line in enumerate(served) if line["unit_sha256"] == current]
        older = served[: positions[-1]] if positions else served
        return older[-1] if older else None

    def last(self, count: int, unit: str) -> list[Entry]:
        """The last *count* releases of the service, whose unit is *unit* now (empty for none), the newest first.

        They are the last that served, and those that rollbacks from here would bring back. Of a service that was
        removed its removal is the newest.
        """
        lines = self.entries()
        found: list[Entry] = []
        for line in reversed([line for line in lines if line["outcome"] in GOOD]):
            if _state(line) not in map(_state, found):
                found.append(line)
        found = found[: count if unit else count - 1]
        for _step in range(count - 1 if unit else 0):
            before = self.before(unit)
            if before is None:
                break
            unit = before["unit"]
            found += [] if _state(before) in map(_state, found) else [before]
        return found


def _state(line: Entry) -> tuple[Any, ...]:
    """What a line says of a release: two that are alike are one."""
    return line["unit_sha256"], line.get("socket"), line.get("live_files")
