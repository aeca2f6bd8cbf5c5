# SPDX-License-Identifier: GPL-3.0-or-later
"""Chat through a gateway with OpenAI's client: chat.py URL MODEL. The key comes in OPENAI_API_KEY."""

import json
import sys
from typing import Any

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", max_retries=0, timeout=60)
asked: dict[str, Any] = {"model": sys.argv[2], "max_tokens": 12, "temperature": 0.0, "stop": ["\n\n"]}
messages: Any = [{"role": "user", "content": "What is machine learning?"}]
whole = client.chat.completions.create(messages=messages, **asked)
chunks = list(client.chat.completions.create(messages=messages, stream=True, **asked))
pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
completion = client.completions.create(prompt="What is machine learning?", **asked)


def status(**more: Any) -> int:
    """The status of a request with *more*."""
    try:
        client.chat.completions.create(messages=messages, **{**asked, **more})
    except openai.APIStatusError as error:
        return error.status_code
    return 200


print(
    json.dumps(
        {
            "whole": whole.choices[0].message.content,
            "streamed": pieces,
            "completion": completion.choices[0].text,
            "seed": status(seed=7),
            "usage": whole.usage.total_tokens if whole.usage else None,
        }
    )
)
