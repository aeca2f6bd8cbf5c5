# SPDX-License-Identifier: GPL-3.0-or-later
"""ASGI pieces: a stream that ends when its client goes, keys, request ids, a limit of size, one log line."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openai_gateway.errors import ApiError

LOG = logging.getLogger("openai_gateway")
T = TypeVar("T")
CLIENT_GONE = 499  # nobody reads it; it is for the log and the counters


class ClientGone(Exception):
    """The client closed its connection before the answer was complete."""


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of *work*, or cancel it and raise ClientGone when the client goes first."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for pending in (task, watcher):
            pending.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


class EventStream(Response):
    """Server-sent events from *events*, which is closed at once when the client goes away; then *finish* runs.

    Starlette's own StreamingResponse notices that only when it next has something to send; a long prefill
    would keep a GPU busy for nobody.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], finish: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._finish = finish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send headers and events."""
        try:
            await while_connected(receive, self._send(send))
        except (ClientGone, OSError):
            scope["state"]["log"]["status"] = CLIENT_GONE
        finally:
            # A generator that never began runs none of its own clean-up, so this must not be left to it.
            await self._events.aclose()
            await self._finish()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for data in self._events:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Keys:
    """The API keys that are accepted; without any, everybody is."""

    def __init__(self, keys: Sequence[str]) -> None:
        # Digests have one length, so that comparing tells nothing of a key's.
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def check(self, authorization: str | None) -> None:
        """Raise ApiError 401 unless *authorization* is ``Bearer`` and a known key."""
        if not self._digests:
            return
        scheme, _, given = (authorization or "").partition(" ")
        digest = hashlib.sha256(given.strip().encode()).digest()
        known = sum(hmac.compare_digest(digest, one) for one in self._digests)
        if scheme.lower() != "bearer" or not known:
            said = "Incorrect API key provided." if given else "You did not provide an API key."
            raise ApiError(401, f"{said} Send it as 'Authorization: Bearer KEY'.", code="invalid_api_key")


class GatewayMiddleware:
    """Outermost layer: request id, API key on /v1, limit of the body, and one log line without any content."""

    def __init__(self, app: ASGIApp, keys: Keys, max_body_bytes: int) -> None:
        self._app, self._keys, self._limit = app, keys, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        request = Request(scope)
        log: dict[str, Any] = {"status": 500}
        scope.setdefault("state", {})["log"] = log
        request_id = request.headers.get("x-request-id", "")[:128] or secrets.token_hex(8)

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                log["status"] = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode("latin-1"))]
            await send(message)

        try:
            path = scope["path"]
            if path.startswith("/v1/"):
                self._keys.check(request.headers.get("authorization"))
            await self._app(scope, self._limited(request, receive), stamped)
        except ApiError as error:
            await error_response(error)(scope, receive, stamped)
        finally:
            seconds = time.monotonic() - started
            level = logging.DEBUG if scope["path"].startswith(("/health", "/metrics")) else logging.INFO
            detail = " ".join(f"{key}={value}" for key, value in log.items())
            LOG.log(level, "%s %s %s %.3fs id=%s", scope["method"], path, detail, seconds, request_id)

    def _limited(self, request: Request, receive: Receive) -> Receive:
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._limit:
            raise ApiError(413, f"The request has {length} bytes; at most {self._limit} are taken.")
        got = 0

        async def limited() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self._limit:
                raise HTTPException(413, f"The request is larger than {self._limit} bytes.")
            return message

        return limited


def error_response(error: ApiError) -> JSONResponse:
    """Return *error* in OpenAI's shape."""
    return JSONResponse(error.body(), error.status, headers=error.headers())
