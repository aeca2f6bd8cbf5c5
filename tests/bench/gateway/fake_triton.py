# SPDX-License-Identifier: GPL-3.0-or-later
"""A Triton that answers at once: the generate extension of one decoupled model as a bare ASGI application."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

PACE = float(os.environ.get("BENCH_PACE", "0"))  # seconds between the tokens of a stream
INPUTS = (
    ("text_input", "max_tokens", "stop_words", "bad_words", "exclude_input_in_output", "end_id", "pad_id", "top_k")
    + ("top_p", "temperature", "repetition_penalty", "seed", "min_tokens", "presence_penalty", "frequency_penalty")
    + ("return_num_input_tokens", "return_num_output_tokens", "stream")
)
OUTPUTS = ("text_output", "num_input_tokens", "num_output_tokens")
CONFIG = {
    "name": "tensorrt_llm_bls",
    "input": [{"name": name} for name in INPUTS],
    "output": [{"name": name} for name in OUTPUTS],
    "model_transaction_policy": {"decoupled": True},
    "parameters": {"accumulate_tokens": {"string_value": "false"}},
}
PREPROCESSING = {"name": "preprocessing", "input": [{"name": "QUERY"}], "output": []}


def response(text: str, tokens: int) -> bytes:
    """One of Triton's responses, with the further keys that a real one has."""
    return json.dumps(
        {
            "batch_index": 0, "model_name": "tensorrt_llm_bls", "model_version": "1", "num_input_tokens": 6,
            "num_output_tokens": tokens, "sequence_end": False, "sequence_id": 0, "sequence_index": 0,
            "text_output": text,
        }
    ).encode()  # fmt: skip


EVENT = b"data: " + response(" word", 1) + b"\n\n"


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return None
    path = scope["path"]
    if path.endswith("/config"):
        known = {"tensorrt_llm_bls": CONFIG, "preprocessing": PREPROCESSING}.get(path.split("/")[3])
        return await _json(send, json.dumps(known or {"error": "unknown model"}).encode(), 200 if known else 400)
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    asked = json.loads(body)
    count = asked["max_tokens"] if "max_tokens" in asked else asked["parameters"]["max_tokens"]  # as LiteLLM sends it
    if path.endswith("/generate"):
        return await _json(send, response(" word" * count, count))
    kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": kind})
    if not asked.get("stream"):
        event = b"data: " + response(" word" * count, count) + b"\n\n"
        await send({"type": "http.response.body", "body": event, "more_body": True})
        count = 0
    for _ in range(count):
        if PACE:
            await asyncio.sleep(PACE)
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
    return await send({"type": "http.response.body", "body": b""})


async def _json(send: Any, body: bytes, status: int = 200) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
