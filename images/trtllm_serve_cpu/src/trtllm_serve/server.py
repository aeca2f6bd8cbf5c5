# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes of trtllm-serve. Whatever is wrong with a request, or inside, is a 400 with one message, as upstream."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import jinja2
import jinja2.sandbox
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tensorrt_llm import __version__
from tensorrt_llm.errors import TrtllmError
from tensorrt_llm.llmapi.model import Answer, Model

from .metrics import TYPE, Metrics

SAMPLING = (
    "frequency_penalty presence_penalty seed stop temperature top_p use_beam_search top_k top_p_min min_p "
    "repetition_penalty length_penalty early_stopping stop_token_ids include_stop_str_in_output ignore_eos min_tokens "
    "skip_special_tokens spaces_between_special_tokens truncate_prompt_tokens return_context_logits detokenize"
)
SHARED = "model best_of logit_bias logprobs max_tokens n stream stream_options user lora_request response_format"
# The fields of a request; another one is refused.
FIELDS = {
    "prompt": frozenset(f"prompt echo suffix add_special_tokens disaggregated_params {SHARED} {SAMPLING}".split()),
    "messages": frozenset(
        "messages top_logprobs max_completion_tokens tools tool_choice chat_template chat_template_kwargs documents "
        f"disaggregated_params add_generation_prompt reasoning_effort {SHARED} {SAMPLING}".split()
    ),
}
# Those that this image cannot honour, where they have another value than these.
UNUSED: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "suffix": ("",), "logit_bias": ({},), "logprobs": (False, 0),
    "use_beam_search": (False,), "min_p": (0,), "length_penalty": (1,), "stop_token_ids": ([],), "tools": ([],),
    "include_stop_str_in_output": (False,), "response_format": ({"type": "text"},), "lora_request": (),
    "return_context_logits": (False,),
}  # fmt: skip


def refuse(message: str) -> JSONResponse:
    """What every error looks like."""
    body = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}
    return JSONResponse(body, 400)


