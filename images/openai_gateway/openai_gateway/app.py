# SPDX-License-Identifier: GPL-3.0-or-later
"""The endpoints."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from aiohttp.abc import AbstractResolver
from fastapi import FastAPI
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from openai_gateway import __version__
from openai_gateway.config import GatewayConfig
from openai_gateway.errors import ApiError
from openai_gateway.generation import Finish, GenerateRequest, Piece, ServedModel
from openai_gateway.health import ready
from openai_gateway.metrics import Metrics, RequestMeter
from openai_gateway.responses import ResponseBuilder, event
from openai_gateway.schema import ChatRequest, CompletionRequest, GenerationRequest
from openai_gateway.serving import (
    INTERNAL,
    ClientGone,
    EventStream,
    GatewayMiddleware,
    Handler,
    Keys,
    WhileConnected,
    error_response,
    parse_body,
)
from openai_gateway.triton import session

DEFAULT_MAX_TOKENS = {"chat.completions": 1024, "completions": 16}


class Gateway:
    """What the endpoints share."""

    def __init__(self, config: GatewayConfig) -> None:
        self.config = config
        self.models = {model.name: ServedModel(model) for model in config.models}
        self.metrics = Metrics()
        self.started = int(time.time())

    def model(self, name: str) -> ServedModel:
        """Return the model, or raise OpenAI's 404."""
        if name not in self.models:
            raise ApiError(
                404,
                f"The model '{name}' does not exist; served are {', '.join(self.models)}.",
                param="model",
                code="model_not_found",
            )
        return self.models[name]

    def card(self, model: ServedModel) -> dict[str, Any]:
        """Return OpenAI's model object."""
        card = {"id": model.name, "object": "model", "created": self.started, "owned_by": "trtllm.fleet"}
        return {**card, "max_model_len": model.max_seq_len} if model.max_seq_len else card

    async def respond(self, http: Request, body: GenerationRequest, endpoint: str) -> Response:
        """Answer a completion or a chat completion."""
        log: dict[str, Any] = http.state.log
        model = self.model(body.model)
        log["model"] = model.name
        meter = RequestMeter(self.metrics, model.name, endpoint, http.state.started, log)
        try:
            body.check_extra()
            asked = _generate_request(model, body, endpoint, http.state.request_id)
            options = body.stream_options
            builder = ResponseBuilder(
                model.name,
                asked.chat,
                include_usage=bool(options and (options.include_usage or options.continuous_usage_stats)),
                usage_always=bool(options and options.continuous_usage_stats),
            )
            if body.stream:
                return await self._stream(http, model, asked, builder, meter)
            async with WhileConnected(http.receive):
                text, finish = await _whole(model, asked, meter)
        except BaseException as error:
            meter.close(error)
            raise
        meter.finished(finish)
        meter.close()
        return Response(json.dumps(builder.whole(text, finish)).encode(), media_type="application/json")

    async def _stream(
        self,
        http: Request,
        model: ServedModel,
        asked: GenerateRequest,
        builder: ResponseBuilder,
        meter: RequestMeter,
    ) -> Response:
        """Begin a stream once the first piece is there, so that an error before it has its own status."""
        answer = model.answer(asked)
        try:
            async with WhileConnected(http.receive):
                first = await anext(answer)
        except BaseException:
            await answer.aclose()
            raise

        async def events() -> AsyncGenerator[bytes, None]:
            item = first
            before = builder.opening()
            try:
                while not isinstance(item, Finish):
                    meter.text()
                    yield before + builder.pieces(item)
                    before = b""
                    item = await anext(answer)
            except ApiError as error:
                meter.close(error)
                yield event(error.body())
                return
            meter.finished(item)
            yield before + builder.closing(item)
            meter.close()

        async def finish() -> None:
            meter.close(ClientGone())  # unless it was closed before
            await answer.aclose()

        return EventStream(events(), finish)


