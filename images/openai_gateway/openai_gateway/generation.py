# SPDX-License-Identifier: GPL-3.0-or-later
"""One answer: choose a replica, send the prompt, cut the text, count the tokens, say why it ended."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from openai_gateway.config import ModelConfig
from openai_gateway.errors import ApiError
from openai_gateway.interface import Interface
from openai_gateway.replicas import Replica, ReplicaSet
from openai_gateway.text import AnswerText
from openai_gateway.tokenizer import CheckpointTokenizer, Prompt
from openai_gateway.triton import SeveralResponses, TritonClient, Unreachable

LOG = logging.getLogger("openai_gateway")
RETRY_ELSEWHERE = {"model_not_ready", "upstream_error"}  # a fault of this replica, perhaps not of the next


@dataclass(frozen=True)
class GenerateRequest:
    """A request stripped of what is OpenAI's."""

    text: str
    chat: bool  # text came out of a chat template
    max_tokens: int | None
    limit_param: str  # the parameter to name when max_tokens is too large
    sampling: Mapping[str, int | float]
    optional: Mapping[str, int | float]
    stop: tuple[str, ...] = ()
    stream: bool = False


@dataclass(frozen=True)
class Finish:
    """How an answer ended."""

    reason: str  # stop or length
    prompt_tokens: int
    completion_tokens: int


class _Counts:
    """What the engine says of its tokens.

    Upstream's C++ backend reports the tokens of each response (1, 1, 1 in a stream); others report all so far
    (1, 2, 3). Only the latter grow from response to response and never fall behind the responses with text.
    """

    def __init__(self) -> None:
        self.read: int | None = None
        self.responses = 0
        self.texts = 0  # responses that brought text
        self._reported: list[int] = []
        self._sum_so_far = True  # every report so far could be one of all tokens

    def feed(self, response: Mapping[str, Any]) -> None:
        """Take in one response."""
        self.responses += 1
        self.texts += bool(_text(response))
        read, written = _number(response.get("num_input_tokens")), _number(response.get("num_output_tokens"))
        if read:
            self.read = read
        if written is not None:
            before = self._reported[-1] if self._reported else 0
            self._sum_so_far &= written > before and written >= self.texts
            self._reported.append(written)

    @property
    def written(self) -> int | None:
        """The tokens of the answer, or None if the engine does not count."""
        if not self._reported:
            return None
        return self._reported[-1] if self._sum_so_far else sum(self._reported)