class Server:
    """The app of one model."""

    def __init__(self, model: Model, name: str, prometheus: bool = False) -> None:
        self._model, self._name = model, name
        self._prometheus = Metrics() if prometheus else None

    def app(self) -> Starlette:
        """What uvicorn serves."""

        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            yield
            await asyncio.to_thread(self._model.close)

        get, post = ["GET"], ["POST"]
        routes = [
            Route("/health", self._health, methods=get),
            Route("/health_generate", self._health_generate, methods=get),
            Route("/version", self._version, methods=get),
            Route("/v1/models", self._models, methods=get),
            Route("/metrics", self._metrics, methods=get),
            Route("/v1/completions", self._completions, methods=post),
            Route("/v1/chat/completions", self._chat, methods=post),
        ]
        if self._prometheus:
            routes.append(Route("/prometheus/metrics", self._prometheus_metrics, methods=get))
        return Starlette(routes=routes, lifespan=lifespan)

    async def _health(self, _request: Request) -> Response:
        return Response(status_code=200 if self._model.alive else 503)

    async def _health_generate(self, _request: Request) -> Response:
        try:
            tokens = self._model.encode("hi", True)
            async for _answer in self._answers(tokens, {"max_tokens": 1, "temperature": 0}):
                pass
        except TrtllmError as e:
            return Response(f"Generation health check failed: {e}", 500)
        return Response("Generation health check OK", 200)

    async def _version(self, _request: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def _models(self, _request: Request) -> Response:
        card = {"id": self._name, "object": "model", "created": int(time.time()), "owned_by": "tensorrt_llm"}
        return JSONResponse({"object": "list", "data": [card]})

    async def _metrics(self, _request: Request) -> Response:
        return JSONResponse(self._model.iterations())

    async def _prometheus_metrics(self, _request: Request) -> Response:
        return Response(self._prometheus.page() if self._prometheus else "", headers={"Content-Type": TYPE})

    async def _completions(self, request: Request) -> Response:
        try:
            body = _body(await request.body(), "prompt")
            prompt = body["prompt"]
            if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
                tokens = [int(token) for token in prompt]
            elif isinstance(prompt, str):
                tokens = self._model.encode(prompt, body.get("add_special_tokens") is not False)
            else:
                raise TrtllmError("prompt is neither a text nor tokens; this image takes one of them")
            return await self._respond(tokens, body, _Completion(self._name))
        except TrtllmError as e:
            return refuse(str(e))

    async def _chat(self, request: Request) -> Response:
        try:
            body = _body(await request.body(), "messages")
            body["max_tokens"] = body.get("max_completion_tokens", body.get("max_tokens"))
            tokens = self._model.encode(self._prompt(body), False)
            return await self._respond(tokens, body, _Chat(self._name))
        except TrtllmError as e:
            return refuse(str(e))

    def _prompt(self, body: Mapping[str, Any]) -> str:
        settings = self._model.settings
        template = body.get("chat_template") or settings.get("chat_template")
        if not template:
            raise TrtllmError("the checkpoint has no chat template; give one in chat_template")
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        special = {
            name: value.get("content") if isinstance(value, dict) else value
            for name, value in settings.items()
            if name.endswith("_token")
        }
        try:
            return environment.from_string(template).render(
                **special, messages=body["messages"], add_generation_prompt=body.get("add_generation_prompt", True),
                **(body.get("chat_template_kwargs") or {}),
            )  # fmt: skip
        except (jinja2.TemplateError, TypeError, ValueError) as e:
            raise TrtllmError(f"the chat template refuses the messages: {e}") from None

    async def _respond(self, tokens: list[int], body: Mapping[str, Any], shape: _Completion) -> Response:
        part = body.get("disaggregated_params")
        if part and not self._model.disaggregated:
            raise TrtllmError("Disaggregated serving is not enabled, give cache_transceiver_config a backend")
        if part and part.get("request_type") == "context_only":
            return await self._read(tokens, body, shape)
        # The cache of the prompt is not handed over here: it is computed anew, to the same values.
        answers = self._answers(tokens, body, (part or {}).get("first_gen_tokens") or ())
        # What cannot be answered is said before anything else is.
        first = await answers.__anext__()
        if body.get("stream"):
            events = self._events(first, answers, len(tokens), body.get("stream_options") or {}, shape)
            return StreamingResponse(events, media_type="text/event-stream")
        texts, last = [first.text], first
        async for last in answers:
            texts.append(last.text)
        usage = _usage(len(tokens), last.written)
        return JSONResponse(shape.whole("".join(texts), last, usage))

    async def _read(self, tokens: list[int], body: Mapping[str, Any], shape: _Completion) -> Response:
        """The first token of an answer, and what another server needs to go on with it."""
        first = Answer("", 0)
        found: list[int] = []
        async for first in self._answers(tokens, {**body, "max_tokens": 1}):
            found += first.tokens
        whole = shape.whole(first.text, first, _usage(len(tokens), first.written))
        whole["choices"][0]["disaggregated_params"] = {
            "request_type": "context_only", "first_gen_tokens": found, "ctx_request_id": uuid.uuid4().int >> 65,
            "opaque_state": None, "draft_tokens": None,
        }  # fmt: skip
        return JSONResponse(whole)

    async def _events(
        self,
        first: Answer,
        answers: AsyncGenerator[Answer, None],
        read: int,
        options: Mapping[str, Any],
        shape: _Completion,
    ) -> AsyncIterator[str]:
        """Chunks of the answer. One that fails in its middle only ends."""
        usage = bool(options.get("include_usage", True)) and bool(options)
        each = usage and bool(options.get("continuous_usage_stats"))
        answer = first
        try:
            for chunk in shape.head():
                yield _event(chunk)
            while True:
                yield _event(shape.chunk(answer, _usage(read, answer.written) if each else None))
                if answer.finish_reason:
                    break
                answer = await answers.__anext__()
            if usage:
                yield _event({**shape.frame(), "choices": [], "usage": _usage(read, answer.written)})
            yield "data: [DONE]\n\n"
        except (TrtllmError, StopAsyncIteration):
            return
        finally:
            await answers.aclose()

    async def _answers(
        self, tokens: list[int], body: Mapping[str, Any], begun: Sequence[int] = ()
    ) -> AsyncGenerator[Answer, None]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Answer] = asyncio.Queue()

        def deliver(answer: Answer) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, answer)

        begin, first = time.monotonic(), 0.0
        cancelled = self._model.submit(tokens, body, deliver, begun)
        try:
            while True:
                answer = await queue.get()
                if answer.error:
                    raise TrtllmError(answer.error)
                first = first or time.monotonic()
                if answer.finish_reason and self._prometheus:
                    self._prometheus.ended(begin, first, answer.written)
                yield answer
                if answer.finish_reason:
                    return
        finally:
            # A client that went away is waited for by nobody.
            cancelled.set()


