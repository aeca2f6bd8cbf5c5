# SPDX-License-Identifier: GPL-3.0-or-later
"""``/v1/messages``: Anthropic's API, which coding clients speak, in terms of a chat completion."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openai_gateway.blocks import THOUGHTS, BlockBuilder
from openai_gateway.errors import ApiError, invalid_body, unsupported
from openai_gateway.generation import Finish
from openai_gateway.prompts import Plan
from openai_gateway.responses import ENCODE, new_id
from openai_gateway.schema import ChatRequest, Limit

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
# Taken and left alone, as they change nothing in an answer.
IGNORED = {"metadata", "service_tier", "container", "mcp_servers", "context_management", "output_config", "betas"}
ERROR_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip


class AnthropicTool(BaseModel):
    """One of ``tools``."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: str | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class AnthropicToolChoice(BaseModel):
    """``tool_choice``."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(BaseModel):
    """``output_config.format``."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(BaseModel):
    """``output_config``. The effort changes nothing here."""

    model_config = ConfigDict(strict=True, extra="ignore")
    format: OutputFormat | None = None


class CountRequest(BaseModel):
    """``POST /v1/messages/count_tokens``."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    model: str
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    system: str | list[dict[str, Any]] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: dict[str, Any] | None = None

    def chat(self, **more: Any) -> ChatRequest:
        """The same as a chat completion. Raises ApiError 400."""
        for name, value in (self.model_extra or {}).items():
            if name not in IGNORED and value is not None:
                message = f"Unrecognized request argument supplied: {name}"
                raise ApiError(400, message, param=name, code="unknown_parameter")
        messages: list[dict[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": _text("system", self.system)})
        for index, given in enumerate(self.messages):
            messages += _messages(f"messages[{index}]", given)
        body: dict[str, Any] = {"model": self.model, "messages": messages, **more}
        if self.tools:
            body["tools"] = [_tool(f"tools[{i}]", tool) for i, tool in enumerate(self.tools)]
        if self.tool_choice:
            body |= _tool_choice(self.tool_choice)
        if self.thinking:
            body["chat_template_kwargs"] = {"enable_thinking": self.thinking.get("type") != "disabled"}
        try:
            return ChatRequest.model_validate({name: value for name, value in body.items() if value is not None})
        except ValidationError as error:
            raise invalid_body(error) from None


class MessagesRequest(CountRequest):
    """``POST /v1/messages``."""

    max_tokens: Limit
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    output_config: OutputConfig | None = None

    def chat(self, **more: Any) -> ChatRequest:
        """The same as a chat completion. Raises ApiError 400."""
        given = {name: getattr(self, name) for name in ("max_tokens", "temperature", "top_p", "top_k", "stream")}
        wanted = self.output_config and self.output_config.format
        if wanted:
            schema = {"name": "output", "schema": wanted.schema_}
            given["response_format"] = {"type": wanted.type, "json_schema": schema}
        return super().chat(**given, stop=self.stop_sequences, **more)


class MessagesBuilder(BlockBuilder):
    """Anthropic's message, whole or as its events."""

    def __init__(self, model: str, plan: Plan) -> None:
        super().__init__(plan)
        self._head = {"id": new_id("msg_"), "type": "message", "role": "assistant", "model": model}

    def begin(self) -> bytes:
        """The events that begin the stream."""
        started: dict[str, Any] = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None}
        counts = {"input_tokens": max(self._read, 0), "output_tokens": 0}
        return _event({"type": "message_start", "message": {**started, "usage": counts}})

    def block_begin(self, kind: str) -> bytes:
        """The events that open a block."""
        thinking = {"type": "thinking", "thinking": "", "signature": ""}
        block = thinking if kind == THOUGHTS else {"type": "text", "text": ""}
        return _event({"type": "content_block_start", "index": self._index, "content_block": block})

    def block_text(self, kind: str, text: str) -> bytes:
        """The event with more of the open block."""
        thinking = {"type": "thinking_delta", "thinking": text}
        return self._delta(thinking if kind == THOUGHTS else {"type": "text_delta", "text": text})

    def block_end(self, kind: str, text: str) -> bytes:
        """The event that closes the block."""
        return _event({"type": "content_block_stop", "index": self._index})

    def block_call(self, call: dict[str, Any]) -> bytes:
        """The events of a call."""
        use = {"type": "tool_use", "id": _use_id(call), "name": call["function"]["name"], "input": {}}
        begin = _event({"type": "content_block_start", "index": self._index, "content_block": use})
        delta = self._delta({"type": "input_json_delta", "partial_json": call["function"]["arguments"]})
        return begin + delta + self.block_end("", "")

    def end(self, finish: Finish, reason: str) -> bytes:
        """The events that end the stream."""
        counts = {"input_tokens": finish.prompt_tokens, "output_tokens": finish.completion_tokens}
        delta = {"type": "message_delta", "delta": _stopped(finish, reason), "usage": counts}
        return _event(delta) + _event({"type": "message_stop"})

    def error(self, error: ApiError) -> bytes:
        """The event that ends a stream that broke off."""
        return _event(error_body(error))

    def answer(self, message: dict[str, Any], finish: Finish, reason: str) -> dict[str, Any]:
        """A complete answer."""
        content: list[dict[str, Any]] = []
        if message.get("reasoning_content"):
            content.append({"type": "thinking", "thinking": message["reasoning_content"], "signature": ""})
        if message["content"]:
            content.append({"type": "text", "text": message["content"]})
        for call in message.get("tool_calls", ()):
            use = {"type": "tool_use", "id": _use_id(call), "name": call["function"]["name"]}
            content.append({**use, "input": _object(call["function"]["arguments"])})
        counts = {"input_tokens": finish.prompt_tokens, "output_tokens": finish.completion_tokens}
        return {**self._head, "content": content, **_stopped(finish, reason), "usage": counts}

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event({"type": "content_block_delta", "index": self._index, "delta": delta})


