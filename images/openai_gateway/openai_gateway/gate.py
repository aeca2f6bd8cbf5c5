# SPDX-License-Identifier: GPL-3.0-or-later
"""How many requests are worked on at once, over all workers, and who waits for a place."""

from __future__ import annotations

import asyncio
from collections import deque

from openai_gateway.errors import ApiError
from openai_gateway.shared import Shared

LOOK_AGAIN = 0.01  # seconds after which a worker whose requests wait looks whether another one has left a place


class Gate:
    """So many requests at once, so many more in a queue; who came first goes first, whichever worker has it."""

    def __init__(self, size: int | None, queue: int, shared: Shared | None = None) -> None:
        """*size*: None for as many as come."""
        self._shared = shared or Shared()
        self._size, self._queue = size, queue
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()  # with their tickets
        self._running, self._queued = self._shared.number("running"), self._shared.number("queued")
        self._last_ticket = self._shared.number("last ticket")
        self._oldest = self._shared.number("oldest ticket")  # of each worker, 0 where none waits
        self._look: asyncio.TimerHandle | None = None

    def resize(self, size: int | None, queue: int) -> None:
        """Other limits from now on; who runs or waits stays."""
        self._size, self._queue = size, queue
        self._let_in()

    @property
    def queued(self) -> int:
        """How many wait at this worker."""
        return len(self._waiting)

    async def enter(self) -> None:
        """Wait for a place, or raise ApiError 503 where even the queue is full."""
        if self._size is None:
            self._running.mine += 1
            return
        with self._shared.locked():
            queued = self._queued.total
            if not queued and self._running.total < self._size:
                self._running.mine += 1
                return
            if queued >= self._queue:
                raise ApiError(503, "The gateway is busy; try again.", code="overloaded", retry_after=1)
            self._last_ticket.common += 1
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((self._last_ticket.common, turn))
            self._tell()
        self._look_again()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # its turn came as it went
            else:
                self._let_in()
            raise

    def leave(self) -> None:
        """Give the place to the next one."""
        self._running.mine -= 1
        if self._waiting:
            self._let_in()

    def _let_in(self) -> None:
        """Let those in whose turn it is, and forget those that went."""
        with self._shared.locked():
            self._waiting = deque((ticket, turn) for ticket, turn in self._waiting if not turn.done())
            self._tell()
            while self._waiting and self._is_next() and (self._size is None or self._running.total < self._size):
                _, turn = self._waiting.popleft()
                self._running.mine += 1
                turn.set_result(None)
                self._tell()
        self._look_again()

    def _is_next(self) -> bool:
        return self._oldest.mine <= min(ticket for ticket in self._oldest.parts if ticket)

    def _tell(self) -> None:
        self._queued.mine = len(self._waiting)
        self._oldest.mine = self._waiting[0][0] if self._waiting else 0.0

    def _look_again(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._waiting and self._shared.workers > 1:
            self._look = asyncio.get_running_loop().call_later(LOOK_AGAIN, self._let_in)