class ServedModel:
    """A name that clients may ask for, with all it takes to answer."""

    def __init__(self, config: ModelConfig, http: httpx.AsyncClient) -> None:
        self.config = config
        self.name = config.name
        self.tokenizer = CheckpointTokenizer(config)
        self.replicas = ReplicaSet(config.urls)
        self.max_seq_len = config.max_seq_len or self.tokenizer.max_positions
        self._http = http
        self._warned = False

    async def answer(self, ask: GenerateRequest) -> AsyncGenerator[str | Finish, None]:
        """Yield the answer's text in pieces and its Finish last.

        Another replica is tried as long as nothing was yielded. Raises ApiError.
        """
        shown = False
        problems: list[str] = []
        last: ApiError | None = None
        for replica in self.replicas.order():
            try:
                with self.replicas.working(replica):
                    async with aclosing(self.on_replica(replica, ask)) as pieces:
                        async for piece in pieces:
                            shown = True
                            yield piece
                self.replicas.succeeded(replica)
                return
            except Unreachable as error:
                problems.append(str(error))
            except ApiError as error:
                if error.code not in RETRY_ELSEWHERE:
                    raise
                problems.append(f"{replica.url}: {error.message}")
                last = error
            LOG.warning("model %s: replica failed: %s", self.name, problems[-1])
            self.replicas.failed(replica)
            if shown:
                raise last or ApiError(502, f"The answer broke off: {problems[-1]}", code="upstream_error")
        raise last or ApiError(
            503,
            f"No replica of the model '{self.name}' can be reached ({'; '.join(problems)}).",
            code="model_unavailable",
            retry_after=5,
        )

    async def on_replica(self, replica: Replica, ask: GenerateRequest) -> AsyncGenerator[str | Finish, None]:
        """Yield the answer of one replica."""
        client = TritonClient(self._http, replica.url)
        interface = replica.interface
        if interface is None:
            interface = await client.interface(self.config.entry_model, self.config.release)
            replica.interface = interface
        prompt = self.tokenizer.prompt(ask.text, interface.adds_special_tokens, chat=ask.chat)
        max_tokens = self._budget(ask, prompt)
        stream = ask.stream and self._can_stream(interface)
        payload = interface.payload(
            prompt.text,
            max_tokens,
            stream=stream,
            sampling=ask.sampling,
            optional={**ask.optional, **self._end_tokens()},
            stop=[*self._end_words(), *ask.stop],
        )
        text = AnswerText(ask.stop, cumulative=stream and interface.cumulative)
        counts = _Counts()
        async with aclosing(self._responses(client, payload, stream)) as responses:
            async for response in responses:
                counts.feed(response)
                self.replicas.answering(replica)
                if piece := text.feed(_text(response)):
                    yield piece
                if text.stopped:
                    break  # leaving the stream cancels the request in Triton
        if not counts.responses:
            raise ApiError(502, "Triton ended the answer without a response.", code="upstream_error")
        if piece := text.finish():
            yield piece
        yield self._ending(text, counts, prompt, max_tokens)

    async def _responses(
        self, client: TritonClient, payload: dict[str, Any], stream: bool
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield Triton's responses; several to a request that wanted one are joined by the caller."""
        model = self.config.entry_model
        if not stream:
            try:
                yield await client.generate(model, payload)
                return
            except SeveralResponses:
                LOG.debug("model %s answers several times; asking by generate_stream", self.name)
        async with aclosing(client.generate_stream(model, payload)) as responses:
            async for response in responses:
                yield response

    def _can_stream(self, interface: Interface) -> bool:
        """Whether pieces as Triton sends them make the right text; if not, a stream gets one whole piece."""
        if not interface.decoupled:
            return False
        right = interface.cumulative or self.tokenizer.concatenative
        if not right and not self._warned:
            self._warned = True
            LOG.warning(
                "model %s: this tokenizer loses spaces when tokens are decoded one by one, so streams arrive "
                "in one piece; serve tensorrt_llm_bls with accumulate_tokens to stream token by token",
                self.name,
            )
        return right

    def _budget(self, ask: GenerateRequest, prompt: Prompt) -> int:
        """Return how many tokens the answer may have; raise ApiError 400 where the context is too short."""
        limit, wanted = self.max_seq_len, ask.max_tokens
        if limit is None:
            return wanted or self.config.default_max_tokens
        left = limit - prompt.tokens
        if left < 1 or (wanted is not None and wanted > left):
            asked = "" if wanted is None else f" and {wanted} for the answer"
            raise ApiError(
                400,
                f"The model '{self.name}' has a context of {limit} tokens; this request needs "
                f"{prompt.tokens} for its prompt{asked}.",
                param=ask.limit_param if left >= 1 else "messages" if ask.chat else "prompt",
                code="context_length_exceeded",
            )
        return min(wanted or self.config.default_max_tokens, left)

    def _end_tokens(self) -> dict[str, int]:
        """The ids that end and fill an answer: preprocessing of old releases has no default for them."""
        ids = self.tokenizer.end_ids
        return {"end_id": ids[0], "pad_id": ids[0]} if ids else {}

    def _end_words(self) -> list[str]:
        """The text of further tokens that end an answer: the engine knows only one end_id."""
        words = (self.tokenizer.token(i) for i in self.tokenizer.end_ids[1:])
        return [word for word in words if word]

    def _ending(self, text: AnswerText, counts: _Counts, prompt: Prompt, max_tokens: int) -> Finish:
        """Say why the answer ended, and what it cost.

        The engine's own count is exact and also holds the token that ended the answer. Without it (releases
        before the counts existed) the text is counted again, which may differ by a merge; a stream brings one
        token with each response then.
        """
        written = counts.written
        if written is None:
            written = self.tokenizer.count(text.text if text.stopped else text.generated)
        reached = max(written, counts.texts if counts.written is None else 0) >= max_tokens
        reason = "length" if reached and not text.stopped else "stop"
        return Finish(reason, counts.read or prompt.tokens, written)


def _text(response: Mapping[str, Any]) -> str:
    """Return text_output, of the first beam if there are several."""
    value = response.get("text_output", "")
    if isinstance(value, list):
        value = value[0] if value else ""
    return value if isinstance(value, str) else str(value)


def _number(value: Any) -> int | None:
    if isinstance(value, list):
        value = value[0] if value else None
    return int(value) if isinstance(value, (int, float)) else None
