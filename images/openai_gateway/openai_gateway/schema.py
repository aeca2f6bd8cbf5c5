# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests as OpenAI's clients send them: what is understood, what is ignored, what is refused by name."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from openai_gateway.errors import ApiError, unsupported

RANDOM = random.Random()
MAX_STOPS = 16
INT32 = 2**31 - 1

# Parameters that change nothing in an answer: taken and left alone.
IGNORED = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "verbosity", "prediction",
}  # fmt: skip

# Parameters of OpenAI's API that this gateway cannot honour, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "suffix": ("",), "logit_bias": ({},),
    "logprobs": (False,), "top_logprobs": (0,), "tools": ([],), "tool_choice": ("none", "auto"),
    "functions": ([],), "function_call": ("none",), "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (),
    "reasoning_effort": ("none",), "web_search_options": (),
}  # fmt: skip

Limit = Annotated[int, Field(ge=1, le=INT32)]
Count = Annotated[int, Field(ge=0, le=INT32)]


class StreamOptions(BaseModel):
    """``stream_options``."""

    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationRequest(BaseModel):
    """What completions and chat completions have in common. null is "not given" everywhere."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: str
    max_tokens: Limit | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Beyond OpenAI's API, as other servers of open models have them.
    top_k: Annotated[int, Field(ge=-1, le=INT32)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    min_tokens: Count | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_list(cls, value: Any) -> Any:
        words = [value] if isinstance(value, str) else value
        if words is None:
            return None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("must be a text or a list of texts")
        if len(words) > MAX_STOPS:
            raise ValueError(f"has {len(words)} sequences; at most {MAX_STOPS} are taken")
        return [word for word in words if word]

    def check_extra(self) -> None:
        """Refuse what cannot be honoured, and what nobody knows."""
        for name, value in (self.model_extra or {}).items():
            if name in IGNORED or value is None:
                continue
            if name not in NEUTRAL:
                raise ApiError(
                    400,
                    f"Unrecognized request argument supplied: {name}",
                    param=name,
                    code="unknown_parameter",
                )
            # bool is an int in Python: 1 must not pass for True.
            if not any(type(value) is type(ok) and value == ok for ok in NEUTRAL[name]):
                raise unsupported(name)
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "'stream_options' is only allowed when 'stream' is true.", param="stream_options")

    def limit(self) -> tuple[int | None, str]:
        """Return the greatest number of tokens of the answer, and the parameter that says so."""
        return self.max_tokens, "max_tokens"

    def sampling(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return (what the client asked for, what goes along) as the names of Triton's newest inputs.

        TensorRT-LLM picks the likeliest token unless top_k or top_p say otherwise, and its seed is 0 unless
        one is given; OpenAI's default is temperature 1, top_p 1 and chance. So the gateway says all of it.
        """
        asked: dict[str, Any] = {}
        for name in ("presence_penalty", "frequency_penalty"):
            if value := getattr(self, name):
                asked[name] = float(value)
        if self.repetition_penalty is not None and self.repetition_penalty != 1:
            asked["repetition_penalty"] = self.repetition_penalty
        if self.min_tokens:
            asked["min_tokens"] = self.min_tokens
        if self.temperature == 0 or self.top_p == 0 or self.top_k == 1:
            return asked, {"top_k": 1}
        optional: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": RANDOM.getrandbits(63)}
        for name in ("temperature", "top_p", "top_k"):
            if (given := getattr(self, name)) is not None:
                asked[name] = max(given, 0)  # -1 is another way to say that top_k is off
        if self.seed is not None:
            asked["seed"] = self.seed % 2**64
        return asked, {name: value for name, value in optional.items() if name not in asked}


class CompletionRequest(GenerationRequest):
    """``POST /v1/completions``."""

    prompt: str

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_text(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
            return value[0]
        if not isinstance(value, str):
            raise ValueError("must be one text; token ids and several prompts at once are not supported")
        return value


class ChatRequest(GenerationRequest):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Limit | None = None

    @field_validator("messages")
    @classmethod
    def _plain_messages(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [_message(index, message) for index, message in enumerate(value)]

    def limit(self) -> tuple[int | None, str]:
        """max_completion_tokens is the newer name and wins."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens, "max_completion_tokens"
        return self.max_tokens, "max_tokens"


def _message(index: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return one message with its content as a single text, as chat templates expect it."""
    where = f"messages[{index}]"
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ApiError(400, f"'{where}.role' must be a text such as user or assistant.", param=f"{where}.role")
    for name in ("tool_calls", "function_call", "audio"):
        if message.get(name):
            raise unsupported(f"{where}.{name}")
    content = message.get("content")
    if content is None and isinstance(message.get("refusal"), str):
        content = message["refusal"]
    if isinstance(content, list):
        content = "\n".join(_part(f"{where}.content[{i}]", part) for i, part in enumerate(content))
    if not isinstance(content, str):
        raise ApiError(400, f"'{where}.content' must be a text or a list of text parts.", param=f"{where}.content")
    # "developer" is OpenAI's later word for the system's instructions; no template knows it.
    plain = {"role": "system" if role == "developer" else role, "content": content}
    if isinstance(message.get("name"), str):
        plain["name"] = message["name"]
    return plain


def _part(where: str, part: Any) -> str:
    # A refusal is a part of OpenAI's own answers, so it comes back in the history.
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(kind) if kind in ("text", "refusal") else None
    if not isinstance(text, str):
        raise ApiError(400, f"'{where}' must be a part of type text; others are not supported.", param=where)
    return text
