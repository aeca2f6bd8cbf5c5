# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests as OpenAI's clients send them: what is understood, what is ignored, what is refused by name."""

from __future__ import annotations

import json
import random
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from openai_gateway.errors import ApiError, unsupported
from openai_gateway.guides import Guide, StructuredOutputs, given, schema_guide

MAX_STOPS = 16
MAX_CHOICES = 128  # to one prompt
MAX_ANSWERS = 256  # to all prompts of a request
MAX_BIASED = 1024
INT32 = 2**31 - 1

# Parameters that change nothing in an answer: taken and left alone.
IGNORED = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "verbosity", "prediction",
}  # fmt: skip

# Parameters of OpenAI's API and of other servers that this gateway cannot honour, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "suffix": ("",), "functions": ([],), "function_call": ("none",), "modalities": (["text"],), "audio": (),
    "web_search_options": (), "skip_special_tokens": (True,), "spaces_between_special_tokens": (True, False),
    "use_beam_search": (False,), "prompt_logprobs": (),
}  # fmt: skip

Limit = Annotated[int, Field(ge=1, le=INT32)]
Count = Annotated[int, Field(ge=0, le=INT32)]
TokenId = Annotated[int, Field(ge=0, le=INT32)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]


class StreamOptions(BaseModel):
    """``stream_options``."""

    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchema(BaseModel):
    """``response_format.json_schema``."""

    model_config = ConfigDict(strict=True, extra="ignore")
    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(BaseModel):
    """``response_format``."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_is_there(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("of type json_schema needs 'json_schema' with 'name' and 'schema'")
        return self


class GenerationRequest(BaseModel):
    """What completions and chat completions have in common. null is "not given" everywhere."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: str
    max_tokens: Limit | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_BIASED)] | None = (
        None
    )
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    # Beyond OpenAI's API, as other servers of open models have them.
    top_k: Annotated[int, Field(ge=-1, le=INT32)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    length_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    min_tokens: Count | None = None
    ignore_eos: bool | None = None
    bad_words: list[str] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOPS)] | None = None
    include_stop_str_in_output: bool | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Field(min_length=1)] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None

    @field_validator("stop", "bad_words", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
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

    @property
    def choices(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0 or self.top_p == 0 or self.top_k == 1

    def limit(self) -> tuple[int | None, str]:
        """The greatest number of tokens of the answer, and the parameter that says so."""
        return self.max_tokens, "max_tokens"

    def sampling(self, choice: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
        """(what the client asked for, what goes along) as the names of Triton's newest inputs.

        TensorRT-LLM picks the likeliest token unless top_k or top_p say otherwise, and its seed is 0 unless
        one is given; OpenAI's default is temperature 1, top_p 1 and chance. So the gateway says all of it.
        *choice*: of several answers to one prompt each has its own seed.
        """
        asked: dict[str, Any] = {}
        for name, neutral in (("presence_penalty", 0), ("frequency_penalty", 0), ("min_p", 0), ("length_penalty", 1)):
            value = getattr(self, name)
            if value is not None and value != neutral:
                asked[name] = float(value)
        if self.repetition_penalty is not None and self.repetition_penalty != 1:
            asked["repetition_penalty"] = self.repetition_penalty
        if self.min_tokens:
            asked["min_tokens"] = self.min_tokens
        if self.bad_words:
            asked["bad_words"] = self.bad_words
        if self.ignore_eos:
            asked["end_id"] = -1
        if self.greedy:
            return asked, {"top_k": 1}
        optional: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": random.getrandbits(63)}
        for name in ("temperature", "top_p", "top_k"):
            if (given := getattr(self, name)) is not None:
                asked[name] = max(given, 0)  # -1 is another way to say that top_k is off
        if self.seed is not None:
            asked["seed"] = (self.seed + choice) % 2**64
        return asked, {name: value for name, value in optional.items() if name not in asked}

    def guide(self) -> Guide | None:
        """What the answer is bound to."""
        found: list[Guide] = []
        wanted = self.response_format
        if wanted and wanted.type == "json_object":
            found.append(Guide("json", "", "response_format"))
        if wanted and wanted.json_schema:
            found.append(schema_guide(wanted.json_schema.schema_, "response_format"))
        found += given(
            "guided_",
            json=self.guided_json,
            regex=self.guided_regex,
            choice=self.guided_choice,
            grammar=self.guided_grammar,
        )
        if self.structured_outputs is not None:
            found += self.structured_outputs.guides()
        if len(found) > 1:
            names = " and ".join(guide.param for guide in found)
            raise ApiError(400, f"Only one of {names} can bind an answer.", param=found[1].param)
        return found[0] if found else None


class CompletionRequest(GenerationRequest):
    """``POST /v1/completions``."""

    prompt: str | TokenIds | Annotated[list[str], Field(min_length=1)] | Annotated[list[TokenIds], Field(min_length=1)]
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each as a text or as its tokens."""
        given: Any = self.prompt
        return list(given) if isinstance(given, list) and not isinstance(given[0], int) else [given]

    def check_extra(self) -> None:
        """Refuse what does not go together."""
        super().check_extra()
        answers = len(self.prompts) * (self.best_of or self.choices)
        if answers > MAX_ANSWERS:
            message = f"The prompts ask for {answers} answers together; at most {MAX_ANSWERS} are given."
            raise ApiError(400, message, param="prompt")
        if self.best_of is not None and self.best_of < self.choices:
            raise ApiError(400, "'best_of' must be at least 'n'.", param="best_of")
        if self.best_of is not None and self.best_of > self.choices and self.stream:
            raise ApiError(400, "'best_of' above 'n' cannot be streamed.", param="best_of")
        if self.logprobs is not None and self.echo:
            raise unsupported("echo", "with 'logprobs' needs the prompt's own, which the engine does not return")
        check_top_logprobs(self.logprobs or 0, "logprobs", self.greedy)


class FunctionDefinition(BaseModel):
    """What a tool does."""

    model_config = ConfigDict(strict=True, extra="allow")
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    """One of ``tools``."""

    model_config = ConfigDict(strict=True, extra="allow")
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(BaseModel):
    """The function that a request insists on."""

    model_config = ConfigDict(strict=True, extra="ignore")
    name: str


class NamedTool(BaseModel):
    """``tool_choice`` that names a function."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["function"] = "function"
    function: NamedFunction


class ChatRequest(GenerationRequest):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Limit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    # Beyond OpenAI's API.
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @field_validator("messages")
    @classmethod
    def _plain_messages(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [plain_message(index, message) for index, message in enumerate(value)]

    def check_extra(self) -> None:
        """Refuse what does not go together."""
        super().check_extra()
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs")
        check_top_logprobs(self.top_logprobs or 0, "top_logprobs", self.greedy)
        if self.continue_final_message and self.add_generation_prompt:
            message = "'continue_final_message' and 'add_generation_prompt' exclude each other."
            raise ApiError(400, message, param="continue_final_message")
        if self.tool_choice is not None and self.tool_choice != "none" and not self.tools:
            raise ApiError(400, "'tool_choice' is only allowed when 'tools' are given.", param="tool_choice")
        names = [tool.function.name for tool in self.tools or ()]
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            message = f"The function '{self.tool_choice.function.name}' of 'tool_choice' is none of the 'tools'."
            raise ApiError(400, message, param="tool_choice")

    def limit(self) -> tuple[int | None, str]:
        """max_completion_tokens is the newer name and wins."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens, "max_completion_tokens"
        return self.max_tokens, "max_tokens"


class TokenizeRequest(BaseModel):
    """``POST /tokenize``: a text, or a conversation as the chat template makes a prompt of it."""

    model_config = ConfigDict(strict=True, extra="ignore")
    model: str
    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool | None = None
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("needs either 'prompt' or 'messages'")
        return self

    def chat(self) -> ChatRequest:
        """The conversation."""
        names = ("model", "messages", "tools", "chat_template_kwargs")
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.continue_final_message:
            given["continue_final_message"] = True
        else:
            given["add_generation_prompt"] = self.add_generation_prompt
        return ChatRequest.model_validate(given)


class DetokenizeRequest(BaseModel):
    """``POST /detokenize``."""

    model_config = ConfigDict(strict=True, extra="ignore")
    model: str
    tokens: list[TokenId]


def check_top_logprobs(wanted: int, param: str, greedy: bool) -> None:
    """Refuse alternatives to the token that was taken: the entry models return only its own probability."""
    if wanted > 1 or (wanted == 1 and not greedy):
        raise unsupported(
            param, f"of {wanted} needs the probabilities of tokens that were not taken, which Triton's entry models do "
            "not return; only 0, and 1 with temperature 0, can be answered"
        )  # fmt: skip


def plain_message(index: int, message: dict[str, Any]) -> dict[str, Any]:
    """One message with its content as a single text, as chat templates expect it."""
    where = f"messages[{index}]"
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ApiError(400, f"'{where}.role' must be a text such as user or assistant.", param=f"{where}.role")
    for name in ("function_call", "audio"):
        if message.get(name):
            raise unsupported(f"{where}.{name}")
    content = message.get("content")
    calls = message.get("tool_calls")
    if content is None and isinstance(message.get("refusal"), str):
        content = message["refusal"]
    if content is None and calls:
        content = ""
    if isinstance(content, list):
        content = "\n".join(_part(f"{where}.content[{i}]", part) for i, part in enumerate(content))
    if not isinstance(content, str):
        raise ApiError(400, f"'{where}.content' must be a text or a list of text parts.", param=f"{where}.content")
    # "developer" is OpenAI's later word for the system's instructions; no template knows it.
    plain: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": content}
    if calls:
        if not isinstance(calls, list):
            raise ApiError(400, f"'{where}.tool_calls' must be a list.", param=f"{where}.tool_calls")
        plain["tool_calls"] = [_tool_call(f"{where}.tool_calls[{i}]", call) for i, call in enumerate(calls)]
    for name in ("name", "tool_call_id", "reasoning_content"):
        if isinstance(message.get(name), str):
            plain[name] = message[name]
    return plain


def _tool_call(where: str, call: Any) -> dict[str, Any]:
    """A call of the history with its arguments as an object, as chat templates expect them."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ApiError(400, f"'{where}' must be a call of a function with its name.", param=where)
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            message = f"'{where}.function.arguments' must be a JSON object as a text."
            raise ApiError(400, message, param=f"{where}.function.arguments") from None
    return {**call, "type": "function", "function": {**function, "arguments": arguments}}


def _part(where: str, part: Any) -> str:
    # A refusal is a part of OpenAI's own answers, so it comes back in the history.
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(kind) if kind in ("text", "refusal") else None
    if not isinstance(text, str):
        raise ApiError(400, f"'{where}' must be a part of type text; others are not supported.", param=where)
    return text
