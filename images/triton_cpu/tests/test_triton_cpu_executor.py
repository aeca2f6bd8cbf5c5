# SPDX-License-Identifier: GPL-3.0-or-later
"""In-flight batching of the CPU image: what ends an answer, what is refused, and that company changes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorrt_llm.errors import TrtllmError
from tensorrt_llm.executor import MAX_UTILIZATION, Executor, Limits, Request, Result, serve_steps
from tensorrt_llm.kv_cache import BlockAllocator
from tensorrt_llm.sampling import SamplingParams
from triton_cpu_fakes import GOLDEN, TOKENS_PER_BLOCK, World, golden_llama, make_engine

PROMPT = golden_llama.prompt_of("gqa")
ANSWER = [int(token) for token in GOLDEN["gqa.continuation"]]
LIMITS = Limits(
    max_batch_size=4, max_input_len=64, max_seq_len=96, max_num_tokens=128, vocab_size=97,
    gather_context_logits=True, gather_generation_logits=True, cancellation_check_seconds=0.0,
)  # fmt: skip


class Answers:
    """Collects what is delivered for one request."""

    def __init__(self) -> None:
        self.parts: list[Result] = []
        self._done = threading.Event()

    def deliver(self, result: Result) -> None:
        self.parts.append(result)
        if result.final:
            self._done.set()

    def wait(self) -> Result:
        assert self._done.wait(30), "no final result came"
        return self.parts[-1]

    @property
    def tokens(self) -> list[int]:
        self.wait()
        return [token for part in self.parts for token in part.tokens]


class ExecutorHarness:
    """An executor over a world of threads."""

    def __init__(self, world: World, limits: Limits, blocks: int) -> None:
        self.warnings: list[str] = []
        self.allocator = BlockAllocator(blocks, TOKENS_PER_BLOCK)
        self._workers = [
            threading.Thread(target=serve_steps, args=(model, comm))
            for model, comm in zip(world.models[1:], world.comms[1:], strict=True)
        ]
        for worker in self._workers:
            worker.start()
        self.executor = Executor(world.models[0], world.comms[0], limits, self.allocator, self.warnings.append)

    def ask(self, tokens: list[int] = PROMPT, count: int = 12, **wishes: Any) -> Answers:
        answers = Answers()
        self.executor.submit(Request(list(tokens), count, answers.deliver, **wishes))
        return answers

    def close(self) -> None:
        self.executor.close()
        for worker in self._workers:
            worker.join(10)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(make_engine("gqa", tmp_path_factory.mktemp("engine")))


@pytest.fixture
def harness(world: World) -> Iterator[ExecutorHarness]:
    made = ExecutorHarness(world, LIMITS, 64)
    yield made
    made.close()
    assert made.allocator.free == made.allocator.total, "cache blocks were lost"


def test_one_answer_and_its_streamed_parts_are_the_same(harness: ExecutorHarness) -> None:
    whole, parts = harness.ask(), harness.ask(streaming=True)
    assert whole.tokens == parts.tokens == ANSWER
    assert len(whole.parts) == 1
    assert [len(part.tokens) for part in parts.parts] == [1] * 12
    assert [part.final for part in parts.parts] == [False] * 11 + [True]
    assert parts.wait().cum_log_prob == pytest.approx(sum(p for part in parts.parts for p in part.log_probs))


def test_the_end_token_ends_and_is_not_part_of_the_answer(harness: ExecutorHarness) -> None:
    assert harness.ask(end_id=ANSWER[4]).tokens == ANSWER[:4]
    streamed = harness.ask(end_id=ANSWER[4], streaming=True)
    assert streamed.tokens == ANSWER[:4]
    assert streamed.wait().tokens == []
    assert harness.ask(end_id=ANSWER[0]).tokens == []


def test_stop_words_end_and_are_part_of_the_answer(harness: ExecutorHarness) -> None:
    assert harness.ask(stop_words=[[ANSWER[2], ANSWER[3]], [96, 96]]).tokens == ANSWER[:4]
    assert harness.ask(stop_words=[[PROMPT[-1], ANSWER[0]]]).tokens == ANSWER, "the prompt completes no stop word"


def test_bad_words_change_the_answer(harness: ExecutorHarness) -> None:
    tokens = harness.ask(bad_words=[[ANSWER[1], ANSWER[2]]]).tokens
    assert tokens[:2] == ANSWER[:2]
    assert tokens[2] != ANSWER[2]


def test_logits_are_those_of_the_forward_pass(harness: ExecutorHarness) -> None:
    result = harness.ask(return_context_logits=True, return_generation_logits=True).wait()
    assert result.context_logits is not None and result.generation_logits is not None
    np.testing.assert_allclose(result.context_logits, GOLDEN["gqa.logits"][:20], atol=1e-3)
    np.testing.assert_allclose(result.generation_logits, GOLDEN["gqa.logits"][19:31], atol=1e-3)


def test_company_changes_no_answer(harness: ExecutorHarness) -> None:
    """More requests than fit the batch, greedy and sampled, all at once and each alone."""

    def wishes(number: int) -> dict[str, Any]:
        return {"sampling": SamplingParams(top_k=0 if number % 2 else 8, temperature=1.5, seed=number)}

    alone = [harness.ask(PROMPT[: 3 + number], 10, **wishes(number)).tokens for number in range(9)]
    together = [harness.ask(PROMPT[: 3 + number], 10, **wishes(number)) for number in range(9)]
    assert [answers.tokens for answers in together] == alone


@pytest.mark.parametrize(
    ("changes", "blocks"),
    [
        ({"policy": MAX_UTILIZATION}, 20),
        ({"policy": MAX_UTILIZATION, "max_num_tokens": 24}, 20),
        ({"chunked_context": True, "max_num_tokens": 7}, 64),
        ({"inflight": False}, 64),
        ({"max_batch_size": 1}, 64),
        ({}, 12),
    ],
)
def test_no_way_of_batching_changes_an_answer(world: World, changes: dict[str, Any], blocks: int) -> None:
    """Little cache, paused sequences, prompts in pieces, static batches: slower, never different."""
    harness = ExecutorHarness(world, replace(LIMITS, **changes), blocks)
    asked = [harness.ask(PROMPT, 12) for _ in range(6)]
    assert [answers.tokens for answers in asked] == [ANSWER] * 6
    if changes.get("policy") == MAX_UTILIZATION:
        assert harness.executor.stats.paused > 0
    harness.close()
    assert harness.allocator.free == blocks


def test_two_ranks_and_two_stages_answer_as_one(tmp_path: Path) -> None:
    for name, options in (("tp2", ("--tp_size", 2)), ("pp2", ("--pp_size", 2))):
        harness = ExecutorHarness(World(make_engine("gqa", tmp_path / name, converting=options)), LIMITS, 64)
        assert harness.ask().tokens == ANSWER
        harness.close()


def test_a_client_that_went_away_is_not_computed_for(harness: ExecutorHarness) -> None:
    gone = threading.Event()
    answers = harness.ask(count=70, streaming=True, cancelled=gone.is_set)
    while len(answers.parts) < 3:
        time.sleep(0.001)
    gone.set()
    assert answers.wait().cancelled
    assert answers.wait().generated < 70


def test_a_named_request_can_be_stopped(harness: ExecutorHarness) -> None:
    answers = harness.ask(count=70, streaming=True, name="r1")
    other = harness.ask(count=12, name="r2")
    while not answers.parts:
        time.sleep(0.001)
    harness.executor.stop("r1")
    assert answers.wait().error is None
    assert answers.wait().generated < 70
    assert other.tokens == ANSWER


def test_a_client_that_cannot_be_answered_stops_nobody_else(harness: ExecutorHarness) -> None:
    def broken(result: Result) -> None:
        raise OSError("gone")

    harness.executor.submit(Request(list(PROMPT), 60, broken, streaming=True))
    assert harness.ask().tokens == ANSWER
    assert any("could not be delivered" in text for text in harness.warnings)


def test_output_beyond_the_engine_is_cut_with_a_warning(harness: ExecutorHarness) -> None:
    assert harness.ask(count=5000).wait().generated == LIMITS.max_seq_len - len(PROMPT)
    assert "Number of requested output tokens is changed to (76)" in harness.warnings[0]


@pytest.mark.parametrize(
    ("tokens", "count", "wishes", "changes", "text"),
    [
        ([], 1, {}, {}, "no tokens"),
        ([1], 0, {}, {}, "request_output_len is 0"),
        ([1, 97], 1, {}, {}, "token 97 is not in the model's vocabulary of 97"),
        ([1] * 65, 1, {}, {}, r"Prompt length \(65\) exceeds maximum input length \(64\)"),
        ([1] * 60, 1, {}, {"max_seq_len": 60}, r"leaves no room in the maximum sequence length \(60\)"),
        ([1] * 30, 1, {}, {"max_num_tokens": 16}, r"exceeds max_num_tokens \(16\)"),
        ([1], 1, {"return_context_logits": True}, {"gather_context_logits": False}, "context logits are not gathered"),
        ([1], 1, {"return_generation_logits": True}, {"gather_generation_logits": False}, "generation logits are not"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_at_once(
    world: World, tokens: list[int], count: int, wishes: dict[str, Any], changes: dict[str, Any], text: str
) -> None:
    harness = ExecutorHarness(world, replace(LIMITS, **changes), 64)
    try:
        with pytest.raises(TrtllmError, match=text):
            harness.ask(tokens, count, **wishes)
    finally:
        harness.close()


def test_a_closed_executor_ends_what_runs_and_takes_nothing(world: World) -> None:
    harness = ExecutorHarness(world, LIMITS, 64)
    answers = harness.ask(count=70)
    harness.close()
    assert "unloaded" in str(answers.wait().error) or answers.wait().generated == 70
    with pytest.raises(TrtllmError, match="unloaded"):
        harness.ask()


def test_stats_describe_the_batch(harness: ExecutorHarness) -> None:
    harness.ask(count=40).wait()
    time.sleep(0.05)
    stats = harness.executor.stats
    assert stats.iteration >= 40
    assert (stats.active, stats.waiting, stats.blocks_used) == (0, 0, 0)
    assert stats.blocks_max == stats.blocks_free == 64
    assert stats.timestamp > 0
