# SPDX-License-Identifier: GPL-3.0-or-later
"""The limits of a connection before any of its requests is understood: size of a head, time to send a request; and
who wants to know when its client has gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from openai_gateway.errors import ApiError

MAX_HEAD = 64 * 1024  # bytes of request line and headers
GRACE = 1.0  # seconds in which the first request of a connection must begin when the gateway stops


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which itself waits for ever and takes heads of any size."""

    read_timeout = 60.0  # seconds in which a request must have arrived, its body included
    stopping = False  # the gateway takes no new connections; those that it has taken get their answer
    lost = False  # its client has gone

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head = 0  # bytes of the head that is being read, 0 while none is
        self._in_head = True
        self._deadline: asyncio.TimerHandle | None = None
        self._watching: set[Callable[[], None]] = set()

    def watch(self, gone: Callable[[], None]) -> None:
        """Have *gone* called when the connection is lost."""
        self._watching.add(gone)
        self.flow.resume_reading()  # after a long body nothing is read, and that the client goes would not be seen

    def unwatch(self, gone: Callable[[], None]) -> None:
        """Have it called no more."""
        self._watching.discard(gone)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first request its time."""
        super().connection_made(transport)
        self._expect()
        if self.stopping:
            self.shutdown()

    def shutdown(self) -> None:
        """Close when nothing is to be answered any more.

        A first request may still be on its way, and nobody would send it again.
        """
        if self.cycle is None and not self.transport.is_closing():
            self.loop.call_later(GRACE, self._close_unused)
        else:
            super().shutdown()

    def _close_unused(self) -> None:
        if self.cycle is None and not self._head:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time limit, and tell those that work for this client."""
        self._arrived()
        super().connection_lost(exc)
        self._client_left()

    def eof_received(self) -> None:
        """The client sends no more, so it has gone, and the connection is closed."""
        self._client_left()

    def _client_left(self) -> None:
        self.lost = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # nothing is missed where no answer is begun
        for gone in list(self._watching):
            gone()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head."""
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        # A body may have come along, so what is too much shows only once the head was seen to go on.
        if self._in_head and self._head > MAX_HEAD:
            self._refuse(ApiError(431, f"The head of the request is larger than {MAX_HEAD} bytes."))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._in_head = True
        if self._deadline is None:
            self._expect()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head, self._head = False, 0
        super().on_headers_complete()
        if self.stopping and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The request is there."""
        self._arrived()
        self._in_head = True
        super().on_message_complete()

    def _expect(self) -> None:
        self._deadline = self.loop.call_later(self.read_timeout, self._too_late)

    def _arrived(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        self._refuse(ApiError(408, f"The request did not arrive within {self.read_timeout:g} seconds."))

    def _refuse(self, error: ApiError) -> None:
        """Answer without an application and close."""
        if self.transport.is_closing():
            return
        reason = {408: "Request Timeout", 431: "Request Header Fields Too Large"}[error.status]
        body = json.dumps(error.body()).encode()
        # Not into the middle of an answer.
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            head = f"HTTP/1.1 {error.status} {reason}\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
        self.transport.close()
