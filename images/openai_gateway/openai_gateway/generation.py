# SPDX-License-Identifier: GPL-3.0-or-later
"""One answer: choose a replica, send the prompt, cut the text, count the tokens, say why it ended."""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from openai_gateway import guides
from openai_gateway.completions import client_of, look_at
from openai_gateway.config import ModelConfig
from openai_gateway.errors import ApiError, unsupported
from openai_gateway.http_client import HttpClient
from openai_gateway.interface import Interface
from openai_gateway.replicas import Draining, Replica, ReplicaSet
from openai_gateway.shared import Shared
from openai_gateway.text import AnswerText
from openai_gateway.tokenizer import CheckpointTokenizer
from openai_gateway.triton import Unreachable

LOG = logging.getLogger("openai_gateway")
# What another replica may do better, and whether it tells against this one.
COUNTS_AGAINST = {"model_not_ready": True, "upstream_error": True, "upstream_refusal": False, "overloaded": False}
PROCESS, SERIAL = secrets.token_hex(4), itertools.count()
NOTHING: Mapping[str, str] = MappingProxyType({})
ENDS = ("stop", "length")
SPECIAL_ROOM = 8  # tokens that a tokenizer may put around a text


class GenerateRequest(NamedTuple):
    """A request stripped of what is OpenAI's."""

    text: str
    chat: bool  # text came out of a chat template
    max_tokens: int | None
    limit_param: str  # the parameter to name when max_tokens is too large
    sampling: Mapping[str, Any]  # asked for by the client
    optional: Mapping[str, Any]  # added by the gateway
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()  # texts of tokens that end the answer, cut by nobody
    include_stop: bool = False
    ignore_end: bool = False  # the model's own end tokens are nothing special
    logprobs: bool = False
    stream: bool = False  # somebody sees the pieces
    default_max_tokens: int = 1024
    names: Mapping[str, str] = NOTHING  # inputs of Triton that the client calls otherwise
    echo: str = ""  # shown before the answer
    id: str = ""
    trace: Mapping[str, str] = NOTHING  # headers that tell Triton which trace this is part of


class Piece(NamedTuple):
    """What one response of Triton added to an answer."""

    text: str
    read: int  # tokens of the prompt, 0 while they are not known
    written: int  # tokens of the answer so far
    tokens: tuple[tuple[str, float], ...] = ()  # the text and the log probability of each


class Finish(NamedTuple):
    """How an answer ended."""

    reason: str  # stop or length
    prompt_tokens: int
    completion_tokens: int
    stop: str | None = None  # the client's sequence that ended it


class _Counts:
    """What the engine says of its tokens: those of the prompt, and with each response those that are new in it."""

    def __init__(self) -> None:
        self.read: int | None = None
        self.written: int | None = None
        self.responses = 0
        self.texts = 0  # responses that brought text
        self.reason: str | None = None  # why the answer ended, where the engine says it

    def feed(self, response: Mapping[str, Any], text: str) -> None:
        """Take in one response."""
        self.responses += 1
        if text:
            self.texts += 1
        if (reason := response.get("finish_reason")) in ENDS:
            self.reason = reason
        if self.read is None:
            self.read = _number(response.get("num_input_tokens")) or None
        new = response.get("num_output_tokens")
        if type(new) is not int:
            new = _number(new)
        if new is not None:
            self.written = new if self.written is None else self.written + new

    @property
    def so_far(self) -> int:
        """Tokens of the answer as far as is known while it runs."""
        return self.texts if self.written is None else self.written


