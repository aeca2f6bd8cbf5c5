# SPDX-License-Identifier: GPL-3.0-or-later
"""Triton's HTTP endpoints that the gateway uses, with their traps."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from pydantic_core import from_json

from openai_gateway.errors import ApiError
from openai_gateway.http_client import Connection, ConnectTimeout, Disconnected, HttpClient, HttpError, Silence
from openai_gateway.interface import Interface, describe, steps_of

ENCODE = json.JSONEncoder(separators=(",", ":")).encode
EVENT = b"data: "  # what a line of server-sent events begins with
CONFIG_TIMEOUT = 10.0  # seconds
# A timer that fires this late tells of a busy gateway, not of a dead replica.
LATE = 0.1

# Triton says 400 for nearly everything, so its words decide. The first row that matches counts.
FAULTS: tuple[tuple[re.Pattern[str], int, str], ...] = tuple(
    (re.compile(words, re.IGNORECASE), status, code)
    for words, status, code in (
        # The client's own words follow, which may sound like anything.
        (r"guided_decoding_guide(_type)? is ", 400, ""),
        # Too much work at once: another replica, or the same one later.
        (r"maximum queue size|queue is full|request timeout expired|too many requests", 503, "overloaded"),
        # Broken for everybody.
        (
            r"stub process|not healthy|executor failed|\bcuda\b|out of memory|assertion failed|shared memory"
            r"|internal error|unload",
            502,
            "upstream_error",
        ),
        (r"is not ready|unknown model|not found|unavailable", 503, "model_not_ready"),
        # The request itself.
        (
            r"prompt length|input length|exceeds maximum|maximum input|max_tokens must|max_seq_len|max_input_len"
            r"|total sequence length|beam.?width|must be (in|between|positive|greater|>)|invalid (temperature|top_[kp])"
            r"|out of range|too long|sampling config|guided|unable to parse|failed to parse|not implemented in this",
            400,
            "",
        ),
    )
)
RETRY_AFTER = {"overloaded": 1, "model_not_ready": 5}


class Unreachable(Exception):
    """No answer from a replica."""


class TritonClient:
    """The generate extension of one Triton server."""

    def __init__(self, http: HttpClient, url: str) -> None:
        self._http = http
        self._url = url

    async def interface(self, entry_model: str, release: str) -> Interface:
        """Ask how *entry_model* declared itself, and the models it calls."""
        entry = await self._config(entry_model)
        if entry is None:
            raise ApiError(503, f"Triton has no model '{entry_model}'.", code="model_not_ready", retry_after=5)
        called = {name: await self._config(name) for name in steps_of(entry)}
        return describe(release, entry, called)

    async def generate(
        self, model: str, payload: Mapping[str, Any], *, stream: bool, headers: Mapping[str, str]
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Yield the responses of *model* as they come, together those that come together.

        *stream*: ask by generate_stream, which is for decoupled models; *headers*: further ones of the request. Closing
        the iterator closes the connection, which is how Triton learns that nobody waits any more; without *stream* it
        does not notice. Raises Unreachable, or ApiError with Triton's words.
        """
        path = f"/v2/models/{quote(model)}/generate{'_stream' if stream else ''}"
        answer = await self._send("POST", path, ENCODE(payload).encode(), headers)
        try:
            if answer.status != 200 or not stream:
                said = await answer.read()
                # A stream that begins with an error has its status, but is an event all the same.
                yield [_response(answer.status, _data(said) or said)]
                return
            rest = b""
            # Lines end at "\n" alone: Triton does not escape U+2028 and the like inside its JSON, so that a splitter
            # for text lines would break a response in two.
            while chunk := await answer.more():
                *lines, rest = (rest + chunk).split(b"\n")
                for batch in _batches(lines):
                    yield batch
            for batch in _batches([rest]):
                yield batch
        except HttpError as error:
            raise unreachable(error, self._url) from None
        finally:
            answer.release()

    async def _config(self, model: str) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(CONFIG_TIMEOUT + self._http.connect_timeout):
                answer = await self._send("GET", f"/v2/models/{quote(model)}/config")
                try:
                    value = json.loads(await answer.read()) if answer.status == 200 else None
                finally:
                    answer.release()
        except HttpError as error:
            raise unreachable(error, self._url) from None
        except TimeoutError:
            raise unreachable(Silence(), self._url) from None
        except ValueError:
            raise Unreachable(f"{self._url}: the configuration of {model} is not JSON") from None
        return value if isinstance(value, dict) else None

    async def _send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Connection:
        """Send a request; once more where its first attempt says nothing of the replica.

        That is where a connection was kept for longer than the replica wanted, and where this process was too busy to
        see in time that a connection had been made.
        """
        begin = time.monotonic()
        try:
            return await self._http.request(method, self._url, path, body, headers)
        except ConnectTimeout as error:
            if time.monotonic() - begin < self._http.connect_timeout + LATE:
                raise unreachable(error, self._url) from None
        except Disconnected:
            pass  # it was closed meanwhile
        except HttpError as error:
            raise unreachable(error, self._url) from None
        try:
            return await self._http.request(method, self._url, path, body, headers)
        except HttpError as error:
            raise unreachable(error, self._url) from None


def _batches(lines: list[bytes]) -> Iterator[list[dict[str, Any]]]:
    """Yield the responses in *lines* of server-sent events together; an error is raised after what stands before it."""
    batch: list[dict[str, Any]] = []
    try:
        for line in lines:
            # Nearly all lines are such, or the empty ones between them.
            if data := line[len(EVENT) :] if line.startswith(EVENT) else line and _data(line):
                batch.append(_response(200, data))
    except ApiError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _data(line: bytes) -> bytes:
    """A line's data; an error may stand there as bare JSON."""
    line = line.strip()
    return line[5:].strip() if line.startswith(b"data:") else line if line.startswith(b"{") else b""


def _response(status: int, body: bytes) -> dict[str, Any]:
    """Triton's response, or raise what it really means: an error may come with status 200."""
    try:
        value = from_json(body)
    except ValueError:
        value = _lenient(body)
    if status == 200 and type(value) is dict and "error" not in value:
        return value
    message = value.get("error") if isinstance(value, dict) else None
    if message is not None:
        raise refusal(status, str(message))
    if status != 200 or not isinstance(value, dict):
        # Not its words: they may be somebody's text, and errors are logged.
        raise ApiError(
            502, f"Triton answered {status} with {len(body)} bytes that are no response.", code="upstream_error"
        )
    return value


def _lenient(body: bytes) -> Any:
    """Read what may hold half a character of UTF-8 or of UTF-16; None if it is no JSON all the same."""
    try:
        value = json.loads(body.decode("utf-8", "replace"))
    except ValueError:
        return None
    return json.loads(json.dumps(value).encode("utf-8", "replace")) if value is not None else None


def refusal(status: int, message: str, server: str = "Triton") -> ApiError:
    """What the *message* of *server* means for the client, and in its code what it means for the replica."""
    for words, meant, code in FAULTS:
        if words.search(message):
            said = message if meant == 400 else f"{server}: {message}"
            return ApiError(meant, said, code=code or None, retry_after=RETRY_AFTER.get(code))
    # A 4xx that nobody knows is no proof against the replica; another one may still serve it.
    return ApiError(502, f"{server}: {message}", code="upstream_refusal" if 400 <= status < 500 else "upstream_error")


def unreachable(error: HttpError, url: str) -> Exception:
    """What it means that a request got no answer."""
    if isinstance(error, Silence):
        return ApiError(504, "Triton said nothing for too long.", code="upstream_timeout")
    return Unreachable(f"{url}: {error}")
