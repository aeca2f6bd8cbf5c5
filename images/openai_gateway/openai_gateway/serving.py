# SPDX-License-Identifier: GPL-3.0-or-later
"""ASGI pieces: a stream that ends when its client goes, keys, request ids, limits of size, one log line."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openai_gateway.anthropic_messages import error_body
from openai_gateway.clients import ANYBODY, Clients
from openai_gateway.errors import ApiError, invalid_body

LOG = logging.getLogger("openai_gateway")
Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
INTERNAL = ApiError(500, "Internal error; the gateway's log says which.")
CLIENT_GONE = 499  # nobody reads it; it is for the log and the counters
TRACE_HEADERS = (b"traceparent", b"tracestate")  # W3C's trace context
WANTED_HEADERS = {b"authorization", b"x-api-key", b"x-request-id", *TRACE_HEADERS}
PLAIN = re.compile(r"[\w.:/+-]{1,128}", re.ASCII)  # what may stand in the log as it is


class ClientGone(Exception):
    """The client closed its connection before the answer was complete."""


class Connection(Protocol):
    """What the server knows of a client's connection; a request has it as ``connection`` in its state."""

    @property
    def lost(self) -> bool:
        """Whether the client has gone."""

    def watch(self, gone: Callable[[], None]) -> None:
        """Have *gone* called when the connection is lost."""

    def unwatch(self, gone: Callable[[], None]) -> None:
        """Have it called no more."""


