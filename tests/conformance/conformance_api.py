# SPDX-License-Identifier: GPL-3.0-or-later
"""The server under test through the official clients and through plain HTTP, and what checks have in common."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import openai


@dataclass
class Stream:
    """What a stream of chunks amounts to."""

    chunks: list[Any]

    @property
    def choices(self) -> list[Any]:
        return [choice for chunk in self.chunks for choice in chunk.choices]

    def text(self, index: int = 0) -> str:
        parts = [c.delta.content if hasattr(c, "delta") else c.text for c in self.choices if c.index == index]
        return "".join(part or "" for part in parts)

    @property
    def reasons(self) -> list[str]:
        return [choice.finish_reason for choice in self.choices if choice.finish_reason]

    @property
    def usage(self) -> Any:
        return next((chunk.usage for chunk in reversed(self.chunks) if chunk.usage), None)


class Api:
    """The server through its clients, with the question that all checks ask."""

    def __init__(self, url: str, model: str, key: str, question: str, patience: float) -> None:
        """*patience*: seconds in which the server must have said something."""
        self.url, self.model, self.key, self.question = url.rstrip("/"), model, key, question
        given: dict[str, Any] = {"api_key": key, "max_retries": 0, "timeout": patience}
        self.options = {"base_url": f"{self.url}/v1", **given}
        self.openai = openai.OpenAI(**self.options)
        self.claude = anthropic.Anthropic(base_url=self.url, **given)
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=patience)

    @property
    def messages(self) -> list[Any]:
        return [{"role": "user", "content": self.question}]

    def chat_body(self, **more: Any) -> dict[str, Any]:
        return {"model": self.model, "messages": self.messages, "temperature": 0, "max_tokens": 8, **more}

    def text_body(self, **more: Any) -> dict[str, Any]:
        return {"model": self.model, "prompt": self.question, "temperature": 0, "max_tokens": 8, **more}

    def chat(self, **more: Any) -> Any:
        return self.openai.chat.completions.create(**self.chat_body(**more))

    def text(self, **more: Any) -> Any:
        return self.openai.completions.create(**self.text_body(**more))

    def chat_stream(self, **more: Any) -> Stream:
        return Stream(list(self.chat(stream=True, **more)))

    def text_stream(self, **more: Any) -> Stream:
        return Stream(list(self.text(stream=True, **more)))

    def asynchronous(self, work: Callable[[openai.AsyncOpenAI], Awaitable[Any]]) -> Any:
        """Run *work* with the asynchronous client."""

        async def run() -> Any:
            async with openai.AsyncOpenAI(**self.options) as client:
                return await work(client)

        return asyncio.run(run())

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        """A request as bytes of JSON, so that what no client would send can be sent."""
        content = body if isinstance(body, (bytes, str)) else json.dumps(body)
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        return self.http.post(path, content=content, headers=headers, **more)

    def close(self) -> None:
        self.openai.close()
        self.claude.close()
        self.http.close()


def refused(response: httpx.Response, status: int = 400, param: str | None = None) -> dict[str, Any]:
    """Check that *response* is OpenAI's error object, and return that."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/json")
    error = response.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    if param is not None:
        assert error["param"] == param, error
    return dict(error)
