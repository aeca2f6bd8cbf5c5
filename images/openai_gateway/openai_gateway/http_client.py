# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP/1.1 to the replicas: as much of it as Triton speaks, since every microsecond here is paid for each request."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast
from urllib.parse import unquote, urlsplit

import httptools

# Triton waits for idle connections before it stops, so they are not kept for long.
KEEP_ALIVE = 2.0  # seconds
UNREAD = 2**20  # bytes of an answer that wait here; more stay with the replica until somebody takes these
Address = tuple[str, int]


class HttpError(Exception):
    """No answer, or half of one."""


class NoConnection(HttpError):
    """The replica could not be reached."""


class ConnectTimeout(NoConnection):
    """It did not take the connection in time."""


class Disconnected(HttpError):
    """It closed the connection before it answered."""


class Silence(HttpError):
    """It took the request and said nothing for too long."""


class Origin(NamedTuple):
    """Where requests of one base address go."""

    address: Address
    tls: bool
    path: str  # before the path of every request
    head: str  # headers of every request


class Connection(asyncio.Protocol):
    """One connection, and the answer to the request that it was used for last."""

    def __init__(self, client: HttpClient, origin: Origin) -> None:
        self._client, self.origin, self._loop = client, origin, asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0.0  # when it said something last, or somebody began to wait
        self.idle_since: float | None = None
        self.status = 0  # of the answer, 0 while there is none
        self._failure: HttpError | None = None
        self._parts: list[bytes] = []
        self._unread = 0
        self._paused = self._complete = self._delimited = self._keep = False

    # What happens to it.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It can be written to."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take in a part of the answer."""
        self._heard = self._loop.time()
        try:
            if self.idle_since is not None:
                raise httptools.HttpParserError("nobody asked")
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(HttpError(f"the answer is no HTTP: {error}"))
            self.close()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The replica closed it, or this gateway did."""
        if self.idle_since is not None:
            self._client.forget(self)
        if self.status and not self._delimited and exc is None:
            self._complete = True  # such an answer ends with its connection
        elif not self._complete:
            words = "the answer broke off" if self.status else "it closed the connection without an answer"
            self._fail(HttpError(words) if self.status else Disconnected(words))
        self._transport = None
        self._wake()

    # What the parser tells.

    def on_header(self, name: bytes, value: bytes) -> None:
        """See whether the answer says where it ends."""
        self._delimited = self._delimited or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        """Keep the status, and whether the connection may stay: the parser knows that only now."""
        self.status, self._keep = self._parser.get_status_code(), self._parser.should_keep_alive()
        if self.status < 200:
            self.status = 0  # another one follows

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        self._parts.append(data)
        self._unread += len(data)
        if self._unread > UNREAD and not self._paused and self._transport:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """See the end of the answer."""
        self._complete = bool(self.status)

    # What its user does.

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes) -> None:
        """Send *request* and wait for the status of its answer. Raises HttpError."""
        self.idle_since, self.status, self._failure, self._complete = None, 0, None, False
        self._parser, self._delimited = httptools.HttpResponseParser(self), False
        if self._transport is None:
            raise Disconnected("it closed the connection without an answer")
        self._transport.write(request)
        self._timer = self._loop.call_later(self._client.read_timeout, self._see_silence)
        while not self.status:
            await self._wait()

    async def more(self) -> bytes:
        """What came of the body since the last time, waited for if need be; nothing at its end. Raises HttpError."""
        while not self._parts and not self._complete:
            await self._wait()
        parts, self._parts, self._unread = self._parts, [], 0
        if self._paused and self._transport:
            self._paused = False
            self._transport.resume_reading()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read(self) -> bytes:
        """The whole body. Raises HttpError."""
        parts = []
        while part := await self.more():
            parts.append(part)
        return b"".join(parts)

    def release(self) -> None:
        """Keep the connection for another request if its answer was read to the end, else close it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._complete and self._keep and not self._parts and self.usable:
            self.idle_since = self._loop.time()
            self._client.keep(self)
        else:
            self.close()

    def close(self) -> None:
        """Close it at once, which is how the replica learns that nobody waits any more."""
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._heard = self._loop.time()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: HttpError) -> None:
        self._failure = self._failure or error

    def _see_silence(self) -> None:
        """End an answer that somebody has waited for too long; one timer does for all its parts."""
        now = self._loop.time()
        heard = now if self._waiter is None else self._heard
        left = heard + self._client.read_timeout - now
        if left > 0:
            self._timer = self._loop.call_later(left, self._see_silence)
            return
        self._timer = None
        self._fail(Silence("it said nothing for too long"))
        self.close()
        self._wake()


