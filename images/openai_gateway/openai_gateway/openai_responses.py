# SPDX-License-Identifier: GPL-3.0-or-later
"""``/v1/responses``: OpenAI's newer API, in terms of a chat completion. Nothing is stored."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openai_gateway.blocks import THOUGHTS, BlockBuilder
from openai_gateway.errors import ApiError, invalid_body, unsupported
from openai_gateway.generation import Finish
from openai_gateway.prompts import Plan
from openai_gateway.responses import ENCODE, new_id
from openai_gateway.schema import ChatRequest, Limit

# Taken and left alone, as they change nothing in an answer.
IGNORED = {
    "metadata", "store", "user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "include", "stream_options", "max_tool_calls",
}  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "background": (False,), "truncation": ("disabled", "auto"), "top_logprobs": (0,), "previous_response_id": (),
    "conversation": (), "prompt": (),
}  # fmt: skip


class FunctionTool(BaseModel):
    """One of ``tools``."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenTool(BaseModel):
    """``tool_choice`` that names a function."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["function"]
    name: str


class Format(BaseModel):
    """``text.format``."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["text", "json_object", "json_schema"]
    name: str = "answer"
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class TextOptions(BaseModel):
    """``text``."""

    model_config = ConfigDict(strict=True, extra="ignore")
    format: Format | None = None


class Reasoning(BaseModel):
    """``reasoning``."""

    model_config = ConfigDict(strict=True, extra="ignore")
    effort: str | None = None


class ResponsesRequest(BaseModel):
    """``POST /v1/responses``."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    model: str
    input: str | Annotated[list[dict[str, Any]], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Limit | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stream: bool | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None

    def chat(self) -> ChatRequest:
        """The same as a chat completion. Raises ApiError 400."""
        for name, value in (self.model_extra or {}).items():
            if name in IGNORED or value is None:
                continue
            if name not in NEUTRAL:
                message = f"Unrecognized request argument supplied: {name}"
                raise ApiError(400, message, param=name, code="unknown_parameter")
            if not any(type(value) is type(ok) and value == ok for ok in NEUTRAL[name]):
                raise unsupported(name, "is not supported: nothing is stored here and nothing runs in the background")
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        messages = _messages(items)
        if self.instructions:
            messages.insert(0, {"role": "system", "content": self.instructions})
        names = ("model", "temperature", "top_p", "stream", "parallel_tool_calls")
        body: dict[str, Any] = {name: getattr(self, name) for name in names}
        body |= {"messages": messages, "max_completion_tokens": self.max_output_tokens}
        if self.tools:
            body["tools"] = [_tool(f"tools[{i}]", tool) for i, tool in enumerate(self.tools)]
        if isinstance(self.tool_choice, ChosenTool):
            body["tool_choice"] = {"type": "function", "function": {"name": self.tool_choice.name}}
        elif self.tools:
            body["tool_choice"] = self.tool_choice
        if self.text and self.text.format:
            body["response_format"] = _format(self.text.format)
        if self.reasoning:
            body["reasoning_effort"] = self.reasoning.effort
        try:
            return ChatRequest.model_validate({name: value for name, value in body.items() if value is not None})
        except ValidationError as error:
            raise invalid_body(error) from None


class ResponsesBuilder(BlockBuilder):
    """OpenAI's response object, whole or as its events."""

    def __init__(self, request: ResponsesRequest, plan: Plan) -> None:
        super().__init__(plan)
        self._id = new_id("resp_")
        self._sequence = 0
        self._output: list[dict[str, Any]] = []
        self._item = ""
        given = request.model_dump(by_alias=True, exclude_none=True)
        self._echo = {
            "instructions": None, "max_output_tokens": None, "parallel_tool_calls": True, "temperature": 1.0,
            "tool_choice": "auto", "tools": [], "top_p": 1.0, "metadata": {}, "user": None,
            **{name: given[name] for name in ECHOED if name in given},
            "text": {"format": {"type": "text"}, **given.get("text", {})},
            "reasoning": {"effort": None, "summary": None, **given.get("reasoning", {})},
        }  # fmt: skip
        self._created, self._model = int(time.time()), request.model

    def begin(self) -> bytes:
        """The events that begin the stream."""
        response = self._response("in_progress", None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def block_begin(self, kind: str) -> bytes:
        """The events that open a block."""
        self._item = new_id("rs_" if kind == THOUGHTS else "msg_")
        item = _reasoning(self._item, []) if kind == THOUGHTS else _message(self._item, "in_progress", [])
        added = self._event("response.output_item.added", output_index=self._index, item=item)
        return added + self._part("response.content_part.added", part=_content(kind, ""))

    def block_text(self, kind: str, text: str) -> bytes:
        """The event with more of the open block."""
        if kind == THOUGHTS:
            return self._part("response.reasoning_text.delta", delta=text)
        return self._part("response.output_text.delta", delta=text, logprobs=[])

    def block_end(self, kind: str, text: str) -> bytes:
        """The events that close the block."""
        part = _content(kind, text)
        if kind == THOUGHTS:
            done = self._part("response.reasoning_text.done", text=text)
            item = _reasoning(self._item, [part])
        else:
            done = self._part("response.output_text.done", text=text, logprobs=[])
            item = _message(self._item, "completed", [part])
        self._output.append(item)
        done += self._part("response.content_part.done", part=part)
        return done + self._event("response.output_item.done", output_index=self._index, item=item)

    def block_call(self, call: dict[str, Any]) -> bytes:
        """The events of a call."""
        item = _call(call)
        self._output.append(item)
        begun = {**item, "arguments": "", "status": "in_progress"}
        where = {"item_id": item["id"], "output_index": self._index}
        arguments = item["arguments"]
        return (
            self._event("response.output_item.added", output_index=self._index, item=begun)
            + self._event("response.function_call_arguments.delta", **where, delta=arguments)
            + self._event("response.function_call_arguments.done", **where, name=item["name"], arguments=arguments)
            + self._event("response.output_item.done", output_index=self._index, item=item)
        )

    def end(self, finish: Finish, reason: str) -> bytes:
        """The event that ends the stream."""
        status = "incomplete" if reason == "length" else "completed"
        return self._event(f"response.{status}", response=self._response(status, finish))

    def error(self, error: ApiError) -> bytes:
        """The event that ends a stream that broke off."""
        failed = {"code": "server_error", "message": error.message}
        return self._event("response.failed", response={**self._response("failed", None), "error": failed})

    def answer(self, message: dict[str, Any], finish: Finish, reason: str) -> dict[str, Any]:
        """A complete answer."""
        status = "incomplete" if reason == "length" else "completed"
        if message.get(THOUGHTS):
            self._output.append(_reasoning(new_id("rs_"), [_content(THOUGHTS, message[THOUGHTS])]))
        if message["content"] is not None:
            self._output.append(_message(new_id("msg_"), status, [_content("", message["content"])]))
        self._output += [_call(call) for call in message.get("tool_calls", ())]
        return self._response(status, finish)

    def _response(self, status: str, finish: Finish | None) -> dict[str, Any]:
        counts = None
        if finish:
            read, written = finish.prompt_tokens, finish.completion_tokens
            counts = {
                "input_tokens": read, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": written,
                "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": read + written,
            }  # fmt: skip
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self._id, "object": "response", "created_at": self._created, "status": status, "error": None,
            "incomplete_details": incomplete, "model": self._model, "output": list(self._output),
            "previous_response_id": None, "store": False, "truncation": "disabled", **self._echo, "usage": counts,
        }  # fmt: skip

    def _part(self, kind: str, **more: Any) -> bytes:
        return self._event(kind, item_id=self._item, output_index=self._index, content_index=0, **more)

    def _event(self, kind: str, **more: Any) -> bytes:
        value = {"type": kind, "sequence_number": self._sequence, **more}
        self._sequence += 1
        return f"event: {kind}\ndata: {ENCODE(value)}\n\n".encode()


