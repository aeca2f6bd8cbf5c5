# SPDX-License-Identifier: GPL-3.0-or-later
"""How the CPU image chooses a token: greedy by default, by the request's own seed otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorrt_llm import words
from tensorrt_llm.errors import TrtllmError
from tensorrt_llm.safetensors_file import Float32
from tensorrt_llm.sampling import Sampler, SamplingParams

VOCABULARY = 8


def logits(*values: float) -> Float32:
    return np.array([*values, *[-5.0] * (VOCABULARY - len(values))], np.float32)


def draws(count: int = 200, tokens: tuple[int, ...] = (), **params: Any) -> list[int]:
    """Tokens drawn over and over from one distribution, each as if it were the next."""
    sampler = Sampler(SamplingParams(**params), VOCABULARY)
    return [sampler.draw(logits(3.0, 2.9, 2.8, 1.0, 0.5), list(tokens), 0)[0] for _ in range(count)]


def test_greedy_without_top_k_and_top_p() -> None:
    assert set(draws(seed=5)) == {0}
    assert set(draws(temperature=0, top_k=8)) == {0}
    assert set(draws(top_k=1, temperature=9)) == {0}


def test_top_k_and_top_p_bound_the_choice() -> None:
    assert set(draws(top_k=2)) == {0, 1}
    assert set(draws(top_k=5, top_p=0.5)) <= {0, 1}
    assert set(draws(top_p=1e-6)) == {0}
    assert len(set(draws(2000, top_p=1.0, temperature=50.0))) == VOCABULARY


def test_the_seed_decides() -> None:
    assert draws(top_k=4, seed=3) == draws(top_k=4, seed=3)
    assert draws(top_k=4, seed=3) != draws(top_k=4, seed=4)


def test_frequencies_are_those_of_the_softmax() -> None:
    share = np.bincount(draws(20000, top_k=3, seed=1), minlength=3)[:3] / 20000
    expected = np.exp([3.0, 2.9, 2.8])
    np.testing.assert_allclose(share, expected / expected.sum(), atol=0.015)


def test_top_p_decays_and_resets() -> None:
    params = SamplingParams(top_p=1.0, top_p_decay=0.1, top_p_min=1e-6, top_p_reset_id=0, temperature=5.0, seed=2)
    sampler = Sampler(params, VOCABULARY)
    drawn = [sampler.draw(logits(3.0, 2.9), [], 0)[0] for _ in range(400)]
    triples = zip(drawn, drawn[1:], drawn[2:], strict=False)
    assert all(after == 0 for first, second, after in triples if first and second)
    assert set(drawn) != {0}


def test_log_probability_is_of_the_whole_distribution() -> None:
    token, log_probability = Sampler(SamplingParams(), VOCABULARY).draw(logits(1.0, 1.0), [], 0)
    share = np.exp(logits(1.0, 1.0).astype(np.float64))
    assert log_probability == pytest.approx(np.log(share[token] / share.sum()))


@pytest.mark.parametrize(
    ("params", "tokens", "expected"),
    [
        ({"repetition_penalty": 2.0}, [0], 1),
        ({"presence_penalty": 0.5}, [0], 1),
        ({"presence_penalty": 0.5}, [0, 1], 2),
        ({"frequency_penalty": 0.06}, [0], 0),
        ({"frequency_penalty": 0.06}, [0, 0], 1),
        ({"frequency_penalty": 0.06}, [0, 0, 0, 0, 1, 1], 2),
        ({"repetition_penalty": 0.5}, [2], 2),
    ],
)
def test_penalties_count_prompt_and_answer(params: dict[str, float], tokens: list[int], expected: int) -> None:
    assert draws(1, tuple(tokens), **params) == [expected]


def test_penalties_follow_a_growing_sequence() -> None:
    sampler, tokens = Sampler(SamplingParams(presence_penalty=9.0), VOCABULARY), [7]
    for _ in range(5):
        tokens.append(sampler.draw(logits(5, 4, 3, 2, 1), tokens, len(tokens) - 1)[0])
    assert tokens == [7, 0, 1, 2, 3, 4]


def test_minimum_length_holds_the_end_back() -> None:
    sampler = Sampler(SamplingParams(min_tokens=2), VOCABULARY, end_id=0)
    assert [sampler.draw(logits(3, 2), [7] * (1 + n), n)[0] for n in range(3)] == [1, 1, 0]


def test_bad_words_are_never_completed() -> None:
    sampler = Sampler(SamplingParams(), VOCABULARY, bad_words=[[0], [5, 1]])
    assert sampler.draw(logits(3, 2, 1), [4], 0)[0] == 1
    assert sampler.draw(logits(3, 2, 1), [4, 5], 0)[0] == 2
    everything = Sampler(SamplingParams(), VOCABULARY, bad_words=[[t] for t in range(VOCABULARY)])
    with pytest.raises(TrtllmError, match="no token that could follow"):
        everything.draw(logits(1), [4], 0)


def test_bias_is_added() -> None:
    bias = np.zeros(VOCABULARY, np.float32)
    bias[6] = 100
    assert Sampler(SamplingParams(), VOCABULARY, bias=bias).draw(logits(3), [], 0)[0] == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1), ("temperature", float("nan")), ("top_k", -1), ("top_p", 1.1), ("top_p", -0.1),
        ("repetition_penalty", 0.0), ("min_tokens", -1), ("top_p_decay", 0.0), ("top_p_min", 2.0),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(TrtllmError, match=f"Incorrect sampling config: {name} is"):
        SamplingParams(**{name: value})


@given(st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=4), max_size=5))
def test_word_lists_survive_the_tensor(given_words: list[list[int]]) -> None:
    tensor = words.to_tensor(given_words)
    assert tensor.shape[0] == 2
    assert words.from_tensor(tensor) == given_words
    assert words.from_tensor(tensor[None]) == given_words


def test_no_words() -> None:
    assert words.from_tensor(None) == []
    assert words.from_tensor(np.zeros((1, 2, 0), np.int32)) == []
    assert words.to_tensor([]).tolist() == [[0], [-1]]
    assert not words.ends_with_any([1, 2], [])
    assert words.ends_with_any([1, 2, 3], [[9], [2, 3]])
