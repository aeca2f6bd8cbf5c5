# SPDX-License-Identifier: GPL-3.0-or-later
"""In-flight batching: requests join and leave the running batch between two steps.

The leading rank schedules, samples and answers; the other ranks of the model wait for its steps and compute
their share. A request's answer is delivered through its `deliver`, from the executor's own thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .communicator import Communicator
from .errors import TrtllmError
from .guided import Guide
from .kv_cache import BlockAllocator
from .llama import Chunk, Llama
from .safetensors_file import Float32
from .sampling import Sampler, SamplingParams
from .words import ends_with_any

GUARANTEED_NO_EVICT = "guaranteed_no_evict"
MAX_UTILIZATION = "max_utilization"


@dataclass
class Result:
    """An answer or, when streaming, a part of one. Token and log-probability lists are what is new in it."""

    tokens: list[int]
    log_probs: list[float]
    cum_log_prob: float
    final: bool
    generated: int
    context_logits: Float32 | None = None
    generation_logits: Float32 | None = None
    error: str | None = None
    cancelled: bool = False
    timing: Timing | None = None
    cache_blocks: int = 0


@dataclass
class Timing:
    """Nanoseconds of the monotonic clock; 0 where not reached."""

    arrival: int = 0
    scheduled: int = 0
    first_token: int = 0
    last_token: int = 0


@dataclass(eq=False)
class Request:
    """What a client asked for, with tokens in place of text."""

    tokens: list[int]
    max_new_tokens: int
    deliver: Callable[[Result], None]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    end_id: int = -1
    stop_words: list[list[int]] = field(default_factory=list)
    bad_words: list[list[int]] = field(default_factory=list)
    bias: Float32 | None = None
    guide: Guide | None = None
    streaming: bool = False
    return_context_logits: bool = False
    return_generation_logits: bool = False
    cancelled: Callable[[], bool] = lambda: False
    name: str = ""


@dataclass
class Limits:
    """What the engine was built for, and how the batch is made up."""

    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    vocab_size: int
    gather_context_logits: bool = False
    gather_generation_logits: bool = False
    policy: str = GUARANTEED_NO_EVICT
    chunked_context: bool = False
    inflight: bool = True
    cancellation_check_seconds: float = 0.1


@dataclass
class Stats:
    """A picture of the last iteration."""

    iteration: int = 0
    active: int = 0
    waiting: int = 0
    scheduled: int = 0
    context: int = 0
    generation: int = 0
    paused: int = 0
    context_tokens: int = 0
    blocks_max: int = 0
    blocks_used: int = 0
    blocks_free: int = 0
    tokens_per_block: int = 0
    timestamp: float = 0.0


class _Sequence:
    """A request in the batch."""

    def __init__(self, request: Request, vocabulary: int) -> None:
        self.request = request
        self.tokens = list(request.tokens)
        self.computed = 0
        self.blocks: list[int] = []
        self.blocks_taken = 0
        self.sampler = Sampler(request.sampling, vocabulary, request.end_id, request.bad_words, request.bias)
        self.log_probs: list[float] = []
        self.cum_log_prob = 0.0
        self.reported = 0
        self.context_logits: list[Float32] = []
        self.generation_logits: list[Float32] = []
        self.timing = Timing(arrival=time.monotonic_ns())
        self.stop = False

    @property
    def prompt(self) -> int:
        return len(self.request.tokens)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt

    @property
    def pending(self) -> int:
        """Tokens whose keys and values are not in the cache yet."""
        return len(self.tokens) - self.computed


class Executor:
    """The leading rank's scheduler."""

    def __init__(
        self, model: Llama, comm: Communicator, limits: Limits, allocator: BlockAllocator, log: Callable[[str], None]
    ) -> None:
        """`log` takes warnings."""
        self._model, self._comm, self._limits, self._cache, self._log = model, comm, limits, allocator, log
        self._waiting: deque[_Sequence] = deque()
        self._active: list[_Sequence] = []
        self._changed = threading.Condition()
        self._closing = False
        self._next_check = 0.0
        self.stats = Stats(
            blocks_max=allocator.total, blocks_free=allocator.free, tokens_per_block=allocator.tokens_per_block
        )
        self._thread = threading.Thread(target=self._run, name="executor", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request. Raises TrtllmError, and delivers nothing, if the engine cannot serve it."""
        self._check(request)
        sequence = _Sequence(request, self._limits.vocab_size)
        with self._changed:
            if self._closing:
                raise TrtllmError("the model is being unloaded; ask again when the server is ready")
            self._waiting.append(sequence)
            self._changed.notify()

    def stop(self, name: str) -> None:
        """End the requests of that name as if they had reached their length."""
        with self._changed:
            for sequence in [*self._waiting, *self._active]:
                if sequence.request.name == name:
                    sequence.stop = True

    def close(self) -> None:
        """Cancel what runs, release the other ranks and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        for rank in range(1, self._comm.size):
            self._comm.send(None, rank)
        self._comm.close()

    def _check(self, request: Request) -> None:
        limits, prompt = self._limits, len(request.tokens)
        if not prompt:
            raise TrtllmError("the prompt has no tokens; give at least one")
        if request.max_new_tokens < 1:
            raise TrtllmError(f"request_output_len is {request.max_new_tokens}, expected at least 1")
        if min(request.tokens) < 0 or max(request.tokens) >= limits.vocab_size:
            bad = next(t for t in request.tokens if not 0 <= t < limits.vocab_size)
            raise TrtllmError(f"token {bad} is not in the model's vocabulary of {limits.vocab_size}")
        if prompt > limits.max_input_len:
            raise TrtllmError(
                f"Prompt length ({prompt}) exceeds maximum input length ({limits.max_input_len});"
                " shorten it or build the engine with a larger max_input_len"
            )
        if prompt + 1 > limits.max_seq_len:
            raise TrtllmError(
                f"Prompt length ({prompt}) leaves no room in the maximum sequence length ({limits.max_seq_len})"
            )
        if prompt > limits.max_num_tokens and not limits.chunked_context:
            raise TrtllmError(
                f"Prompt length ({prompt}) exceeds max_num_tokens ({limits.max_num_tokens});"
                " set enable_chunked_context or build the engine with a larger max_num_tokens"
            )
        if prompt + request.max_new_tokens > limits.max_seq_len:
            room = limits.max_seq_len - prompt
            self._log(
                f"Prompt length + number of requested output tokens ({prompt} + {request.max_new_tokens}) exceeds"
                f" maximum sequence length ({limits.max_seq_len}). Number of requested output tokens is changed to"
                f" ({room})."
            )
            request.max_new_tokens = room
        for wanted, gathered, what in (
            (request.return_context_logits, limits.gather_context_logits, "context"),
            (request.return_generation_logits, limits.gather_generation_logits, "generation"),
        ):
            if wanted and not gathered:
                raise TrtllmError(
                    f"{what} logits are not gathered by this engine; build it with --gather_{what}_logits for them"
                )
        if self._cache.blocks_for(prompt + request.max_new_tokens) > self._cache.total:
            raise TrtllmError(
                f"{prompt + request.max_new_tokens} tokens need more key-value cache than the {self._cache.total}"
                f" blocks of {self._cache.tokens_per_block} tokens that there are; raise kv_cache_free_gpu_mem_fraction"
            )

    # The rest runs in the executor's thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._active or self._closing):
                    self._record([])
                    self._changed.wait()
                if self._closing:
                    break
            self._step()
        for sequence in [*self._active, *self._waiting]:
            self._finish(sequence, error="the model was unloaded while the request ran")

    def _step(self) -> None:
        self._drop_cancelled()
        with self._changed:
            self._admit()
        plan = self._plan()
        self._record(plan)
        if not plan:
            return
        try:
            logits = self._compute([chunk for _, chunk in plan])
        except Exception as e:  # whatever broke one step broke it for the whole batch: say so to every client
            self._log(f"a step of {len(plan)} sequences failed: {e!r}")
            for sequence, _ in plan:
                self._finish(sequence, error=f"the step failed: {e}")
            return
        for (sequence, chunk), rows in zip(plan, logits, strict=True):
            sequence.computed = chunk.end
            if chunk.all_logits:
                sequence.context_logits.append(rows)
            if chunk.logits:
                self._extend(sequence, rows[-1])

    def _drop_cancelled(self) -> None:
        """End what was stopped, and now and then ask whether clients have gone: asking costs a round trip each."""
        ask = time.monotonic() >= self._next_check
        if ask:
            self._next_check = time.monotonic() + self._limits.cancellation_check_seconds
        with self._changed:
            sequences = [*self._active, *self._waiting]
        for sequence in sequences:
            if sequence.stop:
                self._finish(sequence)
            elif ask and sequence.request.cancelled():
                self._finish(sequence, cancelled=True)

    def _compute(self, chunks: list[Chunk]) -> list[Float32]:
        for rank in range(1, self._comm.size):
            self._comm.send(chunks, rank)
        logits = self._model.forward(chunks)
        assert logits is not None
        return logits

    def _admit(self) -> None:
        """Take waiting requests into the batch, in order, while there is room for them."""
        if not self._limits.inflight and self._active:
            return
        while self._waiting and len(self._active) < self._limits.max_batch_size:
            sequence = self._waiting[0]
            whole = sequence.prompt + sequence.request.max_new_tokens
            need = whole if self._limits.policy == GUARANTEED_NO_EVICT else len(sequence.tokens) + 1
            if self._cache.blocks_for(need) > self._cache.free:
                return
            sequence.blocks = self._cache.take(self._cache.blocks_for(need))
            sequence.blocks_taken = len(sequence.blocks)
            sequence.timing.scheduled = sequence.timing.scheduled or time.monotonic_ns()
            self._active.append(self._waiting.popleft())

    def _plan(self) -> list[tuple[_Sequence, Chunk]]:
        """The chunks of the next step: running answers first, then prompts as far as max_num_tokens allows."""
        budget = self._limits.max_num_tokens
        plan: list[tuple[_Sequence, Chunk]] = []
        for sequence in sorted(self._active, key=lambda s: s.pending > 1):
            if sequence not in self._active:
                continue  # paused for another one a moment ago
            count = sequence.pending
            if count > budget:
                # A sequence that was paused may have outgrown one step, so it is always computed in parts.
                if not budget or not (self._limits.chunked_context or sequence.generated):
                    continue
                count = budget
            if not self._grow(sequence, sequence.computed + count):
                continue
            budget -= count
            last = count == sequence.pending
            tokens = sequence.tokens[sequence.computed : sequence.computed + count]
            gather = sequence.request.return_context_logits and not sequence.generated
            plan.append((sequence, Chunk(tokens, sequence.computed, list(sequence.blocks), last, gather)))
        return [(sequence, chunk) for sequence, chunk in plan if sequence in self._active]

    def _grow(self, sequence: _Sequence, length: int) -> bool:
        """Lend blocks for `length` positions, pausing the youngest other sequence when there are none."""
        need = self._cache.blocks_for(length) - len(sequence.blocks)
        while need > self._cache.free:
            victim = self._active[-1]
            self._pause(victim)
            if victim is sequence:
                return False
        if need > 0:
            sequence.blocks += self._cache.take(need)
            sequence.blocks_taken += need
        return True

    def _pause(self, sequence: _Sequence) -> None:
        """Take a sequence out of the batch; it will compute its tokens anew."""
        self._active.remove(sequence)
        self._cache.give_back(sequence.blocks)
        sequence.blocks, sequence.computed = [], 0
        self._waiting.appendleft(sequence)
        self.stats.paused += 1

    def _extend(self, sequence: _Sequence, logits: Float32) -> None:
        """Draw the next token and report or finish."""
        request, guide = sequence.request, sequence.request.guide
        allowed = guide.allowed() if guide else None
        try:
            token, log_prob = sequence.sampler.draw(logits, sequence.tokens, sequence.generated, allowed)
        except TrtllmError as e:
            self._finish(sequence, error=str(e))
            return
        now = time.monotonic_ns()
        sequence.timing.first_token = sequence.timing.first_token or now
        sequence.timing.last_token = now
        if token == request.end_id or (guide and not guide.advance(token)):
            self._finish(sequence)
            return
        sequence.tokens.append(token)
        sequence.log_probs.append(log_prob)
        sequence.cum_log_prob += log_prob
        if request.return_generation_logits:
            sequence.generation_logits.append(logits.copy())
        if sequence.generated >= request.max_new_tokens or ends_with_any(
            sequence.tokens[sequence.prompt :], request.stop_words
        ):
            self._finish(sequence)
        elif request.streaming:
            self._deliver(sequence, final=False)

    def _finish(self, sequence: _Sequence, *, error: str | None = None, cancelled: bool = False) -> None:
        with self._changed:
            if sequence in self._active:
                self._active.remove(sequence)
            elif sequence in self._waiting:
                self._waiting.remove(sequence)
        self._cache.give_back(sequence.blocks)
        sequence.blocks = []
        self._deliver(sequence, final=True, error=error, cancelled=cancelled)

    def _deliver(self, sequence: _Sequence, *, final: bool, error: str | None = None, cancelled: bool = False) -> None:
        begin, sequence.reported = sequence.reported, sequence.generated
        context, sequence.context_logits = sequence.context_logits, []
        generation, sequence.generation_logits = sequence.generation_logits, []
        result = Result(
            tokens=sequence.tokens[sequence.prompt + begin :],
            log_probs=sequence.log_probs[begin:],
            cum_log_prob=sequence.cum_log_prob,
            final=final,
            generated=sequence.generated,
            context_logits=np.concatenate(context)[: sequence.prompt] if context else None,
            generation_logits=np.stack(generation) if generation else None,
            error=error,
            cancelled=cancelled,
            timing=sequence.timing,
            cache_blocks=sequence.blocks_taken,
        )
        try:
            sequence.request.deliver(result)
        except Exception as e:  # a client that cannot be answered must not stop the others
            self._log(f"an answer could not be delivered: {e!r}")
            sequence.stop = True

    def _record(self, plan: list[tuple[_Sequence, Chunk]]) -> None:
        context = [chunk for sequence, chunk in plan if sequence.computed < sequence.prompt]
        s = self.stats
        self.stats = Stats(
            iteration=s.iteration + bool(plan),
            active=len(self._active),
            waiting=len(self._waiting),
            scheduled=len(plan),
            context=len(context),
            generation=len(plan) - len(context),
            paused=s.paused,
            context_tokens=sum(len(chunk.tokens) for chunk in context),
            blocks_max=self._cache.total,
            blocks_used=self._cache.used,
            blocks_free=self._cache.free,
            tokens_per_block=self._cache.tokens_per_block,
            timestamp=time.time() if plan or not s.timestamp else s.timestamp,
        )


def serve_steps(model: Llama, comm: Communicator) -> None:
    """What a rank other than the leading one does until it is released."""
    while True:
        chunks = comm.receive(0)
        if chunks is None:
            comm.close()
            return
        model.forward(chunks)
