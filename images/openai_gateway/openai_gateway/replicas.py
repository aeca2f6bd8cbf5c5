# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of a model's replicas gets the next request: the least busy one that has not just failed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from openai_gateway.interface import Interface

FIRST_PAUSE = 1.0  # seconds a replica rests after its first failure; doubled with each further one
LONGEST_PAUSE = 30.0


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


class ReplicaSet:
    """The replicas of one model. Passive health: a failure is noticed by the request that met it."""

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.replicas = [Replica(url) for url in urls]
        self._clock = clock
        self._turn = itertools.count()

    def order(self) -> list[Replica]:
        """Return all replicas in the order in which to try them.

        Those at rest come last instead of being left out: when all have failed, trying is better than
        refusing. Equally busy ones take turns.
        """
        now, turn, count = self._clock(), next(self._turn), len(self.replicas)
        ranked = [
            (r.rests_until > now, r.rests_until if r.rests_until > now else 0.0, r.outstanding)
            + ((i - turn) % count, r)
            for i, r in enumerate(self.replicas)
        ]
        return [entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:-1])]

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
