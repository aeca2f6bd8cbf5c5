# SPDX-License-Identifier: GPL-3.0-or-later
"""A chat completion with the official ``openai`` client, whole and streamed: ``chat.py URL MODEL [QUESTION]``."""

from __future__ import annotations

import sys
from typing import Any

from openai import OpenAI, OpenAIError

QUESTION = "What is machine learning?"


def main() -> int:
    if len(sys.argv) < 3:
        print(
            "chat: give the gateway's URL and the model: chat.py http://HOST:3000/v1 MODEL [QUESTION]", file=sys.stderr
        )
        return 2
    base_url, model = sys.argv[1:3]
    question = " ".join(sys.argv[3:]) or QUESTION
    client: Any = OpenAI(base_url=base_url, api_key="none", timeout=60, max_retries=2)
    messages = [{"role": "user", "content": question}]
    try:
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=48, temperature=0)
        pieces = [
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(
                model=model, messages=messages, max_tokens=48, temperature=0, stream=True
            )
            if chunk.choices
        ]
    except OpenAIError as error:
        print(f"chat: {base_url} did not answer: {error}", file=sys.stderr)
        return 1
    text = answer.choices[0].message.content
    usage = answer.usage
    print(f"\n  you:        {question}\n  {model}: {text}")
    if usage:
        print(
            f"  usage:      {usage.prompt_tokens} + {usage.completion_tokens} tokens, {answer.choices[0].finish_reason}"
        )
    print(f"  streamed:   {len(pieces)} pieces, {'the same text' if ''.join(pieces) == text else 'ANOTHER TEXT'}\n")
    return 0 if text and "".join(pieces) == text else 1


if __name__ == "__main__":
    sys.exit(main())
