# SPDX-License-Identifier: GPL-3.0-or-later
"""Chat through a gateway with OpenAI's client: chat.py URL MODEL [NAME=NUMBER]. The key comes in OPENAI_API_KEY.

With NAME=NUMBER the status of a request with this parameter is told, too.
"""

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


def status(words: str) -> int:
    """The status of a request with a further parameter."""
    name, _, number = words.partition("=")
    try:
        client.chat.completions.create(messages=messages, **{**asked, name: int(number)})
    except openai.APIStatusError as error:
        return error.status_code
    return 200


print(
    json.dumps(
        {
            "whole": whole.choices[0].message.content,
            "streamed": pieces,
            "completion": completion.choices[0].text,
            "statuses": [status(words) for words in sys.argv[3:]],
            "usage": whole.usage.total_tokens if whole.usage else None,
        }
    )
)
