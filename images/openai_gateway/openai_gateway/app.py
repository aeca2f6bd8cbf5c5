# SPDX-License-Identifier: GPL-3.0-or-later
"""The endpoints."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from openai_gateway import __version__
from openai_gateway.anthropic_messages import CountRequest, MessagesBuilder, MessagesRequest
from openai_gateway.clients import Account, Clients
from openai_gateway.config import GatewayConfig, ModelConfig
from openai_gateway.errors import ApiError, ConfigError
from openai_gateway.gate import Gate
from openai_gateway.generation import Finish, GenerateRequest, Piece, ServedModel
from openai_gateway.health import ready, replica_states
from openai_gateway.http_client import Address, HttpClient
from openai_gateway.metrics import Metrics, RequestMeter
from openai_gateway.openai_responses import ResponsesBuilder, ResponsesRequest
from openai_gateway.openapi import Endpoint, document
from openai_gateway.prompts import Plan, plan, render
from openai_gateway.reload import LIVE, ConfigFile, InForce, fixed_changes
from openai_gateway.replicas import Draining
from openai_gateway.responses import Builder, ChatBuilder, CompletionBuilder
from openai_gateway.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationRequest,
    TokenizeRequest,
)
from openai_gateway.serving import (
    INTERNAL,
    ClientGone,
    EventStream,
    GatewayMiddleware,
    Handler,
    WhileConnected,
    error_response,
    merged,
    parse_body,
    together,
)
from openai_gateway.shared import Shared
from openai_gateway.tokenizer import CheckpointTokenizer

LOG = logging.getLogger("openai_gateway")
LOOK_AGAIN = 1.0  # seconds after which files that may change are looked at again


class Gateway:
    """What the endpoints share."""

    def __init__(self, config: GatewayConfig, shared: Shared, file: ConfigFile | None) -> None:
        self.config = config
        self.file = file
        self.http: HttpClient | None = None  # set when the event loop runs
        self.clients = Clients(config.api_keys_file, shared=shared)
        self.gate = Gate(config.max_requests, config.max_queued, shared)
        self.draining = Draining(config.drain_file, shared)
        self.metrics = Metrics()
        self.started = int(time.time())
        self.in_force = InForce(shared)
        self._shared = shared
        self.models: dict[str, ServedModel] = {}
        self._serve({model.name: (model, CheckpointTokenizer(model)) for model in config.models})

    def _serve(self, wanted: Mapping[str, tuple[ModelConfig, CheckpointTokenizer]]) -> None:
        """Serve these models from now on; running requests finish as they began."""
        before = self.models
        self.models = {
            name: ServedModel(model, tokenizer, self.draining, self._shared, before.get(name))
            for name, (model, tokenizer) in wanted.items()
        }
        for model in self.models.values():
            model.http = self.http
        for name, old in before.items():
            stay = {replica.url for replica in self.models[name].replicas.replicas} if name in self.models else set()
            for replica in old.replicas.replicas:
                if replica.url not in stay:
                    old.close_idle(replica)
                    self.metrics.forget_replica(name, replica.url)

    def offered(self, http: Request) -> dict[str, ServedModel]:
        """The models that the client of *http* may use."""
        account: Account = http.state.account
        return {name: model for name, model in self.models.items() if account.may_use(name)}

    def model(self, http: Request, name: str) -> ServedModel:
        """The model, or raise OpenAI's 404."""
        offered = self.offered(http)
        if name not in offered:
            raise ApiError(
                404,
                f"The model '{name}' does not exist; served are {', '.join(offered)}.",
                param="model",
                code="model_not_found",
            )
        return offered[name]

    def card(self, model: ServedModel) -> dict[str, Any]:
        """OpenAI's model object."""
        card = {"id": model.name, "object": "model", "created": self.started, "owned_by": "trtllm.fleet"}
        return {**card, "max_model_len": model.max_seq_len} if model.max_seq_len else card

    def measure(self) -> None:
        """Put into the metrics what is not counted as it happens."""
        self.metrics.queued.set(self.gate.queued)
        self.metrics.clients_changed.set(self.clients.changed)
        for model in self.models.values():
            for replica in model.replicas.replicas:
                self.metrics.outstanding.labels(model.name, replica.url).set(replica.own)
                self.metrics.failures.labels(model.name, replica.url).set(replica.failures)
                self.metrics.draining.labels(model.name, replica.url).set(model.replicas.drains(replica))
                self.metrics.weight.labels(model.name, replica.url).set(model.replicas.weight(replica))
                self.metrics.answered.labels(model.name, replica.url).inc(replica.take_answered())

    async def look_each_second(self) -> None:
        """Take over what changes while this runs, and tell the other workers what was counted."""
        while True:
            try:
                if self._shared.workers > 1:
                    self.measure()
                    self.metrics.tell()
                self._look_at_replicas()
                self.clients.look_again()
                if self.file:
                    self.file.renew_certificate()
                    if self.file.due():
                        await self._read_again(self.file)
            except Exception:
                LOG.exception("looking at what changes failed; it is tried again")
            await asyncio.sleep(LOOK_AGAIN)

    def _look_at_replicas(self) -> None:
        ended = self.draining.look()
        for model in self.models.values():
            for replica in model.replicas.replicas:
                if model.replicas.drains(replica):
                    model.close_idle(replica)
                elif replica.url in ended:
                    replica.renewed()

    async def _read_again(self, file: ConfigFile) -> None:
        """Take over the configuration, whole or not at all."""
        try:
            config = file.load()
            kept = [model.tokenizer for model in self.models.values()]
            # Tokenizers take seconds to read, and others are served meanwhile.
            wanted = await asyncio.to_thread(lambda: {m.name: (m, _tokenizer(m, kept)) for m in config.models})
            self.clients.follow(config.api_keys_file)
            self._serve(wanted)
        except ConfigError as error:
            file.refuse(error)
            return
        self.gate.resize(config.max_requests, config.max_queued)
        fixed = fixed_changes(self.config, config)
        if fixed:
            LOG.warning("%s: taken over by the next start, not by this one", ", ".join(fixed))
        # What is fixed stays what it was, so that it is told of again.
        self.config = self.config.model_copy(update={key: getattr(config, key) for key in LIVE})
        file.taken()
        self.in_force.tell(file.in_force)
        LOG.info("the configuration was read again; served are %s", ", ".join(self.models))

    def configuration(self) -> dict[str, Any]:
        """What is served by, and why what was written last is not."""
        sha256 = self.file.in_force if self.file else ""
        refused = (self.file.refused if self.file else "") or self.clients.refused
        return {"sha256": sha256, "all_workers": self.in_force.everywhere(sha256), "refused": refused}

    async def respond(
        self, http: Request, body: GenerationRequest, endpoint: str, builder_of: Callable[[Plan], Builder]
    ) -> Response:
        """Answer a request that asks for text."""
        log: dict[str, Any] = http.state.log
        model = self.model(http, body.model)
        log["model"] = model.name
        meter = RequestMeter(self.metrics, model.name, endpoint, http.state.started, log, http.state.account)
        try:
            planned = plan(model, body, http.state.request_id, http.state.trace, stream=bool(body.stream))
            builder = builder_of(planned)
            if body.stream:
                return await self._stream(http, model, planned, builder, meter)
            async with WhileConnected(http.scope):
                await meter.admitted(self.gate)
                answers = await together([_whole(model, asked, meter) for asked in planned.requests])
        except BaseException as error:
            meter.close(error)
            raise
        total = _total(planned, [finish for _, finish in answers])
        meter.finished(total)
        meter.close()
        whole = builder.whole(_best(planned, answers), total)
        return Response(json.dumps(whole).encode(), media_type="application/json")

    async def _stream(
        self, http: Request, model: ServedModel, planned: Plan, builder: Builder, meter: RequestMeter
    ) -> Response:
        """Begin a stream once the first piece is there, so that an error before it has its own status."""
        answer = merged([model.answer(asked) for asked in planned.requests])
        try:
            async with WhileConnected(http.scope):
                await meter.admitted(self.gate)
                first = await anext(answer)
        except BaseException:
            await answer.aclose()
            raise

        async def events() -> AsyncGenerator[bytes, None]:
            finishes: dict[int, Finish] = {}
            choice, item = first
            data = builder.opening()
            try:
                while True:
                    if isinstance(item, Finish):
                        finishes[choice] = item
                        data += builder.finished(choice, item)
                        if len(finishes) == len(planned.requests):
                            break
                    else:
                        meter.text()
                        data += builder.pieces(choice, item)
                    if data:
                        yield data
                    data = b""
                    choice, item = await anext(answer)
            except ApiError as error:
                meter.close(error)
                yield data + builder.error(error)
                return
            total = _total(planned, [finishes[i] for i in sorted(finishes)])
            meter.finished(total)
            yield data + builder.closing(total)
            meter.close()

        async def finish() -> None:
            meter.close(ClientGone())  # unless it was closed before
            await answer.aclose()

        return EventStream(events(), finish)


