# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host knows of rollouts: which one works on it now, and what became of its services, line by line.

The controller may die at any moment, so this, and never the controller's memory, says where a rollout stands:
``<root>/rollouts/lock.json`` and ``<root>/rollouts/journal.jsonl``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from .._base.errors import FleetError
from .._base.files import write_atomically

KEEP = 1000  # lines of the journal
# Steps of a service in the journal. After SWITCHING it is not known whether what serves is good; the others settle it.
SWITCHING, PASSED, ROLLED_BACK = "switching", "passed", "rolled back"
SETTLED = (PASSED, ROLLED_BACK)
# How playbooks name rollouts. As one works at a time, the order of the names is that of the rollouts.
BEGAN = re.compile(r"\d{8}T\d{6}Z-\d+")

Line = dict[str, Any]


def utc(seconds: float) -> str:
    """A time as people and other programs read it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class RolloutState:
    """The lock and the journal of one host, below the directory *root* of the fleet."""

    def __init__(self, root: Path, now: Optional[float] = None) -> None:
        self.directory = Path(root) / "rollouts"
        self._now = time.time() if now is None else now

    @property
    def journal(self) -> Path:
        """One JSON object per line, oldest first."""
        return self.directory / "journal.jsonl"

    @property
    def _lock_file(self) -> Path:
        return self.directory / "lock.json"

    def holder(self) -> Optional[Line]:
        """Who works on this host: id, owner, controller, process, since, until (unix time); None where nobody does."""
        try:
            found = json.loads(self._lock_file.read_text(encoding="utf-8"))
            return found if float(found.get("until", 0)) > self._now else None
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return None  # one that is damaged holds nobody off

    def acquire(
        self, wanted: Mapping[str, Any], lease: int, take_over: Sequence[str] = (), check: bool = False
    ) -> bool:
        """Let *wanted* (id, owner, controller, process) work on this host for *lease* seconds; whether that is new.

        Raises `FleetError`, with the holder in its details, where another one works here whose id is not in
        *take_over*.
        """
        with self._alone(check):
            holder = self.holder()
            mine = holder is not None and holder.get("id") == wanted["id"]
            if holder is not None and not mine and holder.get("id") not in take_over:
                raise FleetError(
                    f"the rollout {holder.get('id')} of {holder.get('owner')} works on this host since "
                    f"{utc(float(holder.get('since', 0)))}; wait for its end, or, if it is known to be dead, give "
                    f"rollout_take_over={holder.get('id')}.",
                    {"holder": holder},
                )
            if not check:
                since = holder["since"] if mine and holder else self._now
                held = {**wanted, "since": since, "until": self._now + lease}
                write_atomically(self._lock_file, (json.dumps(held, sort_keys=True) + "\n").encode())
            return not mine

    def release(self, identity: str, check: bool = False) -> bool:
        """End the work of rollout *identity* here; whether it was at work. Another's lock is left alone."""
        with self._alone(check):
            holder = self.holder()
            mine = holder is not None and holder.get("id") == identity
            if mine and not check:
                self._lock_file.unlink()
            return mine

    @contextlib.contextmanager
    def standstill(self, check: bool = False) -> Iterator[Optional[Line]]:
        """Who works on this host, as `holder` tells it; while this is open, nobody begins to. In *check* they may."""
        with self._alone(check):
            yield self.holder()

    def lines(self) -> list[Line]:
        """The journal, oldest first; a line that is damaged is left out."""
        try:
            texts = self.journal.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for text in texts:
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                found += [line] if isinstance(line, dict) and line.get("step") else []
        return found

    def note(self, line: Mapping[str, Any]) -> Line:
        """Add a line, on disk when this returns; only the last ones are kept."""
        added = {"time": utc(self._now), **line}
        with self._alone():
            kept = [json.dumps(entry, sort_keys=True) for entry in [*self.lines(), added][-KEEP:]]
            write_atomically(self.journal, ("\n".join(kept) + "\n").encode())
        return added

    def unsettled(self) -> dict[str, str]:
        """The services that were switched and of which nobody has seen since that they are good.

        By service the sha256 of the unit that served before, empty where there was none.
        """
        before: dict[str, str] = {}
        for line in self.lines():
            for service in map(str, line.get("services") or []):
                if line["step"] == SWITCHING:
                    # switched twice without a look: what was good is from before the first time
                    before.setdefault(service, str((line.get("from") or {}).get(service) or ""))
                elif line["step"] in SETTLED:
                    before.pop(service, None)
        return dict(sorted(before.items()))

    def point(self, rollout: str) -> dict[str, str]:
        """What served when *rollout* had ended here: by service the sha256 of its unit, empty for none.

        Only services that a later rollout changed are in it. A rollout that changed nothing here is known by when it
        began, which its name says; raises `FleetError` for another name that the journal does not have.
        """
        lines = self.lines()
        numbers = [number for number, line in enumerate(lines) if line.get("rollout") == rollout]
        if numbers:
            later = lines[numbers[-1] + 1 :]
        elif BEGAN.fullmatch(rollout):
            later = [line for line in lines if str(line.get("rollout")) > rollout]
        else:
            known = list(dict.fromkeys(str(line.get("rollout")) for line in lines))
            raise FleetError(
                f"the journal of this host knows no rollout {rollout}; there are {', '.join(known[-5:]) or 'none'}."
            )
        found: dict[str, str] = {}
        for line in later:
            if line["step"] == SWITCHING:
                for service, before in (line.get("from") or {}).items():
                    found.setdefault(str(service), str(before or ""))
        return found

    @contextlib.contextmanager
    def _alone(self, check: bool = False) -> Iterator[None]:
        """One process at a time; the kernel drops it with the process."""
        if check:
            yield
            return
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        with open(self.directory / ".lock", "a", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
