# SPDX-License-Identifier: GPL-3.0-or-later
"""Triton's HTTP endpoints that the gateway uses, with their traps."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import httpx

from openai_gateway.errors import ApiError
from openai_gateway.interface import Interface, describe, steps_of

# A decoupled model that answers /generate more than once, if only by an empty last response.
SEVERAL_RESPONSES = "expects model to produce exactly 1 response"

# Triton says 400 for nearly everything. These words mean that the request itself is at fault; all else is
# the server's fault and becomes 502, which clients may try again.
CLIENT_FAULT = re.compile(
    r"prompt length|input length|exceeds maximum|maximum input|max_tokens must|max_seq_len|max_input_len"
    r"|total sequence length|beam.?width|must be (in|between|positive|greater|>)|invalid (temperature|top_[kp])"
    r"|out of range|too long",
    re.IGNORECASE,
)


class Unreachable(Exception):
    """No answer from a replica. ``begun``: it had taken the request, so that trying again may do it twice."""

    def __init__(self, message: str, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


class SeveralResponses(Exception):
    """The model must be asked by generate_stream."""


class TritonClient:
    """The generate extension of one Triton server."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url

    async def interface(self, entry_model: str, release: str) -> Interface:
        """GenerateRequest how *entry_model* declared itself, and the models it calls."""
        entry = await self._config(entry_model)
        if entry is None:
            raise ApiError(503, f"Triton at {self._url} has no model '{entry_model}'.", retry_after=5)
        called = {name: await self._config(name) for name in steps_of(entry)}
        return describe(release, entry, called)

    async def generate(self, model: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return the one response of *model*.

        Raises Unreachable, ApiError with Triton's words, or SeveralResponses.
        """
        try:
            answer = await self._http.post(f"{self._url}/v2/models/{model}/generate", json=payload)
        except httpx.HTTPError as error:
            raise _unreachable(error, self._url) from None
        return _response(answer.status_code, answer.content)

    async def generate_stream(self, model: str, payload: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the responses of *model* as they come; closing the iterator cancels the request in Triton."""
        url = f"{self._url}/v2/models/{model}/generate_stream"
        try:
            async with self._http.stream("POST", url, json=payload) as answer:
                if answer.status_code != 200:
                    _response(answer.status_code, await answer.aread())
                async for event in _events(answer.aiter_bytes()):
                    yield _response(200, event)
        except httpx.HTTPError as error:
            raise _unreachable(error, self._url) from None

    async def _config(self, model: str) -> dict[str, Any] | None:
        try:
            answer = await self._http.get(f"{self._url}/v2/models/{model}/config", timeout=10.0)
        except httpx.HTTPError as error:
            raise Unreachable(f"{self._url}: {error or type(error).__name__}", False) from None
        if answer.status_code != 200:
            return None
        value = answer.json()
        return value if isinstance(value, dict) else None


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Split a stream of server-sent events into their data.

    Lines end at "\\n" alone: Triton does not escape U+2028 and the like inside its JSON, so that a splitter for
    text lines would break a response in two.
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if data := _data(line):
                yield data
    if data := _data(rest):
        yield data


def _data(line: bytes) -> bytes:
    """Return a line's data; an error may stand there as bare JSON."""
    line = line.strip()
    return line[5:].strip() if line.startswith(b"data:") else line if line.startswith(b"{") else b""


def _response(status: int, body: bytes) -> dict[str, Any]:
    """Return Triton's response, or raise what it really means: an error may come with status 200."""
    try:
        value = json.loads(body.decode("utf-8", "replace"))
    except ValueError:
        value = None
    message = value.get("error") if isinstance(value, dict) else None
    if message is not None:
        raise _refusal(str(message))
    if status != 200 or not isinstance(value, dict):
        words = body.decode("utf-8", "replace").strip()[:500]
        raise ApiError(502, f"Triton answered {status}: {words or 'nothing'}", code="upstream_error")
    return value


def _refusal(message: str) -> Exception:
    if SEVERAL_RESPONSES in message:
        return SeveralResponses(message)
    if CLIENT_FAULT.search(message):
        return ApiError(400, message)
    if re.search(r"is not ready|unknown model|not found|unavailable", message, re.IGNORECASE):
        return ApiError(503, f"Triton: {message}", code="model_not_ready", retry_after=5)
    return ApiError(502, f"Triton: {message}", code="upstream_error")


def _unreachable(error: httpx.HTTPError, url: str) -> Exception:
    begun = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
    if isinstance(error, httpx.ReadTimeout):
        return ApiError(504, f"Triton at {url} said nothing for too long.", code="upstream_timeout")
    words = str(error) or type(error).__name__
    return Unreachable(f"{url}: {words}", begun)