def _tokenizer(model: ModelConfig, kept: Sequence[CheckpointTokenizer]) -> CheckpointTokenizer:
    """The model's tokenizer, read only where none of *kept* is the same."""
    return next((known for known in kept if known.is_of(model)), None) or CheckpointTokenizer(model)


async def _whole(model: ServedModel, asked: GenerateRequest, meter: RequestMeter) -> tuple[list[Piece], Finish]:
    parts: list[Piece] = []
    async with aclosing(model.answer(asked)) as answer:
        async for item in answer:
            if isinstance(item, Finish):
                return parts, item
            meter.text()
            parts += item
    raise AssertionError("an answer ends with its Finish or an exception")


def _total(planned: Plan, finishes: list[Finish]) -> Finish:
    """What all answers cost: a prompt counts once, however many answers it got."""
    if planned.one:
        return finishes[0]
    prompts = sum(finish.prompt_tokens for finish in finishes[:: planned.each])
    return Finish(finishes[0].reason, prompts, sum(finish.completion_tokens for finish in finishes))


def _best(planned: Plan, answers: list[tuple[list[Piece], Finish]]) -> list[tuple[list[Piece], Finish]]:
    """The answers that are shown: of each prompt's, those that the model found likeliest per token."""
    if planned.each == planned.keep:
        return answers

    def likelihood(answer: tuple[list[Piece], Finish]) -> float:
        values = [value for piece in answer[0] for _, value in piece.tokens]
        return sum(values) / len(values) if values else float("-inf")

    best = []
    for begin in range(0, len(answers), planned.each):
        best += sorted(answers[begin : begin + planned.each], key=likelihood, reverse=True)[: planned.keep]
    return best