class ServedModel:
    """A name that clients may ask for, with all it takes to answer."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: CheckpointTokenizer,
        draining: Draining | None = None,
        shared: Shared | None = None,
        before: ServedModel | None = None,
    ) -> None:
        """*before*: the model of that name that this one takes the place of."""
        self.config = config
        self.name = config.name
        self.tokenizer = tokenizer
        known: dict[str, Replica] = {}
        if before and (before.config.entry_model, before.config.release) == (config.entry_model, config.release):
            known = {replica.url: replica for replica in before.replicas.replicas}
        self.replicas: ReplicaSet = ReplicaSet(
            config.urls, draining=draining, shared=shared, model=config.name, known=known, weights=config.weights
        )
        self.max_seq_len = config.max_seq_len or self.tokenizer.max_positions
        # Set when the event loop runs.
        self.http: HttpClient | None = before.http if before else None
        self._warned = False
        ids = self.tokenizer.end_ids
        # Preprocessing of old releases has no default for the ids that end and fill an answer. The engine knows only
        # one that ends it, so that the others are told as words.
        self._end_tokens = {"end_id": ids[0], "pad_id": ids[0]} if ids else {}
        self._end_words = [word for word in map(self.tokenizer.token, ids[1:]) if word]

    async def answer(self, request: GenerateRequest) -> AsyncGenerator[list[Piece] | Finish, None]:
        """Yield the answer in pieces, together those that came together, and its Finish last.

        Another replica is tried as long as nothing was yielded. Raises ApiError.
        """
        shown = False
        last: ApiError | None = None
        prefix = request.text[: self.config.prefix_affinity] if self.config.prefix_affinity else ""
        for replica in self.replicas.order(prefix):
            if self.replicas.drains(replica):
                continue  # only since another one failed
            try:
                with self._at_work(replica):
                    async with aclosing(self.on_replica(replica, request)) as pieces:
                        async for piece in pieces:
                            shown = True
                            replica.answered += isinstance(piece, Finish)
                            yield piece
                self.replicas.succeeded(replica)
                return
            except Unreachable as error:
                LOG.warning("model %s: replica failed: %s", self.name, error)
                self.replicas.failed(replica)
            except ApiError as error:
                if error.code == "upstream_timeout":
                    self.replicas.failed(replica)
                if error.code not in COUNTS_AGAINST:
                    raise
                LOG.warning("model %s: replica %s: %s", self.name, replica.url, error.message)
                last = error
                if COUNTS_AGAINST[error.code]:
                    self.replicas.failed(replica)
            if shown:
                raise last or ApiError(
                    502, "The answer broke off: the model's server went away.", code="upstream_error"
                )
        raise last or ApiError(
            503, f"No replica of the model '{self.name}' can be reached.", code="model_unavailable", retry_after=5
        )

    @contextmanager
    def _at_work(self, replica: Replica) -> Iterator[None]:
        """Count a request at *replica*; the last ones of one that drains leave no connection behind."""
        try:
            with replica.working():
                yield
        finally:
            if self.replicas.drains(replica):
                self.close_idle(replica)

    def close_idle(self, replica: Replica) -> None:
        """Close the connections to *replica* that nobody uses."""
        if self.http:
            self.http.close_idle(replica.url)

    async def one_token(self, replica: Replica, request: GenerateRequest) -> int:
        """Ask *replica* alone; returns the tokens that it wrote. Raises ApiError or Unreachable."""
        written = 0
        with self._at_work(replica):
            async with aclosing(self.on_replica(replica, request)) as pieces:
                async for item in pieces:
                    if isinstance(item, Finish):
                        written = item.completion_tokens
        return written

    async def on_replica(
        self, replica: Replica, request: GenerateRequest
    ) -> AsyncGenerator[list[Piece] | Finish, None]:
        """Yield the answer of one replica."""
        assert self.http is not None
        interface = replica.interface
        # A guide is worth another look: a replica may have been served anew without anybody noticing.
        if interface is None or (guides.KIND in request.sampling and not interface.guided):
            interface = await look_at(
                self.http, replica.url, self.config.entry_model, self.config.release, self.config.name
            )
            replica.interface = interface
        client = client_of(self.http, replica.url, interface)
        prompt = self.tokenizer.prompt(request.text, interface.adds_special_tokens, chat=request.chat)
        max_tokens, prompt_tokens = await self._budget(request, prompt, interface)
        stream = self._can_stream(interface)
        if request.stop_tokens and interface.row.words_are_csv:
            raise unsupported("stop_token_ids", "is not supported by this model's release")
        if request.logprobs and not interface.counts_tokens:
            raise unsupported("logprobs", "needs an engine that counts its tokens, which this release does not")
        payload = interface.payload(
            prompt,
            max_tokens,
            stream=stream,
            sampling=request.sampling,
            optional={**request.optional, **self._end_tokens},
            stop=[*(() if request.ignore_end else self._end_words), *request.stop_tokens, *request.stop],
            names=request.names,
        )
        # Two requests of one client may have one id, but a BLS model stops what it calls by its id.
        payload["id"] = f"{request.id}-{PROCESS}-{next(SERIAL)}"
        cumulative = stream and interface.cumulative
        text = AnswerText(request.stop, cumulative, include_stop=request.include_stop)
        each = request.stream or request.logprobs
        before = ""
        counts = _Counts()
        # A decoupled model is always asked to stream: only then does Triton notice that a client went away.
        responses = client.generate(self.config.entry_model, payload, stream=interface.decoupled, headers=request.trace)
        async with aclosing(responses):
            async for batch in responses:
                self.replicas.answering(replica)
                pieces: list[Piece] = []
                texts: list[str] = []
                for response in batch:
                    raw = _text(response)
                    counts.feed(response, raw)
                    if not each:
                        texts.append(raw)
                        continue
                    tokens: tuple[tuple[str, float], ...] = ()
                    if request.logprobs:
                        tokens = self._tokens(response, raw[len(before) :] if cumulative else raw)
                        before = raw
                    new = text.feed(raw)
                    if new or tokens:
                        pieces.append(Piece(new, counts.read or prompt_tokens or 0, counts.so_far, tokens))
                    if text.stopped:
                        break
                # Nobody sees the pieces of a whole answer, so what came together is taken together.
                if texts and (new := text.feed_all(texts)):
                    pieces.append(Piece(new, 0, counts.so_far))
                if pieces:
                    yield pieces
                if text.stopped:
                    break  # leaving the stream cancels the request in Triton
        if not counts.responses:
            raise ApiError(502, "Triton ended the answer without a response.", code="upstream_error")
        reason, written = self._reason(text, counts, max_tokens)
        read = counts.read or prompt_tokens
        if read is None:
            read = self.tokenizer.count(prompt, special=interface.adds_special_tokens)
        if new := text.finish(cut_off=reason == "length"):
            yield [Piece(new, read, written)]
        yield Finish(reason, read, written, text.hit)

    def _can_stream(self, interface: Interface) -> bool:
        """Whether pieces as Triton sends them make the right text; if not, an answer is one whole piece."""
        if not interface.decoupled:
            return False
        right = interface.cumulative or self.tokenizer.concatenative
        if not right and not self._warned:
            self._warned = True
            LOG.warning(
                "model %s: this tokenizer loses spaces when tokens are decoded one by one, so answers arrive in one "
                "piece and are not ended early when a client leaves; serve tensorrt_llm_bls with accumulate_tokens",
                self.name,
            )
        return right

    async def _budget(self, request: GenerateRequest, prompt: str, interface: Interface) -> tuple[int, int | None]:
        """How many tokens the answer may have, and the prompt's tokens if they were counted.

        They are not where the prompt fits for sure, as a token holds at least one byte, and the engine will count.
        Raises ApiError 400 where the context is too short.
        """
        limit, wanted = self.max_seq_len, request.max_tokens
        most = wanted or request.default_max_tokens
        if limit is None or (interface.counts_tokens and _fits(prompt, limit - SPECIAL_ROOM - most)):
            return most, None
        tokens, exact = await self.tokenizer.count_up_to(limit, prompt, special=interface.adds_special_tokens)
        left = limit - tokens
        if left < 1 or (wanted is not None and wanted > left):
            asked = "" if wanted is None else f" and {wanted} for the answer"
            raise ApiError(
                400,
                f"The model '{self.name}' has a context of {limit} tokens; this request needs "
                f"{'' if exact else 'more than '}{tokens} for its prompt{asked}.",
                param=request.limit_param if left >= 1 else "messages" if request.chat else "prompt",
                code="context_length_exceeded",
            )
        return min(most, left), tokens

    def _tokens(self, response: Mapping[str, Any], text: str) -> tuple[tuple[str, float], ...]:
        """The tokens that are new in *response*, whose new text is *text*, with their log probabilities."""
        values = response.get("output_log_probs") or []
        new = _number(response.get("num_output_tokens")) or 0
        # Some engines repeat the values of all tokens so far.
        values = (values if isinstance(values, list) else [values])[-new:] if new else []
        return tuple(zip(self.tokenizer.split(text, len(values)), map(float, values), strict=True)) if values else ()

    def _reason(self, text: AnswerText, counts: _Counts, max_tokens: int) -> tuple[str, int]:
        """Say why the answer ended, and how many tokens it has.

        The engine's own word and count are exact. Without (releases before the counts existed) the text is counted
        again, which may differ by a merge; a stream brings one token with each response then.
        """
        written = counts.written
        if written is None:
            written = self.tokenizer.count(text.text if text.stopped else text.generated)
        if counts.reason and not text.stopped:
            return counts.reason, written
        reached = max(written, counts.texts if counts.written is None else 0) >= max_tokens
        return "length" if reached and not text.stopped else "stop", written


def _text(response: Mapping[str, Any]) -> str:
    """Text_output, of the first beam if there are several."""
    value = response.get("text_output", "")
    if type(value) is str:
        return value
    if isinstance(value, list):
        value = value[0] if value else ""
    return str(value)


def _fits(prompt: str, room: int) -> bool:
    """Whether *prompt* has at most *room* bytes; one of more characters is not looked through."""
    return len(prompt) <= room and len(prompt.encode()) <= room


def _number(value: Any) -> int | None:
    if isinstance(value, list):
        value = value[0] if value else None
    return int(value) if isinstance(value, (int, float)) else None
