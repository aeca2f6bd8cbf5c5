# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removes from a host what nothing names any more, and says of the rest why it stays."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from .._base.names import check_path
from .._rollout.state import RolloutState
from .._service.host import ServiceHost
from .._service.record import releases_lock
from .kinds import KINDS, Ground, Kind
from .named import names_on, release_directories
from .rule import ALL, DEFAULT_KEEP, Names, Thing, keep_of

NEVER = 253402300799  # the last second of the year 9999


@dataclass(frozen=True)
class Wanted:
    """What shall stay. *keep*: releases of each service, None for all; *models*: those that the host is described to
    serve; *described*: what else the description names, paths and images."""

    keep: Optional[int]
    models: Sequence[str] = ()
    described: Sequence[str] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Wanted:
        """From the options of `trtllm_prune`."""
        described = [*(given.get("paths") or []), *filter(None, given.get("images") or [])]
        return cls(keep_of(given.get("keep", DEFAULT_KEEP)), given["models"], described)


@dataclass
class Outcome:
    """What became of each thing. *reason*: why nothing was looked at. *quiet_until*: until when, in seconds since the
    epoch, the next look would find nothing to remove either, where nothing else changes on the host."""

    removed: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""
    quiet_until: int = NEVER

    def result(self) -> dict[str, Any]:
        """What the module returns."""
        gone = "".join(f"{thing['path']}\n" for thing in self.removed)
        return {
            "changed": bool(self.removed),
            "removed": self.removed,
            "kept": self.kept,
            "freed": sum(thing["size"] for thing in self.removed),
            "reason": self.reason,
            "quiet_until": self.quiet_until,
            "diff": {"before": gone, "after": ""},
        }


class Pruner:
    """The pruning of one host, whose fleet has its things below *root*."""

    def __init__(self, host: ServiceHost, root: str, wanted: Wanted, check: bool = False) -> None:
        self.host, self.root = host, Path(check_path(root, "root"))
        self.wanted, self.check = wanted, check
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Do it, unless a rollout works here; nobody else begins one, or changes a service, meanwhile."""
        if self.wanted.keep is None:
            self.outcome.reason = f"trtllm_keep is '{ALL}'"
            return self.outcome
        place = self.host.path(str(self.root))
        if not place.is_dir():
            return self.outcome
        with ExitStack() as held:
            holder = held.enter_context(RolloutState(place).standstill(self.check))
            if holder is not None:
                self.outcome.reason = f"the rollout {holder.get('id')} of {holder.get('owner')} works on this host"
                self.outcome.quiet_until = 0
                return self.outcome
            for directory in [] if self.check else release_directories(self.host, self.root):
                held.enter_context(releases_lock(directory))
            self._prune(self.wanted.keep)
        return self.outcome

    def _prune(self, keep: int) -> None:
        names = names_on(self.host, self.root, keep, self.wanted.described)
        # All is found before anything goes: what goes may be what tells that an image is ours.
        found = [(kind, list(kind.find(Ground(self.host, self.root)))) for kind in KINDS.values()]
        for kind, things in found:
            newest = self._newest(kind, things, keep)
            for thing in things:
                why = self._why(kind, thing, names, newest) or (thing.look() if self.check else thing.remove())
                if not why:
                    self.outcome.removed.append(thing.told())
                    continue
                self.outcome.kept.append({**thing.told(), "why": why})
                until = self._quiet_until(kind, thing, names, newest)
                self.outcome.quiet_until = min(self.outcome.quiet_until, until)
                if thing.names:
                    names.add(f"{thing.kind} {thing.name} is made from it", thing.names, lasts=until == NEVER)

    def _quiet_until(self, kind: Kind, thing: Thing, names: Names, newest: set[str]) -> int:
        """Until when a thing stays where nothing else changes: what only a container, a build or another run holds may
        go as soon as that ends."""
        described = kind.described and thing.model in self.wanted.models
        stays = thing.bound or described or thing.path in newest or names.why(thing.words, lasting=True)
        return NEVER if stays else int(thing.made + thing.rests)

    def _newest(self, kind: Kind, things: Sequence[Thing], keep: int) -> set[str]:
        """The paths of the newest things of each model that is described."""
        found: set[str] = set()
        for model in self.wanted.models if kind.newest else []:
            own = [thing for thing in things if thing.model == model and not thing.rests and thing.names]
            found |= {thing.path for thing in sorted(own, key=lambda thing: -thing.made)[:keep]}
        return found

    def _why(self, kind: Kind, thing: Thing, names: Names, newest: set[str]) -> str:
        """Why a thing stays, empty where it may go."""
        why = names.why(thing.words)
        if not why and thing.path in newest:
            why = f"it is one of the newest of {thing.model}, which is described"
        if not why and kind.described and thing.model in self.wanted.models:
            why = f"the model {thing.model} is described"
        if not why and time.time() < thing.made + thing.rests:
            why = "a run was at it less than a day ago"
        return why