def create_app(
    config: GatewayConfig,
    find: Callable[[str, int], Address] | None = None,
    shared: Shared | None = None,
    file: ConfigFile | None = None,
) -> ASGIApp:
    """The ASGI application. Raises ConfigError.

    *find* says where a replica's host is in place of DNS; *shared*: what the workers of this gateway have in common;
    *file*: where *config* is from, to be read again when it changes.
    """
    gateway = Gateway(config, shared or Shared(), file)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        http = gateway.http = HttpClient(config.request_timeout, config.connect_timeout, find)
        for model in gateway.models.values():
            model.http = http
        if file:
            if not file.refused:
                file.taken()
            gateway.in_force.tell(file.in_force)
        looking = asyncio.create_task(gateway.look_each_second())
        yield
        looking.cancel()
        http.close()

    app = FastAPI(title="OpenAI gateway", version=__version__, lifespan=lifespan, openapi_url=None, docs_url=None)
    app.state.gateway = gateway
    _routes(app, gateway)
    _errors(app)
    handlers = _handlers(gateway)
    known = {getattr(route, "path", "") for route in app.routes} | handlers.keys()

    def count(model: str, path: str, status: int) -> None:
        endpoint = path.removeprefix("/v1/").strip("/").replace("/", ".") if path in known else "other"
        gateway.metrics.counted(model, endpoint, status)

    served: ASGIApp = GatewayMiddleware(app, gateway.clients, handlers, count)
    if config.cors_origins:
        served = CORSMiddleware(
            served, allow_origins=config.cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )  # fmt: skip
    return served


