# SPDX-License-Identifier: GPL-3.0-or-later
"""The least that a gateway can be: it renames fields and checks nothing. What ours is measured against."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

MODEL = f"{os.environ['BENCH_TRITON']}/v2/models/tensorrt_llm_bls"
app = FastAPI()
session: aiohttp.ClientSession | None = None


def choice(text: str, reason: str | None) -> dict[str, Any]:
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "choices": [{"index": 0, "text": text, "finish_reason": reason}],
    }


@app.post("/v1/completions")
async def completions(request: Request) -> Any:
    global session
    session = session or aiohttp.ClientSession()
    body = await request.json()
    asked = {"text_input": body["prompt"], "max_tokens": body["max_tokens"], "stream": bool(body.get("stream"))}
    if not asked["stream"]:
        async with session.post(f"{MODEL}/generate", json=asked) as answer:
            return JSONResponse(choice((await answer.json())["text_output"], "stop"))

    async def events() -> AsyncIterator[str]:
        assert session is not None
        async with session.post(f"{MODEL}/generate_stream", json=asked) as answer:
            async for line in answer.content:
                if line.startswith(b"data:"):
                    yield f"data: {json.dumps(choice(json.loads(line[5:])['text_output'], None))}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