ECHOED = ("instructions", "max_output_tokens", "parallel_tool_calls", "temperature", "tool_choice", "tools", "top_p")


def _content(kind: str, text: str) -> dict[str, Any]:
    if kind == THOUGHTS:
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _reasoning(item: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": item, "type": "reasoning", "summary": [], "content": content}


def _message(item: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": item, "type": "message", "status": status, "role": "assistant", "content": content}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    item = {"id": new_id("fc_"), "type": "function_call", "status": "completed", "call_id": call["id"]}
    return {**item, **call["function"]}


def _tool(where: str, tool: FunctionTool) -> dict[str, Any]:
    if tool.type != "function":
        raise unsupported(f"{where}.type", f"'{tool.type}' is a tool that the server runs, and there is none here")
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}


def _format(given: Format) -> dict[str, Any]:
    if given.type != "json_schema":
        return {"type": given.type}
    return {"type": "json_schema", "json_schema": {"name": given.name, "schema": given.schema_ or {}}}


def _messages(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items of ``input`` as messages; calls join the assistant's message before them."""
    messages: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        where = f"input[{index}]"
        kind = item.get("type", "message")
        if kind == "message":
            messages.append({"role": item.get("role"), "content": _text(where, item.get("content"))})
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            output = _text(f"{where}.output", item.get("output"))
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
        elif kind != "reasoning":
            raise ApiError(400, f"'{where}' has the type {kind}, which is not supported.", param=where)
    return messages


def _text(where: str, content: Any) -> Any:
    """A list of parts of text as parts of a chat message; anything else as it is, to be refused there."""
    if not isinstance(content, list):
        return content
    parts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("input_text", "output_text", "text", "refusal"):
            at = f"{where}.content[{index}]"
            raise ApiError(400, f"'{at}' must be a part of text; others are not supported.", param=at)
        name = "refusal" if kind == "refusal" else "text"
        parts.append({"type": name, name: part.get(name)})
    return parts
