# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which host is settled: one on which a whole run found nothing to change, and nothing differs since.

The record says what that run was given (*inputs*), how the host was (*observed*), and what the host answered to
questions whose answers hang on nothing else, so that the next run need not ask (*told*). A run looks before its roles
do, and the record counts when the same look at the end of the whole run finds the same: so what was changed by the run,
or beside it, between any of its checks and its end, is never taken for settled. The look is kept below ``/run`` until
then: a run that is refused, or fails before it changes anything, leaves the record as it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable

from .._base.files import read_object, remove, write_atomically
from .parts import RECORD, Ground, Look, look, signed
from .signature import difference

VERSION = 2
LOOKED = "/run/trtllm/looked.json"
NONE_YET = "no whole run has found nothing to change yet"
SHOWN = 2  # differences of a part that are told
# Of what `triton_replica_info` tells of a host.
SERVED = ("replicas", "workers", "gateways")
NOTHING: Mapping[str, Any] = MappingProxyType({})
Values = Mapping[str, str]
Observed = Mapping[str, Values]


@dataclass(frozen=True)
class Found:
    """What a look has found. *why*: sentences without their end, why the host is not settled; *at* names the look, and
    is 0 where it was not noted. Of a settled host, *found* is what `triton_replica_info` has told of it, empty where
    that is not known, and *prunes* whether something may have to go."""

    settled: bool
    why: list[str] = field(default_factory=list)
    since: str = ""
    at: int = 0
    found: dict[str, Any] = field(default_factory=dict)
    prunes: bool = False


def utc(seconds: float) -> str:
    """A time as people read it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class Settled:
    """The record of one host."""

    def __init__(
        self, ground: Ground, look_at: Callable[[Ground], Look] = look, clock: Callable[[], float] = time.time
    ) -> None:
        self.ground, self._look, self._clock = ground, look_at, clock
        self.path: Path = ground.at(f"{ground.root}/{RECORD}")
        self.looked: Path = ground.at(LOOKED)

    def look(self, inputs: Values, unsettled: list[str], check: bool, whole: bool = True) -> Found:
        """Whether the host is settled. What the look found is noted, so that `settle` can compare with it.
        *unsettled*: why it cannot be, whatever the record says. *whole*: whether the run can settle it."""
        noted = int(self._clock() * 1e9)
        kept = _read(self.path)
        now = self._look(self.ground)
        why = list(unsettled) or self._differences(kept, inputs, now)
        if not why:
            return self._settled(kept)
        if not whole or not self.path.parent.is_dir():
            return Found(False, why)
        if not check:
            self.looked.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            looked: dict[str, Any] = {"at": noted, "since": None, "paths": list(self.ground.paths), "told": {}}
            _write(self.looked, {**looked, "inputs": dict(inputs), "observed": signed(now, noted)})
        return Found(False, why, at=noted)

    def settle(self, at: int, check: bool, served: Mapping[str, Any] = NOTHING, quiet_until: int = 0) -> Found:
        """The host is settled if it is as the look *at* had found it. Else there is no record, and it is told why.

        *served*: what `triton_replica_info` has told in the meantime; *quiet_until*: until when nothing goes, as
        `trtllm_prune` has told it."""
        if not at:
            return Found(False, ["the run was not a whole one, or found nothing of the fleet as it began"])
        kept = _read(self.looked)
        if not kept:
            gone = "what the run found as it began is gone: the host was started again, or another run has ended"
            return Found(False, [gone], at=at)
        if kept["at"] != at:
            return Found(False, ["another run looked at the host in the meantime"], at=at)
        self.ground.paths = kept["paths"]
        why = differing(kept["observed"], signed(self._look(self.ground), at))
        if check:
            return Found(not why, why, at=at)
        if why:
            remove(self.path)
            return Found(False, why, at=at)
        since = self._clock()
        told = {"found": _without_configurations(served), "quiet_until": quiet_until}
        _write(self.path, {**kept, "since": since, "told": told})
        remove(self.looked)
        return Found(True, since=utc(since), at=at)

    def told(self, inputs: Values) -> Found:
        """Whether the host is as the run had left it that settled it. *inputs*: what of it counts here; where that
        differs, such as the collection, which knows what to look at, nothing else is compared. *since* is told of a
        host that differs too."""
        return self._told(_read(self.path), inputs)

    def seen(self, inputs: Values) -> dict[str, Any]:
        """The same, and of a host that does not differ what a whole run has to compare with the record by itself."""
        kept = _read(self.path)
        found = self._told(kept, inputs)
        compare = {key: kept[key] for key in ("inputs", "paths")} if found.settled else {}
        return {**asdict(found), "compare": compare}

    def _told(self, kept: Mapping[str, Any], inputs: Values) -> Found:
        if not kept or kept["since"] is None:
            return Found(False, [NONE_YET])
        self.ground.paths = kept["paths"]
        given = {name: kept["inputs"].get(name, "") for name in inputs}
        why = differing({"given": given}, {"given": inputs})
        why = why or differing(kept["observed"], signed(self._look(self.ground), kept["at"]))
        return self._settled(kept) if not why else Found(False, why, since=utc(float(kept["since"])))

    def _settled(self, kept: Mapping[str, Any]) -> Found:
        told = kept["told"]
        prunes = self._clock() >= told["quiet_until"]
        return Found(True, since=utc(float(kept["since"])), found=told["found"], prunes=prunes)

    def _differences(self, kept: Mapping[str, Any], inputs: Values, now: Look) -> list[str]:
        if not kept or kept["since"] is None:
            return [NONE_YET]
        given = differing({"given": kept["inputs"]}, {"given": inputs})
        return given + differing(kept["observed"], signed(now, kept["at"]))


def _without_configurations(served: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of replicas and gateways, but for texts in which an operator may have written anything."""
    return {
        kind: [{key: value for key, value in one.items() if key != "config"} for one in served[kind]]
        for kind in SERVED
        if isinstance(served.get(kind), list)
    }