class WhileConnected:
    """Cancels the block when the client goes away; ClientGone is raised in its place."""

    def __init__(self, scope: Scope) -> None:
        # ASGI has a client watched by a task that receives, which costs as much as a tenth of a short answer.
        self._connection: Connection | None = scope["state"].get("connection")
        self._gone = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        if self._connection is not None:
            # Whether the client sent its request and went is seen meanwhile. Triton notices that only as it writes, so
            # such a request had better not reach it.
            await asyncio.sleep(0)
            if self._connection.lost:
                raise ClientGone
            self._connection.watch(self._leave)

    def _leave(self) -> None:
        self._gone = True
        assert self._task is not None
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.unwatch(self._leave)
        if self._gone and kind is asyncio.CancelledError:
            assert self._task is not None
            if not self._task.uncancel():  # nobody else wants it to end
                raise ClientGone from None


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of *work*, done at once; the first failure ends all of it."""
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Failure(NamedTuple):
    """What ended a source."""

    error: Exception


async def merged(sources: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Yield what *sources* yield, as it comes, with the number of the source; the first failure ends all of them."""
    if len(sources) == 1:
        async with aclosing(sources[0]) as only:
            async for one in only:
                yield 0, one
        return
    queue: asyncio.Queue[tuple[int, T | Failure | None]] = asyncio.Queue(maxsize=1)

    async def pump(number: int, source: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    await queue.put((number, item))
            await queue.put((number, None))
        except Exception as error:
            await queue.put((number, Failure(error)))

    tasks = [asyncio.create_task(pump(number, source)) for number, source in enumerate(sources)]
    try:
        running = len(sources)
        while running:
            number, item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, Failure):
                raise item.error
            else:
                yield number, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
            async with WhileConnected(scope):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for data in self._events:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (ClientGone, OSError):
            scope["state"]["log"]["status"] = CLIENT_GONE
        finally:
            # A generator that never began runs none of its own clean-up, so this must not be left to it.
            await self._events.aclose()
            await self._finish()


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body; raise 413 as soon as it is known to have more than *limit* bytes.

    It is put together as it comes: to copy a long one at its end keeps others waiting.
    """
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise ApiError(413, f"The request has {length} bytes; at most {limit} are taken.")
    body = io.BytesIO()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body.write(message.get("body", b""))
        if body.tell() > limit:
            raise ApiError(413, f"The request is larger than {limit} bytes.")
        if not message.get("more_body"):
            return body.getvalue()


async def parse_body(request: Request, kind: type[Body], limit: int) -> Body:
    """The request's body as *kind*, or raise OpenAI's 400."""
    body = await read_body(request, limit)
    try:
        # In two steps: in one, a long text where other kinds could stand too takes 30 times as long, and others wait.
        return kind.model_validate(from_json(body))
    except ValidationError as error:
        raise invalid_body(error) from None
    except ValueError as error:
        raise ApiError(400, f"The body of the request is not valid JSON: {error}.") from None


class GatewayMiddleware:
    """Outermost layer: request id, API key on /v1, and one log line without any content.

    It calls the handlers of POST itself: what FastAPI does for each request costs as much as a fourth of all else.
    """

    def __init__(
        self, app: ASGIApp, clients: Clients, handlers: Mapping[str, Handler], count: Callable[[str, str, int], None]
    ) -> None:
        """*handlers*: of POST by path; *app* has all else.

        *count* gets the model, the path and the status of requests that nobody else has counted.
        """
        self._app, self._clients, self._handlers, self._count = app, clients, handlers, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        headers = {name: value for name, value in scope["headers"] if name in WANTED_HEADERS}
        log: dict[str, Any] = {"status": 500}
        request_id = headers.get(b"x-request-id", b"").decode("latin-1")
        if not PLAIN.fullmatch(request_id):
            request_id = f"{random.getrandbits(64):016x}"
        trace = {name.decode(): headers[name].decode("latin-1") for name in TRACE_HEADERS if name in headers}
        scope.setdefault("state", {}).update(log=log, request_id=request_id, started=started, trace=trace)
        id_header = (b"x-request-id", request_id.encode())
        begun = False

        async def stamped(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                log["status"] = message["status"]
                limits = scope["state"]["account"].headers() if "account" in scope["state"] else []
                message["headers"] = [*message["headers"], id_header, *limits]
            await send(message)

        path = scope["path"]
        try:
            if path.startswith("/v1/") or path in self._handlers:
                given = (headers.get(name, b"").decode("latin-1") for name in (b"authorization", b"x-api-key"))
                account = self._clients.identify(*given)
                scope["state"]["account"] = account
                if account.client is not ANYBODY:
                    log["client"] = account.client.name
            handler = self._handlers.get(path)
            if handler is None:
                await self._app(scope, receive, stamped)
            elif scope["method"] != "POST":
                raise ApiError(405, "Method not allowed.", more_headers={"Allow": "POST"})
            else:
                response = await handler(Request(scope, receive))
                await response(scope, receive, stamped)
        except ApiError as error:
            await error_response(error, path)(scope, receive, stamped)
        except ClientGone:
            log["status"] = CLIENT_GONE
        except Exception:
            if path not in self._handlers:
                raise  # FastAPI has answered
            LOG.exception("request %s failed", request_id)
            if begun:
                raise  # the connection is closed
            await error_response(INTERNAL, path)(scope, receive, stamped)
        finally:
            seconds = time.monotonic() - started
            quiet = path.startswith(("/health", "/metrics"))
            if not quiet and not log.pop("counted", False):
                self._count(log.get("model", ""), path, log["status"])
            detail = " ".join(f"{key}={_plain(value)}" for key, value in log.items())
            LOG.log(
                logging.DEBUG if quiet else logging.INFO,
                "%s %s %s %.3fs id=%s", _plain(scope["method"]), _plain(path), detail, seconds, request_id,
            )  # fmt: skip


def _plain(value: Any) -> str:
    """*value* as one word of the log: quoted where it could pass for more."""
    text = str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text[:256])


def error_response(error: ApiError, path: str = "") -> Response:
    """*error* in the shape of the API that *path* belongs to, OpenAI's by default."""
    said = error_body(error) if path.startswith("/v1/messages") else error.body()
    body = json.dumps(said).encode()
    return Response(body, error.status, headers=error.headers(), media_type="application/json")