class HttpClient:
    """The connections to all replicas. To be made in the event loop."""

    def __init__(
        self, read_timeout: float, connect_timeout: float, find: Callable[[str, int], Address] | None = None
    ) -> None:
        """Times in seconds; *find* says where a host is in place of DNS."""
        self.read_timeout, self.connect_timeout, self._find = read_timeout, connect_timeout, find
        self._origins: dict[str, Origin] = {}
        self._idle: dict[Origin, list[Connection]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None

    async def request(
        self, method: str, base: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Connection:
        """Send a request and wait for the status of its answer. Raises HttpError.

        The connection is the caller's until it is released.
        """
        origin = self._origins.get(base) or self._origins.setdefault(base, _origin(base))
        head = f"{method} {origin.path}{path} HTTP/1.1\r\n{origin.head}"
        for name, value in (headers or {}).items():
            if "\r" in value or "\n" in value:
                raise ValueError(f"the header {name} has several lines")
            head += f"{name}: {value}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        connection = self._kept(origin) or await self._connect(origin)
        try:
            await connection.exchange(f"{head}\r\n".encode("latin-1") + body)
        except BaseException:
            connection.release()
            raise
        return connection

    def keep(self, connection: Connection) -> None:
        """Take back a connection that nobody uses."""
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(KEEP_ALIVE, self._close_old)

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        idle = self._idle.get(connection.origin, [])
        if connection in idle:
            idle.remove(connection)

    def close_idle(self, base: str) -> None:
        """Close the connections to *base* that nobody uses now."""
        address = _origin(base).address
        for origin in [origin for origin in self._idle if origin.address == address]:
            for connection in self._idle.pop(origin):
                connection.close()

    def close(self) -> None:
        """Close all that nobody uses."""
        if self._sweep is not None:
            self._sweep.cancel()
        for idle in self._idle.values():
            for connection in list(idle):
                connection.close()

    def _kept(self, origin: Origin) -> Connection | None:
        """The connection that was used last: the others may grow old."""
        idle = self._idle.get(origin)
        oldest = asyncio.get_running_loop().time() - KEEP_ALIVE
        while idle:
            connection = idle.pop()
            if connection.usable and (connection.idle_since or 0) > oldest:
                return connection
            connection.close()
        return None

    def _close_old(self) -> None:
        self._sweep, now = None, asyncio.get_running_loop().time()
        left = KEEP_ALIVE
        for idle in self._idle.values():
            for connection in list(idle):
                rest = (connection.idle_since or 0) + KEEP_ALIVE - now
                if rest > 0:
                    left = min(left, rest)
                else:
                    idle.remove(connection)
                    connection.close()
        self._idle = {origin: idle for origin, idle in self._idle.items() if idle}
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(left, self._close_old)

    async def _connect(self, origin: Origin) -> Connection:
        host, port = origin.address if self._find is None else self._find(*origin.address)
        if origin.tls and self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with asyncio.timeout(self.connect_timeout):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self, origin), host, port,
                    ssl=self._tls if origin.tls else None,
                    server_hostname=origin.address[0] if origin.tls else None,
                    happy_eyeballs_delay=0.25,
                )  # fmt: skip
        except TimeoutError:
            raise ConnectTimeout(f"it took no connection within {self.connect_timeout:g} seconds") from None
        except OSError as error:
            raise NoConnection(f"cannot connect: {error.strerror or error}") from None
        return connection


def _origin(base: str) -> Origin:
    parts = urlsplit(base)
    tls = parts.scheme == "https"
    head = f"Host: {parts.netloc.rpartition('@')[2]}\r\nAccept: */*\r\n"
    if parts.username is not None:
        word = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        head += f"Authorization: Basic {base64.b64encode(word).decode()}\r\n"
    return Origin((parts.hostname or "", parts.port or (443 if tls else 80)), tls, parts.path, head)