def _generate_request(model: ServedModel, body: GenerationRequest, endpoint: str, request_id: str) -> GenerateRequest:
    if isinstance(body, ChatRequest):
        text = model.tokenizer.render(body.messages, model.name)
    else:
        assert isinstance(body, CompletionRequest)
        text = body.prompt
    max_tokens, param = body.limit()
    sampling, optional = body.sampling()
    return GenerateRequest(
        text=text,
        chat=isinstance(body, ChatRequest),
        max_tokens=max_tokens,
        limit_param=param,
        sampling=sampling,
        optional=optional,
        stop=tuple(body.stop or ()),
        stream=bool(body.stream),
        default_max_tokens=model.config.default_max_tokens or DEFAULT_MAX_TOKENS[endpoint],
        id=request_id,
    )


async def _whole(model: ServedModel, asked: GenerateRequest, meter: RequestMeter) -> tuple[str, Finish]:
    parts: list[Piece] = []
    async with aclosing(model.answer(asked)) as answer:
        async for item in answer:
            if isinstance(item, Finish):
                return "".join([piece.text for piece in parts]), item
            meter.text()
            parts += item
    raise AssertionError("an answer ends with its Finish or an exception")


def create_app(config: GatewayConfig, keys: tuple[str, ...] = (), resolver: AbstractResolver | None = None) -> ASGIApp:
    """Return the ASGI application. *resolver* finds the replicas' hosts in place of DNS. Raises ConfigError."""
    gateway = Gateway(config)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with session(config.request_timeout, config.connect_timeout, resolver=resolver) as http:
            for model in gateway.models.values():
                model.http = http
            yield

    app = FastAPI(title="OpenAI gateway", version=__version__, lifespan=lifespan, openapi_url=None, docs_url=None)
    app.state.gateway = gateway
    _routes(app, gateway)
    _errors(app)
    handlers = _handlers(gateway)
    known = {getattr(route, "path", "") for route in app.routes} | handlers.keys()

    def refused(model: str, path: str, status: int) -> None:
        endpoint = path.removeprefix("/v1/").replace("/", ".") if path in known else "other"
        gateway.metrics.refused(model, endpoint, status)

    return GatewayMiddleware(app, Keys(keys), handlers, refused)


def _handlers(gateway: Gateway) -> dict[str, Handler]:
    limit = gateway.config.max_body_bytes

    async def completions(http: Request) -> Response:
        return await gateway.respond(http, await parse_body(http, CompletionRequest, limit), "completions")

    async def chat_completions(http: Request) -> Response:
        return await gateway.respond(http, await parse_body(http, ChatRequest, limit), "chat.completions")

    return {"/v1/completions": completions, "/v1/chat/completions": chat_completions}


def _routes(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [gateway.card(model) for model in gateway.models.values()]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        return JSONResponse(gateway.card(gateway.model(name)))

    @app.get("/health")
    async def health() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/health/ready")
    async def health_ready(http: Request) -> JSONResponse:
        is_ready, detail = await ready(
            list(gateway.models.values()), any_model=http.query_params.get("require") == "any"
        )
        return JSONResponse(detail, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        for served in gateway.models.values():
            for replica in served.replicas.replicas:
                gateway.metrics.outstanding.labels(served.name, replica.url).set(replica.outstanding)
                gateway.metrics.failures.labels(served.name, replica.url).set(replica.failures)
        return Response(gateway.metrics.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(_http: Request, error: ApiError) -> Response:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def http_error(http: Request, error: HTTPException) -> Response:
        words = {404: f"Unknown request URL: {http.method} {http.url.path}.", 405: "Method not allowed."}
        message = words.get(error.status_code, str(error.detail))
        return error_response(ApiError(error.status_code, message, more_headers=error.headers))

    @app.exception_handler(Exception)
    async def unexpected(_http: Request, _error: Exception) -> Response:
        return error_response(INTERNAL)