class _Completion:
    """How a completion is written."""

    object, chunks, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, model: str) -> None:
        self._model, self._id, self._created = model, f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())

    def frame(self) -> dict[str, Any]:
        """What every chunk has."""
        return {"id": self._id, "object": self.chunks, "created": self._created, "model": self._model}

    def head(self) -> list[dict[str, Any]]:
        """Chunks before the first."""
        return []

    def chunk(self, answer: Answer, usage: dict[str, int] | None) -> dict[str, Any]:
        """One piece."""
        return {**self.frame(), "choices": [{**self.piece(answer), **_end(answer)}], "usage": usage}

    def piece(self, answer: Answer) -> dict[str, Any]:
        """The text of a piece."""
        return {"index": 0, "text": answer.text, "token_ids": None}

    def whole(self, text: str, last: Answer, usage: dict[str, int]) -> dict[str, Any]:
        """The whole answer."""
        choice = {"index": 0, "text": text, "token_ids": None, "logprobs": None, **_end(last)}
        return {**self.frame(), "object": self.object, "choices": [choice], "usage": usage}


class _Chat(_Completion):
    """How a chat completion is written."""

    object, chunks, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def head(self) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        return [{**self.frame(), "choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": None}]

    def piece(self, answer: Answer) -> dict[str, Any]:
        return {"index": 0, "delta": {"content": answer.text}}

    def whole(self, text: str, last: Answer, usage: dict[str, int]) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, **_end(last)}
        return {**self.frame(), "object": self.object, "choices": [choice], "usage": usage}


def _end(answer: Answer) -> dict[str, Any]:
    return {"finish_reason": answer.finish_reason, "stop_reason": answer.stop_reason}


def _usage(read: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": read, "total_tokens": read + written, "completion_tokens": written}


def _event(chunk: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _body(raw: bytes, kind: str) -> dict[str, Any]:
    """A request's body. Raises TrtllmError for what upstream's models refuse, and for what this image lacks."""
    try:
        body = json.loads(raw)
    except ValueError as e:
        raise TrtllmError(f"the body is no JSON: {e}") from None
    if not isinstance(body, dict):
        raise TrtllmError("the body is no JSON object")
    for name in ("model", kind):
        if body.get(name) is None:
            raise TrtllmError(f"[{{'type': 'missing', 'loc': ('body', '{name}'), 'msg': 'Field required'}}]")
    for name, value in body.items():
        if name not in FIELDS[kind]:
            raise TrtllmError(
                f"[{{'type': 'extra_forbidden', 'loc': ('body', '{name}'), 'msg': 'Extra inputs are not permitted'}}]"
            )
        if name in UNUSED and value is not None and value not in UNUSED[name]:
            raise TrtllmError(f"{name} is {value!r}, which is not implemented in this image")
    limit = body.get("max_tokens")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise TrtllmError(f"max_tokens must be greater than 0, got {limit!r}")
    return body
