# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of a model's replicas gets the next request: the least busy one that has not just failed, or, where they have
weights, the one whose share of the requests is due."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from openai_gateway.interface import Interface
from openai_gateway.shared import Number, Shared

LOG = logging.getLogger("openai_gateway")
FIRST_PAUSE = 1.0  # seconds a replica rests after its first failure; doubled with each further one
LONGEST_PAUSE = 30.0
# A replica that has read a prompt before is preferred until it has so many requests more than the least busy one.
AFFINITY_SLACK = 4
EMPTY: Mapping[str, Replica] = {}
EVEN: Mapping[str, int] = {}
NOWHERE: Mapping[str, int] = {}


class Replica:
    """One Triton server and what is known of it without asking."""

    def __init__(self, url: str, shared: Shared, model: str = "") -> None:
        self.url = url
        self.own = 0  # requests of one model that it is working on for this worker
        self.answered = 0  # requests of one model, since they were counted last
        self.failures = 0  # in a row
        self.last_success: float | None = None  # on the clock of its set
        self.probing = asyncio.Lock()  # one question for readiness at a time
        self.interface: Interface | None = None  # asked again after a failure: it may be another release now
        self._working, self._rests = shared.number(f"working {url}"), shared.number(f"rests {url} {model}")
        self._rests.mine = 0.0

    @property
    def outstanding(self) -> int:
        """Requests that it is working on for this gateway, for all models and workers."""
        return int(self._working.total)

    @property
    def rests_until(self) -> float:
        """When this worker tries it again; on the clock of its set."""
        return self._rests.mine

    @rests_until.setter
    def rests_until(self, until: float) -> None:
        self._rests.mine = until

    def rests_anywhere(self, now: float) -> bool:
        """Whether any worker leaves it in peace after a failure."""
        return max(self._rests.parts) > now

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count a request while the block runs."""
        self.own += 1
        self._working.mine += 1
        try:
            yield
        finally:
            self.own -= 1
            self._working.mine -= 1

    def take_answered(self) -> int:
        """How many requests of one model it has answered for this worker since this was asked last."""
        found, self.answered = self.answered, 0
        return found

    def renewed(self) -> None:
        """It may have been replaced, so nothing that was known of it holds."""
        self.failures, self.last_success, self.interface = 0, None, None
        self.rests_until = 0.0


class Draining:
    """The replicas that shall get no new requests: the lines of a file, ``URL [UNTIL]``, absent for none.

    UNTIL is a lease, a time in seconds since the epoch: who drains a replica may die before it is given back.
    """

    def __init__(
        self, path: Path | None = None, shared: Shared | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self._path, self._shared, self._wall = path, shared or Shared(), wall
        self._lines: dict[str, float] = {}
        self.urls: frozenset[str] = frozenset()
        self._told: dict[str, Number] = {}
        self._looking = self._shared.number("looking at what drains")
        self.look()

    def look(self) -> frozenset[str]:
        """Read the file, as is done each second; returns the replicas that drain no more."""
        self._lines = self._read()
        now = self._wall()
        urls = frozenset(url for url, until in self._lines.items() if until > now)
        ended = self.urls - urls
        if urls != self.urls:
            LOG.info("draining: %s", ", ".join(sorted(urls)) or "none")
        self.urls = urls
        for url in urls | ended:
            self._told.setdefault(url, self._shared.number(f"drains {url}")).mine = url in urls
        self._looking.mine = 1
        return ended

    def everywhere(self, url: str) -> bool:
        """Whether no worker sends anything new to *url*."""
        return url in self.urls and self._told[url].total >= self._looking.total

    def _read(self) -> dict[str, float]:
        """Address -> end of its lease. What cannot be read changes nothing."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines() if self._path else []
            return dict(_drain_line(line) for line in lines if line.strip() and not line.startswith("#"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            LOG.error("cannot read which replicas drain from %s: %s", self._path, error.strerror)
        except ValueError:
            LOG.error("%s was not read: each line is URL or URL UNTIL, the time in whole seconds", self._path)
        return self._lines


def _drain_line(line: str) -> tuple[str, float]:
    url, *until = line.split()
    if len(until) > 1:
        raise ValueError(line)
    return url.rstrip("/"), float(int(until[0])) if until else math.inf


class Shares:
    """Whose turn it is where some get more than others: smooth weighted round-robin.

    Each gains its own share with every turn, and the one that has most pays for all. Of any so many turns as the shares
    add up to, each has exactly its share, spread evenly.
    """

    def __init__(self) -> None:
        self._shares: dict[int, int] = {}
        self._credit: dict[int, int] = {}

    def next(self, shares: dict[int, int]) -> int:
        """Whose turn it is, of those in *shares*; another choice of them begins anew."""
        if shares != self._shares:
            self._shares, self._credit = shares, dict.fromkeys(shares, 0)
        for key, share in shares.items():
            self._credit[key] += share
        chosen = max(self._credit, key=lambda key: (self._credit[key], key))
        self._credit[chosen] -= sum(shares.values())
        return chosen


class ReplicaSet:
    """The replicas of one model. Passive health: a failure is noticed by the request that met it."""

    def __init__(
        self,
        urls: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        draining: Draining | None = None,
        shared: Shared | None = None,
        model: str = "",
        known: Mapping[str, Replica] = EMPTY,
        weights: Mapping[str, int] = EVEN,
    ) -> None:
        """*known*: replicas of which something is known already, by address. *weights*: by address, 1 by default."""
        shared = shared or Shared()
        self.replicas = [known.get(url) or Replica(url, shared, model) for url in urls]
        self._clock, self._draining = clock, draining or Draining()
        self._turn = itertools.count()
        self._weights, self._shares = weights, Shares()

    def weight(self, replica: Replica) -> int:
        """How many requests *replica* gets for each one that a replica of weight 1 gets."""
        return self._weights.get(replica.url, 1)

    def order(self, prefix: str = "") -> list[Replica]:
        """The replicas in the order in which to try them, without those that drain.

        Those at rest come last instead of being left out: when all have failed, trying is better than
        refusing. Equally busy ones take turns. *prefix*: requests with the same one go to the same replica while that
        is not much busier than the others, as its engine has computed it already.

        Where weights differ, those of one weight share a part of the requests, which is theirs however busy they are;
        in it the same rules hold. One of weight 0 is asked where no other can be.
        """
        draining = self._draining.urls
        open_ = [replica for replica in self.replicas if replica.url not in draining]
        if len(open_) < 2:
            return open_
        now, turn, count = self._clock(), next(self._turn), len(open_)
        busy = {replica.url: replica.outstanding for replica in open_}
        behind = self._behind(open_, now)
        due = [replica for replica in open_ if not behind.get(replica.url)]
        preferred = max(due, key=lambda replica: _affinity(prefix, replica.url)) if prefix else None
        if preferred is not None and busy[preferred.url] >= min(busy[r.url] for r in due) + AFFINITY_SLACK:
            preferred = None
        ranked = [
            (r.rests_until > now, r.rests_until if r.rests_until > now else 0.0, behind.get(r.url, 0))
            + (r is not preferred, busy[r.url], (i - turn) % count, r)
            for i, r in enumerate(open_)
        ]
        return [entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:-1])]

    def _behind(self, open_: Sequence[Replica], now: float) -> Mapping[str, int]:
        """By address how far a replica stands behind those whose share is due; nothing where all weigh the same."""
        if not self._weights or len({self.weight(replica) for replica in open_}) < 2:
            return NOWHERE
        shares: dict[int, int] = {}
        for replica in open_:
            weight = self.weight(replica)
            if weight and replica.rests_until <= now:
                shares[weight] = shares.get(weight, 0) + weight
        if not shares:
            return {replica.url: int(not self.weight(replica)) for replica in open_}
        due = self._shares.next(shares)
        return {r.url: 0 if self.weight(r) == due else 1 if self.weight(r) else 2 for r in open_}

    def drains(self, replica: Replica) -> bool:
        """Whether *replica* gets no new requests."""
        return replica.url in self._draining.urls

    def resting(self, replica: Replica) -> bool:
        """Whether any worker leaves *replica* in peace after a failure."""
        return replica.rests_anywhere(self._clock())

    def succeeded(self, replica: Replica) -> None:
        """A request was answered: the replica is in full service again."""
        replica.failures = 0
        replica.rests_until = 0.0
        replica.last_success = self._clock()

    def answering(self, replica: Replica) -> None:
        """The replica has just written something: it is at work, however long that takes."""
        replica.last_success = self._clock()

    def failed(self, replica: Replica) -> None:
        """The replica could not be reached or broke off."""
        replica.failures += 1
        pause = min(FIRST_PAUSE * 2 ** (replica.failures - 1), LONGEST_PAUSE)
        replica.rests_until = self._clock() + pause
        replica.last_success = None
        replica.interface = None

    def proved_within(self, replica: Replica, seconds: float) -> bool:
        """Whether the replica answered a request in the last *seconds*."""
        return replica.last_success is not None and self._clock() - replica.last_success <= seconds


def _affinity(prefix: str, url: str) -> bytes:
    """A number of its own for each pair, so that a replica that comes or goes moves only its own prefixes."""
    return hashlib.blake2b(f"{url}\0{prefix}".encode(), digest_size=8).digest()
