# SPDX-License-Identifier: GPL-3.0-or-later
"""The endpoints."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from openai_gateway import __version__
from openai_gateway.config import GatewayConfig
from openai_gateway.errors import ApiError
from openai_gateway.generation import Finish, GenerateRequest, ServedModel
from openai_gateway.health import ready
from openai_gateway.metrics import Metrics, RequestMeter
from openai_gateway.responses import ResponseBuilder, event
from openai_gateway.schema import ChatRequest, CompletionRequest, GenerationRequest
from openai_gateway.serving import (
    CLIENT_GONE,
    ClientGone,
    EventStream,
    GatewayMiddleware,
    Keys,
    error_response,
    while_connected,
)


class Gateway:
    """What the endpoints share."""

    def __init__(self, config: GatewayConfig, http: httpx.AsyncClient) -> None:
        self.models = {model.name: ServedModel(model, http) for model in config.models}
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

    async def respond(self, http: Request, body: GenerationRequest, chat: bool) -> Response:
        """Answer a completion or a chat completion."""
        started = time.monotonic()
        endpoint = "chat.completions" if chat else "completions"
        log: dict[str, Any] = http.state.log
        log["model"] = body.model
        model = self.model(body.model)
        body.check_extra()
        ask = _ask(model, body)
        shape = ResponseBuilder(model.name, chat, body.include_usage)
        meter = RequestMeter(self.metrics, model.name, endpoint, started, log)
        if body.stream:
            return await self._stream(http, model, ask, shape, meter)
        with meter:
            text, finish = await while_connected(http.receive, _whole(model, ask, meter))
            meter.finished(finish)
            return JSONResponse(shape.whole(text, finish))

    async def _stream(
        self, http: Request, model: ServedModel, ask: GenerateRequest, shape: ResponseBuilder, meter: RequestMeter
    ) -> Response:
        """Begin a stream once the first piece is there, so that an error before it has its own status."""
        pieces = model.answer(ask)
        try:
            first = await while_connected(http.receive, _next(pieces))
        except BaseException as error:
            meter.close(error)
            await pieces.aclose()
            raise

        async def events() -> AsyncGenerator[bytes, None]:
            yield shape.opening()
            item: str | Finish | None = first
            try:
                while isinstance(item, str):
                    meter.text()
                    yield shape.piece(item)
                    item = await _next(pieces)
            except ApiError as error:
                meter.close(error)
                yield event(error.body())
                return
            if isinstance(item, Finish):
                meter.finished(item)
                yield shape.closing(item)
                meter.close()

        async def finish() -> None:
            meter.close(ClientGone())  # unless it was closed before
            await pieces.aclose()

        return EventStream(events(), finish)


def _ask(model: ServedModel, body: GenerationRequest) -> GenerateRequest:
    chat = isinstance(body, ChatRequest)
    if isinstance(body, ChatRequest):
        text = model.tokenizer.render(body.messages, model.name)
    else:
        assert isinstance(body, CompletionRequest)
        text = body.prompt
    max_tokens, param = body.limit()
    sampling, optional = body.sampling()
    return GenerateRequest(text, chat, max_tokens, param, sampling, optional, tuple(body.stop or ()), bool(body.stream))


async def _next(pieces: AsyncIterator[str | Finish]) -> str | Finish | None:
    return await anext(pieces, None)


async def _whole(model: ServedModel, ask: GenerateRequest, meter: RequestMeter) -> tuple[str, Finish]:
    parts: list[str] = []
    async with aclosing(model.answer(ask)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Finish):
                return "".join(parts), piece
            meter.text()
            parts.append(piece)
    raise AssertionError("an answer ends with its Finish or an exception")


def create_app(
    config: GatewayConfig, keys: tuple[str, ...] = (), transport: httpx.AsyncBaseTransport | None = None
) -> ASGIApp:
    """Return the ASGI application. *transport* replaces the network in tests. Raises ConfigError."""
    http = httpx.AsyncClient(
        transport=transport,
        timeout=httpx.Timeout(config.request_timeout, connect=config.connect_timeout, pool=None),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        trust_env=False,  # Triton is never behind the proxy that the environment names
    )
    gateway = Gateway(config, http)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with http:
            yield

    app = FastAPI(title="OpenAI gateway", version=__version__, lifespan=lifespan, openapi_url=None, docs_url=None)
    app.state.gateway = gateway
    _routes(app, gateway)
    _errors(app)
    return GatewayMiddleware(app, Keys(keys), config.max_body_bytes)


def _routes(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [gateway.card(model) for model in gateway.models.values()]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        return JSONResponse(gateway.card(gateway.model(name)))

    @app.post("/v1/completions")
    async def completions(http: Request, body: CompletionRequest) -> Response:
        return await gateway.respond(http, body, chat=False)

    @app.post("/v1/chat/completions")
    async def chat_completions(http: Request, body: ChatRequest) -> Response:
        return await gateway.respond(http, body, chat=True)

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

    @app.exception_handler(ClientGone)
    async def client_gone(_http: Request, _error: ClientGone) -> Response:
        return Response(status_code=CLIENT_GONE)

    @app.exception_handler(HTTPException)
    async def http_error(http: Request, error: HTTPException) -> Response:
        words = {404: f"Unknown request URL: {http.method} {http.url.path}.", 405: "Method not allowed."}
        return error_response(ApiError(error.status_code, words.get(error.status_code, str(error.detail))))

    @app.exception_handler(RequestValidationError)
    async def invalid(_http: Request, error: RequestValidationError) -> Response:
        return error_response(_invalid(error))

    @app.exception_handler(Exception)
    async def unexpected(_http: Request, _error: Exception) -> Response:
        return error_response(ApiError(500, "Internal error; the gateway's log says which."))


def _invalid(error: RequestValidationError) -> ApiError:
    """Word the first thing wrong with a body as OpenAI does."""
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        detail = first.get("ctx", {}).get("error", message)
        return ApiError(400, f"The body of the request is not valid JSON: {detail}.")
    path = [part for part in first["loc"] if part != "body"]
    if not path:
        return ApiError(400, f"The body of the request must be a JSON object: {message}.")
    param = str(path[0]) + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path[1:])
    if first["type"] == "missing":
        return ApiError(400, f"You must provide '{param}'.", param=param)
    return ApiError(400, f"Invalid '{param}': {message[:1].lower()}{message[1:]}.", param=param)
