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
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from openai_gateway import __version__
from openai_gateway.config import GatewayConfig
from openai_gateway.errors import ApiError
from openai_gateway.generation import Ask, Ending, ServedModel
from openai_gateway.health import ready
from openai_gateway.metrics import Metrics, RequestMeter
from openai_gateway.responses import Shape, event
from openai_gateway.schema import ChatRequest, CompletionRequest, GenerationRequest
from openai_gateway.serving import (
    CLIENT_GONE,
    ClientGone,
    EventStream,
    Front,
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
        shape = Shape(model.name, chat, body.include_usage)
        meter = RequestMeter(self.metrics, model.name, endpoint, started, log)
        if body.stream:
            return await self._stream(http, model, ask, shape, meter)
        with meter:
            text, ending = await while_connected(http.receive, _whole(model, ask, meter))
            meter.ended(ending)
            return JSONResponse(shape.whole(text, ending))

    async def _stream(self, http: Request, model: ServedModel, ask: Ask, shape: Shape, meter: RequestMeter) -> Response:
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
            item: str | Ending | None = first
            try:
                while isinstance(item, str):
                    meter.text()
                    yield shape.piece(item)
                    item = await _next(pieces)
            except ApiError as error:
                meter.close(error)
                yield event(error.body())
                return
            if isinstance(item, Ending):
                meter.ended(item)
                yield shape.closing(item)
                meter.close()

        async def finish() -> None:
            meter.close(ClientGone())  # unless it was closed before
            await pieces.aclose()

        return EventStream(events(), finish)


def _ask(model: ServedModel, body: GenerationRequest) -> Ask:
    chat = isinstance(body, ChatRequest)
    if isinstance(body, ChatRequest):
        text = model.tokenizer.render(body.messages, model.name)
    else:
        assert isinstance(body, CompletionRequest)
        text = body.prompt
    max_tokens, param = body.limit()
    sampling, optional = body.sampling()
    return Ask(text, chat, max_tokens, param, sampling, optional, tuple(body.stop or ()), bool(body.stream))


async def _next(pieces: AsyncIterator[str | Ending]) -> str | Ending | None:
    return await anext(pieces, None)  # noqa: F821 - the project's linter assumes Python 3.9


async def _whole(model: ServedModel, ask: Ask, meter: RequestMeter) -> tuple[str, Ending]:
    parts: list[str] = []
    async with aclosing(model.answer(ask)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Ending):
                return "".join(parts), piece
            meter.text()
            parts.append(piece)
    raise AssertionError("an answer ends with its Ending or an exception")


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
    return Front(app, Keys(keys), config.max_body_bytes)


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
    async def metrics() -> PlainTextResponse:
        for served in gateway.models.values():
            for replica in served.replicas.replicas:
                gateway.metrics.outstanding.set(served.name, replica.url, value=replica.outstanding)
                gateway.metrics.resting.set(served.name, replica.url, value=replica.failures)
        return PlainTextResponse(gateway.metrics.render(), media_type="text/plain; version=0.0.4")


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
        return error_response(ApiError(500, "The gateway made a mistake; its log says which."))


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
