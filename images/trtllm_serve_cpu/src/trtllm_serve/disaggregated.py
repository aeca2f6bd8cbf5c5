# SPDX-License-Identifier: GPL-3.0-or-later
"""`trtllm-serve disaggregated`: the server before those that read prompts and those that write answers.

Each request is first one of a server of the first kind, which answers with the first token and what it knows of the
prompt; then it is one of a server of the second kind, whose answer the client gets. Servers of a kind take turns.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tensorrt_llm import __version__, progress
from tensorrt_llm.errors import TrtllmError

KINDS = ("context_servers", "generation_servers")
KEYS = ("hostname", "port", "max_retries", "perf_metrics_max_requests", "conditional_disagg_config", *KINDS)
ROUTERS = ("round_robin",)


@dataclass
class Front:
    """What the file says, and who is asked next."""

    hostname: str
    port: int
    urls: dict[str, list[str]]
    timeout: int
    turns: dict[str, Iterator[str]] = field(default_factory=dict)

    @staticmethod
    def read(path: str, timeout: int) -> Front:
        """The file. Raises TrtllmError."""
        try:
            said = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as e:
            raise TrtllmError(f"{path} cannot be read: {e}") from None
        unknown = [name for name in said if name not in KEYS]
        if unknown:
            raise TrtllmError(f"{unknown[0]} is handed down to both kinds upstream, which is not implemented here")
        urls = {}
        for kind in KINDS:
            servers = said.get(kind) or {}
            if (servers.get("router") or {}).get("type", "round_robin") not in ROUTERS:
                raise TrtllmError(f"{kind}.router is {servers['router']}; this image takes turns (round_robin)")
            urls[kind] = [str(url) for url in servers.get("urls") or []]
            if len(urls[kind]) != servers.get("num_instances", 1) or not urls[kind]:
                raise TrtllmError(f"{kind} has {len(urls[kind])} urls, expected {servers.get('num_instances', 1)}")
        front = Front(str(said.get("hostname", "localhost")), int(said.get("port", 8000)), urls, timeout)
        front.turns = {kind: itertools.cycle(found) for kind, found in urls.items()}
        return front

    def wait(self, seconds: int) -> None:
        """Until all servers answer. Raises TrtllmError where they do not in time."""
        until = time.monotonic() + seconds
        for url in itertools.chain(*self.urls.values()):
            while not _healthy(url):
                if time.monotonic() > until:
                    raise TrtllmError(f"the server {url} is not ready within {seconds} s")
                time.sleep(0.2)
        progress.log("I", "all servers are ready")

    def app(self) -> Starlette:
        """What uvicorn serves."""
        get, post = ["GET"], ["POST"]
        return Starlette(
            routes=[
                Route("/health", self._health, methods=get),
                Route("/version", self._version, methods=get),
                Route("/v1/completions", self._answer, methods=post),
                Route("/v1/chat/completions", self._answer, methods=post),
            ]
        )

    async def _health(self, _request: Request) -> Response:
        return Response(status_code=200)

    async def _version(self, _request: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def _answer(self, request: Request) -> Response:
        path, raw = request.url.path, await request.body()
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return JSONResponse({"detail": "the body is no JSON object"}, 400)
        params: dict[str, Any] = {"request_type": "context_only"}
        read = {**body, "disaggregated_params": params, "stream": False}
        read.pop("stream_options", None)
        try:
            status, answer = await asyncio.to_thread(self._ask, KINDS[0], path, read)
            if status != 200:
                return Response(answer, status, media_type="application/json")
            choice = json.loads(answer)["choices"][0]
            params = {**choice["disaggregated_params"], "request_type": "generation_only"}
            write = {**body, "disaggregated_params": params}
            if body.get("stream"):
                return await self._stream(path, write)
            status, answer = await asyncio.to_thread(self._ask, KINDS[1], path, write)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as e:
            return JSONResponse({"detail": f"Internal server error {e}"}, 500)
        return Response(answer, status, media_type="application/json")

    def _open(self, kind: str, path: str, body: Any) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(next(self.turns[kind]), timeout=self.timeout)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        return connection, connection.getresponse()

    def _ask(self, kind: str, path: str, body: Any) -> tuple[int, bytes]:
        connection, answer = self._open(kind, path, body)
        try:
            return answer.status, answer.read()
        finally:
            connection.close()

    async def _stream(self, path: str, body: Any) -> Response:
        connection, answer = await asyncio.to_thread(self._open, KINDS[1], path, body)
        if answer.status != 200:
            said = await asyncio.to_thread(answer.read)
            connection.close()
            return Response(said, answer.status, media_type="application/json")
        return StreamingResponse(_lines(connection, answer), media_type="text/event-stream")


async def _lines(connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> AsyncIterator[bytes]:
    """The lines of a stream as they come; who goes away ends it."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        try:
            for line in iter(answer.readline, b""):
                loop.call_soon_threadsafe(queue.put_nowait, line)
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            pass  # it was closed, or broke off: the stream only ends
        loop.call_soon_threadsafe(queue.put_nowait, b"")

    sock = connection.sock
    threading.Thread(target=read, daemon=True).start()
    try:
        while line := await queue.get():
            yield line
    finally:
        try:
            if sock is not None:
                sock.shutdown(2)
        except OSError:
            pass
        connection.close()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
