# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of a model's replicas gets the next request: the least busy one that has not just failed."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from openai_gateway.interface import Interface

LOG = logging.getLogger("openai_gateway")
FIRST_PAUSE = 1.0  # seconds a replica rests after its first failure; doubled with each further one
LONGEST_PAUSE = 30.0
LOOK_AGAIN = 1.0  # seconds after which the file of draining replicas is read again
# A replica that has read a prompt before is preferred until it has so many requests more than the least busy one.
AFFINITY_SLACK = 4


class Replica:
    """One Triton server and what is known of it without asking."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.outstanding = 0  # requests that it is working on for this gateway
        self.failures = 0  # in a row
        self.rests_until = 0.0  # on the clock of its set
        self.last_success: float | None = None
        self.probing = asyncio.Lock()  # one question for readiness at a time
        self.interface: Interface | None = None  # asked again after a failure: it may be another release now


class Draining:
    """The replicas that shall get no new requests: their addresses, one per line of a file, absent for none."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._urls: frozenset[str] = frozenset()
        self._next_look = clock()

    def urls(self) -> frozenset[str]:
        """Their addresses."""
        if self._path is not None and self._clock() >= self._next_look:
            self._next_look = self._clock() + LOOK_AGAIN
            found = self._read(self._path)
            if found != self._urls:
                LOG.info("draining: %s", ", ".join(sorted(found)) or "none")
            self._urls = found
        return self._urls

    def _read(self, path: Path) -> frozenset[str]:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            LOG.error("cannot read which replicas drain from %s: %s", path, error.strerror)
            return self._urls
        return frozenset(line.strip().rstrip("/") for line in lines if line.strip() and not line.startswith("#"))


NONE = Draining(None)


class ReplicaSet:
    """The replicas of one model. Passive health: a failure is noticed by the request that met it."""

    def __init__(
        self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic, draining: Draining = NONE
    ) -> None:
        self.replicas = [Replica(url) for url in urls]
        self._clock, self._draining = clock, draining
        self._turn = itertools.count()

    def order(self, prefix: str = "") -> list[Replica]:
        """The replicas in the order in which to try them, without those that drain.

        Those at rest come last instead of being left out: when all have failed, trying is better than
        refusing. Equally busy ones take turns. *prefix*: requests with the same one go to the same replica while that
        is not much busier than the others, as its engine has computed it already.
        """
        draining = self._draining.urls()
        open_ = [replica for replica in self.replicas if replica.url not in draining]
        if len(open_) < 2:
            return open_
        now, turn, count = self._clock(), next(self._turn), len(open_)
        idlest = min(replica.outstanding for replica in open_)
        preferred = max(open_, key=lambda replica: _weight(prefix, replica.url)) if prefix else None
        if preferred is not None and preferred.outstanding >= idlest + AFFINITY_SLACK:
            preferred = None
        ranked = [
            (r.rests_until > now, r.rests_until if r.rests_until > now else 0.0, r is not preferred, r.outstanding)
            + ((i - turn) % count, r)
            for i, r in enumerate(open_)
        ]
        return [entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:-1])]

    def drains(self, replica: Replica) -> bool:
        """Whether *replica* gets no new requests."""
        return replica.url in self._draining.urls()

    @contextmanager
    def working(self, replica: Replica) -> Iterator[None]:
        """Count a request against *replica* while the block runs."""
        replica.outstanding += 1
        try:
            yield
        finally:
            replica.outstanding -= 1

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


def _weight(prefix: str, url: str) -> bytes:
    """A number of its own for each pair, so that a replica that comes or goes moves only its own prefixes."""
    return hashlib.blake2b(f"{url}\0{prefix}".encode(), digest_size=8).digest()