def error_body(error: ApiError) -> dict[str, Any]:
    """*error* in Anthropic's shape."""
    kind = ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def _event(value: dict[str, Any]) -> bytes:
    return f"event: {value['type']}\ndata: {ENCODE(value)}\n\n".encode()


def _stopped(finish: Finish, reason: str) -> dict[str, Any]:
    if finish.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop}
    return {"stop_reason": STOP_REASONS[reason], "stop_sequence": None}


def _use_id(call: dict[str, Any]) -> str:
    return str(call["id"]).replace("call_", "toolu_", 1)


def _object(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return {}


def _tool(where: str, tool: AnthropicTool) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        raise unsupported(f"{where}.type", f"'{tool.type}' is a tool that the server runs, and there is none here")
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}


def _tool_choice(choice: AnthropicToolChoice) -> dict[str, Any]:
    wanted: Any = {"auto": "auto", "any": "required", "none": "none"}.get(choice.type)
    if choice.type == "tool":
        wanted = {"type": "function", "function": {"name": choice.name or ""}}
    return {"tool_choice": wanted, "parallel_tool_calls": False if choice.disable_parallel_tool_use else None}


def _messages(where: str, message: dict[str, Any]) -> list[dict[str, Any]]:
    """One of Anthropic's messages as OpenAI's: results of tools are messages of their own there."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise ApiError(400, f"'{where}.role' must be user or assistant.", param=f"{where}.role")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise ApiError(400, f"'{where}.content' must be a text or a list of blocks.", param=f"{where}.content")
    results: list[dict[str, Any]] = []
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for index, block in enumerate(content):
        at = f"{where}.content[{index}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            texts.append(_text(at, [block]))
        elif kind == "tool_use" and role == "assistant":
            function = {"name": block.get("name"), "arguments": json.dumps(block.get("input") or {})}
            calls.append({"id": str(block.get("id", "")), "type": "function", "function": function})
        elif kind == "tool_result" and role == "user":
            text = _text(f"{at}.content", block.get("content") or "")
            results.append({"role": "tool", "tool_call_id": str(block.get("tool_use_id", "")), "content": text})
        elif kind not in ("thinking", "redacted_thinking"):
            raise ApiError(400, f"'{at}' must be a block of text or of a tool; others are not supported.", param=at)
    if texts or calls or not results:
        told: dict[str, Any] = {"role": role, "content": "\n".join(texts)}
        results.append({**told, "tool_calls": calls} if calls else told)
    return results


def _text(where: str, content: Any) -> str:
    """The text of a list of blocks of text, or the text itself."""
    if isinstance(content, str):
        return content
    parts = [block.get("text") if isinstance(block, dict) else None for block in content or ()]
    if not isinstance(content, list) or not all(isinstance(part, str) for part in parts):
        raise ApiError(400, f"'{where}' must be text; others are not supported.", param=where)
    return "\n".join(map(str, parts))