def _handlers(gateway: Gateway) -> dict[str, Handler]:
    limit = gateway.config.max_body_bytes

    async def completions(http: Request) -> Response:
        body = await parse_body(http, CompletionRequest, limit)
        options = body.stream_options
        return await gateway.respond(
            http, body, "completions", lambda plan: CompletionBuilder(body.model, plan, options)
        )

    async def chat_completions(http: Request) -> Response:
        body = await parse_body(http, ChatRequest, limit)
        options, top = body.stream_options, bool(body.top_logprobs)
        return await gateway.respond(
            http, body, "chat.completions", lambda plan: ChatBuilder(body.model, plan, options, top=top)
        )

    async def responses(http: Request) -> Response:
        body = await parse_body(http, ResponsesRequest, limit)
        return await gateway.respond(http, body.chat(), "responses", lambda plan: ResponsesBuilder(body, plan))

    async def messages(http: Request) -> Response:
        body = await parse_body(http, MessagesRequest, limit)
        return await gateway.respond(http, body.chat(), "messages", lambda plan: MessagesBuilder(body.model, plan))

    async def count_tokens(http: Request) -> Response:
        body = await parse_body(http, CountRequest, limit)
        model = gateway.model(http, body.model)
        return JSONResponse({"input_tokens": len(await _rendered(model, body.chat()))})

    async def tokenize(http: Request) -> Response:
        body = await parse_body(http, TokenizeRequest, limit)
        model = gateway.model(http, body.model)
        if body.prompt is not None:
            ids = await model.tokenizer.ids(body.prompt, special=body.add_special_tokens is not False)
        else:
            ids = await _rendered(model, body.chat())
        answer: dict[str, Any] = {"count": len(ids), "max_model_len": model.max_seq_len, "tokens": ids}
        if body.return_token_strs:
            answer["token_strs"] = [model.tokenizer.token(i) for i in ids]
        return JSONResponse(answer)

    async def detokenize(http: Request) -> Response:
        body = await parse_body(http, DetokenizeRequest, limit)
        tokenizer = gateway.model(http, body.model).tokenizer
        return JSONResponse({"prompt": tokenizer.decode(tokenizer.known(body.tokens, "tokens"))})

    async def embeddings(_http: Request) -> Response:
        raise ApiError(400, "The models here write text and make no embeddings.", code="unsupported_endpoint")

    return {
        "/v1/completions": completions,
        "/v1/chat/completions": chat_completions,
        "/v1/responses": responses,
        "/v1/messages": messages,
        "/v1/messages/count_tokens": count_tokens,
        "/v1/embeddings": embeddings,
        "/tokenize": tokenize,
        "/detokenize": detokenize,
    }


ENDPOINTS = {
    "/v1/completions": Endpoint("Continue one or more prompts", CompletionRequest),
    "/v1/chat/completions": Endpoint("Answer a conversation", ChatRequest),
    "/v1/responses": Endpoint("Answer a conversation, as OpenAI's newer API has it", ResponsesRequest),
    "/v1/messages": Endpoint("Answer a conversation, as Anthropic's API has it", MessagesRequest),
    "/v1/messages/count_tokens": Endpoint("Count the tokens of a conversation", CountRequest),
    "/tokenize": Endpoint("The tokens of a text or of a conversation", TokenizeRequest),
    "/detokenize": Endpoint("The text of tokens", DetokenizeRequest),
}


async def _rendered(model: ServedModel, body: ChatRequest) -> list[int]:
    """The tokens that the engine reads of a conversation: exactly one BOS where the tokenizer has one."""
    text = model.tokenizer.prompt(render(model, body), True, chat=True)
    return await model.tokenizer.ids(text, special=True)


def _routes(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v1/models")
    async def models(http: Request) -> JSONResponse:
        offered = gateway.offered(http).values()
        return JSONResponse({"object": "list", "data": [gateway.card(model) for model in offered]})

    @app.get("/v1/models/{name:path}")
    async def model(http: Request, name: str) -> JSONResponse:
        return JSONResponse(gateway.card(gateway.model(http, name)))

    @app.get("/health")
    async def health() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/health/ready")
    async def health_ready(http: Request) -> JSONResponse:
        is_ready, detail = await ready(
            list(gateway.models.values()),
            any_model=http.query_params.get("require") == "any",
            drained=http.query_params.get("drained") == "enough",
        )
        return JSONResponse(detail, 200 if is_ready else 503)

    @app.get("/health/replicas")
    async def health_replicas() -> JSONResponse:
        return JSONResponse({"replicas": replica_states(list(gateway.models.values()), gateway.draining)})

    @app.get("/health/config")
    async def health_config() -> JSONResponse:
        return JSONResponse(gateway.configuration())

    @app.get("/version")
    async def version() -> JSONResponse:
        return JSONResponse({"version": __version__})

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(document(app, ENDPOINTS, list(gateway.models)))

    @app.get("/metrics")
    async def metrics() -> Response:
        gateway.measure()
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
