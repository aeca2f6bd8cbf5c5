# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica that is trtllm-serve: completions of OpenAI's API in the place of Triton's generate extension.

Chat templates, tools and limits are the gateway's for every replica, so that such a server is sent the finished
prompt, and what it answers looks here as Triton's responses do. What a replica is, is found out by asking it: it may be
the one today and the other tomorrow.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from pydantic_core import from_json

from openai_gateway.errors import ApiError
from openai_gateway.http_client import HttpClient, HttpError, Silence
from openai_gateway.interface import Interface, release_row
from openai_gateway.llmapi import SIGN, LlmApiClient
from openai_gateway.triton import CONFIG_TIMEOUT, ENCODE, EVENT, TritonClient, refusal, unreachable

# Triton's inputs that a completion has too, and what it calls them. It refuses a request with a name that it does not
# know. Its own end tokens it knows, and cuts off special tokens itself.
NAMES = {
    "text_input": "prompt",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "min_tokens": "min_tokens",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "length_penalty": "length_penalty",
    "stop_words": "stop",
}
COUNTS = ("num_input_tokens", "num_output_tokens")
INPUTS = frozenset({*NAMES, "stream", *(f"return_{name}" for name in COUNTS)})
OUTPUTS = frozenset({"text_output", *COUNTS})
# The first release whose server is known; it does not say which one it is.
RELEASE = "1.0.0"
USAGE = {"include_usage": True, "continuous_usage_stats": True}


def interface_of(model: str) -> Interface:
    """How to speak to trtllm-serve, which calls its one model *model*."""
    return Interface(
        row=release_row(RELEASE), inputs=INPUTS, outputs=OUTPUTS, decoupled=True, cumulative=False,
        adds_special_tokens=True, completions=model,
    )  # fmt: skip


async def look_at(http: HttpClient, url: str, entry_model: str, release: str, name: str) -> Interface:
    """How the server at *url* is spoken to: it is Triton with *entry_model* of *release*, or with the model of the LLM
    API, or trtllm-serve. One that stands before servers of two kinds does not tell its model, which is then *name*.

    Raises ApiError or Unreachable.
    """
    triton = LlmApiClient(http, url)
    try:
        found = await triton.interface(entry_model, release)
        return (SIGN in found.inputs and await triton.llmapi()) or found
    except ApiError as error:
        if error.code != "model_not_ready":
            raise
        if other := await triton.llmapi():
            return other
        model = await CompletionsClient(http, url).model(name)
        if model is None:
            raise
        return interface_of(model)


def client_of(http: HttpClient, url: str, interface: Interface | None) -> TritonClient:
    """Who speaks to the server at *url*."""
    if interface and interface.completions:
        return CompletionsClient(http, url, interface.completions)
    return LlmApiClient(http, url) if interface and interface.llmapi else TritonClient(http, url)


class CompletionsClient(TritonClient):
    """The completions of one trtllm-serve, as Triton's responses."""

    def __init__(self, http: HttpClient, url: str, model: str | None = None) -> None:
        super().__init__(http, url)
        self._model = model

    async def model(self, name: str) -> str | None:
        """The name of the model that it serves; None where it is no such server, or not ready.

        One that stands before others has no list of models, but says its version; it hands on whatever *name*.
        """
        try:
            async with asyncio.timeout(CONFIG_TIMEOUT + self._http.connect_timeout):
                models = await self._told("/v1/models")
                if models is None:
                    return name if "version" in (await self._told("/version") or {}) else None
            return str(models["data"][0]["id"])
        except HttpError as error:
            raise unreachable(error, self._url) from None
        except TimeoutError:
            raise unreachable(Silence(), self._url) from None
        except (ValueError, TypeError, KeyError, IndexError):
            return None

    async def _told(self, path: str) -> Any:
        """What a page says; None where there is none."""
        answer = await self._send("GET", path)
        try:
            return json.loads(await answer.read()) if answer.status == 200 else None
        finally:
            answer.release()

    async def generate(
        self, model: str, payload: Mapping[str, Any], *, stream: bool, headers: Mapping[str, str]
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        """See TritonClient; always a stream, whose end tells the server that nobody waits any more."""
        body = {NAMES[name]: value for name, value in payload.items() if name in NAMES}
        body |= {"model": self._model, "stream": True, "stream_options": USAGE}
        answer = await self._send("POST", "/v1/completions", ENCODE(body).encode(), headers)
        written = 0
        try:
            if answer.status != 200:
                raise _refused(answer.status, await answer.read())
            rest, ended = b"", False
            while chunk := await answer.more():
                *lines, rest = (rest + chunk).split(b"\n")
                batch = []
                for response in _responses(lines):
                    if response is None:
                        ended = True
                        continue
                    written, found = _as_triton(response, written)
                    batch.append(found)
                if batch:
                    yield batch
            if not ended:
                # What fails in the middle of an answer only ends it, without a word.
                raise ApiError(502, "trtllm-serve broke the answer off.", code="upstream_error")
        except HttpError as error:
            raise unreachable(error, self._url) from None
        finally:
            answer.release()


def _responses(lines: list[bytes]) -> Iterator[dict[str, Any] | None]:
    """The chunks in *lines* of server-sent events, and None for the end of the answer."""
    for line in lines:
        if not line.startswith(EVENT):
            continue
        data = line[len(EVENT) :].strip()
        if data == b"[DONE]":
            yield None
            continue
        try:
            value = from_json(data)
        except ValueError:
            value = None
        if not isinstance(value, dict) or "choices" not in value:
            raise _refused(200, data)
        yield value


def _as_triton(chunk: Mapping[str, Any], written: int) -> tuple[int, dict[str, Any]]:
    """The tokens written so far, and what Triton would have sent in the place of *chunk*."""
    found: dict[str, Any] = {"text_output": "".join(str(choice.get("text") or "") for choice in chunk["choices"])}
    if usage := chunk.get("usage"):
        now = int(usage.get("completion_tokens") or 0)
        found["num_input_tokens"] = int(usage.get("prompt_tokens") or 0)
        found["num_output_tokens"] = max(0, now - written)
        written = max(now, written)
    return written, found


def _refused(status: int, body: bytes) -> ApiError:
    """What an answer that is no completion means. trtllm-serve says 400 for what is wrong inside it, too."""
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    message = value.get("message") or value.get("detail") or value.get("error") if isinstance(value, dict) else None
    if message is None:
        return ApiError(
            502, f"trtllm-serve answered {status} with {len(body)} bytes that are no completion.", code="upstream_error"
        )
    if status == 503:
        return ApiError(503, f"trtllm-serve: {message}", code="model_not_ready", retry_after=5)
    return refusal(status, str(message), "trtllm-serve")
