# SPDX-License-Identifier: GPL-3.0-or-later
"""The CPU image's forward pass: right to 1e-3 against transformers, alike for every split and every batching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorrt_llm.llama import Chunk
from tensorrt_llm.safetensors_file import Float32
from triton_cpu_fakes import GOLDEN, World, blocks_for, golden_llama, make_engine

CASES = list(golden_llama.CASES)
SPLITS = {
    "tp2": ("--tp_size", 2),
    "tp4": ("--tp_size", 4),
    "pp2": ("--pp_size", 2),
    "tp2_pp2": ("--tp_size", 2, "--pp_size", 2, "--workers", 2),
    "tp2_vocabulary": ("--tp_size", 2, "--use_parallel_embedding"),
    "tp2_columns": ("--tp_size", 2, "--use_parallel_embedding", "--embedding_sharding_dim", 1),
}


def all_tokens(case: str) -> list[int]:
    return golden_llama.prompt_of(case) + [int(token) for token in GOLDEN[f"{case}.continuation"]]


def whole_logits(world: World, tokens: list[int]) -> Float32:
    return world.forward([Chunk(tokens, 0, blocks_for(len(tokens)), all_logits=True)])[0]


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    logits = whole_logits(World(make_engine(case, tmp_path)), all_tokens(case))
    np.testing.assert_allclose(logits, GOLDEN[f"{case}.logits"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("case", ["gqa", "biases_linear_rope", "llama3_rope_tied"])
def test_every_split_gives_the_same_logits(case: str, split: str, tmp_path: Path) -> None:
    """A vocabulary of 97 does not divide over the ranks, and with 4 ranks the key-value heads are repeated."""
    logits = whole_logits(World(make_engine(case, tmp_path, converting=SPLITS[split])), all_tokens(case))
    np.testing.assert_allclose(logits, GOLDEN[f"{case}.logits"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_greedy_continuation_through_the_cache(case: str, tmp_path: Path) -> None:
    world = World(make_engine(case, tmp_path))
    tokens, start, blocks = golden_llama.prompt_of(case), 0, blocks_for(64)
    for _ in range(golden_llama.NEW_TOKENS):
        logits = world.forward([Chunk(tokens[start:], start, blocks)])[0]
        start = len(tokens)
        tokens = [*tokens, int(logits[-1].argmax())]
    assert tokens == all_tokens(case)


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(make_engine("gqa", tmp_path_factory.mktemp("world")))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cutting_and_batching_equals_one_pass(shared_world: World, data: st.DataObject) -> None:
    """Sequences of any length, cut anywhere and mixed in any step, in scattered blocks: the cache changes nothing."""
    vocabulary = 97
    count = data.draw(st.integers(1, 3))
    sequences = [data.draw(st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=24)) for _ in range(count)]
    free = data.draw(st.permutations(range(64)))
    lent = [list(free[number * 8 : number * 8 + 8]) for number in range(count)]
    done = [0] * count
    collected: list[list[Float32]] = [[] for _ in range(count)]
    while any(done[i] < len(sequences[i]) for i in range(count)):
        members = [i for i in range(count) if done[i] < len(sequences[i])]
        chosen = data.draw(st.lists(st.sampled_from(members), min_size=1, unique=True))
        chunks = []
        for i in chosen:
            size = data.draw(st.integers(1, len(sequences[i]) - done[i]))
            chunks.append(Chunk(sequences[i][done[i] : done[i] + size], done[i], lent[i], all_logits=True))
        for i, chunk, logits in zip(chosen, chunks, shared_world.forward(chunks), strict=True):
            done[i] = chunk.end
            collected[i].append(logits)
    for sequence, parts in zip(sequences, collected, strict=True):
        np.testing.assert_allclose(np.concatenate(parts), whole_logits(shared_world, sequence), atol=1e-4, rtol=0)


def test_weight_only_quantisation_is_close_and_int4_is_coarser(tmp_path: Path) -> None:
    worst = {}
    for precision in ("int8", "int4"):
        engine = make_engine(
            "gqa", tmp_path / precision, converting=("--use_weight_only", "--weight_only_precision", precision)
        )
        difference = whole_logits(World(engine), all_tokens("gqa")) - GOLDEN["gqa.logits"]
        worst[precision] = float(np.abs(difference).max())
    assert worst["int8"] < 0.2 < worst["int4"]


def test_half_precision_weights_stay_close(tmp_path: Path) -> None:
    for dtype, bound in (("float16", 0.05), ("bfloat16", 0.5)):
        engine = make_engine("gqa", tmp_path / dtype, converting=("--dtype", dtype))
        difference = whole_logits(World(engine), all_tokens("gqa")) - GOLDEN["gqa.logits"]
        assert 0 < np.abs(difference).max() < bound