def _read(path: Path) -> dict[str, Any]:
    """A record or a look; {} where there is none, or one that is not whole."""
    found = read_object(path)
    try:
        since = found["since"]
        whole = (
            found["version"] == VERSION
            and isinstance(found["at"], int)
            and isinstance(found["paths"], list)
            and (since is None or isinstance(since, float))
            and (since is None or _is_told(found["told"]))
            and all(isinstance(value, str) for value in found["inputs"].values())
            and all(isinstance(one, str) for part in found["observed"].values() for one in part.values())
        )
    except (KeyError, AttributeError):
        return {}
    return found if whole else {}


def _is_told(told: Any) -> bool:
    return isinstance(told["found"], dict) and isinstance(told["quiet_until"], int)


def _write(path: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps({"version": VERSION, **record}, separators=(",", ":"), sort_keys=True)
    write_atomically(path, text.encode(), 0o600)


def differing(before: Observed, now: Observed) -> list[str]:
    """What differs, in words: of each part the first few, as one cause often has many."""
    found = []
    for part in dict.fromkeys([*now, *before]):
        old, new = before.get(part, {}), now.get(part, {})
        all_names = [name for name in sorted({*old, *new}) if old.get(name, "") != new.get(name, "")]
        # Of a directory that is new or gone, what was in it.
        around = {name[:at] for name in all_names for at, letter in enumerate(name) if letter == "/"}
        names = [name for name in all_names if name not in around]
        shown = [f"{name} {_how(old.get(name, ''), new.get(name, ''))}" for name in names[:SHOWN]]
        more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        found += [f"{part}: {', '.join([*shown, *more])}"] if shown else []
    return found


def _how(before: str, now: str) -> str:
    """Values of what is given are digests, and those of facts may be long: files alone say how they differ."""
    if before and now and not all(len(text.split()) >= 5 and text.split()[0].isdigit() for text in (before, now)):
        return "differs"
    return difference(before, now)


def settled_table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each host: since when it is settled, or why it is not."""
    return [
        f"{host}: settled since {told['since']}."
        if told.get("settled")
        else f"{host}: not settled; {'; '.join(told.get('why') or [str(told.get('msg') or 'it was not looked at')])}."
        for host, told in sorted(found.items())
        if not told.get("skipped")
    ]
