# SPDX-License-Identifier: GPL-3.0-or-later
"""From logits to the next token, in the order that TensorRT-LLM's decoder works in.

The guide's mask, bias, temperature, penalties, minimum length, bad words; then top-k, top-p and the draw. With
neither top_k nor top_p a request is greedy. Draws come from a generator of the request's own seed, so an answer does
not depend on what else runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import TrtllmError
from .safetensors_file import Float32

Logits = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SamplingParams:
    """One request's wishes. top_k 0 and top_p 0 mean "not given"; penalties 1 or 0 mean "none"."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    top_p_min: float = 0.0
    top_p_decay: float = 1.0
    top_p_reset_id: int = -1
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0

    def __post_init__(self) -> None:
        for name, value, valid, expected in (
            ("temperature", self.temperature, self.temperature >= 0, "at least 0"),
            ("top_k", self.top_k, self.top_k >= 0, "at least 0"),
            ("top_p", self.top_p, 0 <= self.top_p <= 1, "between 0 and 1"),
            ("top_p_min", self.top_p_min, 0 <= self.top_p_min <= 1, "between 0 and 1"),
            ("top_p_decay", self.top_p_decay, 0 < self.top_p_decay <= 1, "above 0 and at most 1"),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0"),
            ("min_tokens", self.min_tokens, self.min_tokens >= 0, "at least 0"),
        ):
            if not valid:  # NaN fails every comparison, so it is refused too
                raise TrtllmError(f"Incorrect sampling config: {name} is {value:g}, expected {expected}")

    @property
    def greedy(self) -> bool:
        return self.top_k == 1 or self.temperature == 0 or (self.top_k == 0 and self.top_p == 0)


class Sampler:
    """Draws one sequence's tokens."""

    def __init__(
        self,
        params: SamplingParams,
        vocabulary: int,
        end_id: int = -1,
        bad_words: list[list[int]] | None = None,
        bias: Float32 | None = None,
    ) -> None:
        self._params = params
        self._end_id = end_id
        self._bad_words = [word for word in bad_words or [] if word]
        self._bias = bias
        self._counts = np.zeros(vocabulary, np.int64)
        self._seen = 0
        self._random = np.random.default_rng(params.seed)
        self._top_p = params.top_p

    def draw(
        self, logits: Float32, tokens: list[int], generated: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[int, float]:
        """The next token after `tokens` (prompt and answer so far, `generated` of them) and its log probability.

        The probability is that of the distribution after penalties and temperature, before top-k and top-p. Tokens
        that are not `allowed` have none.
        """
        x = self._adjusted(logits if allowed is None else np.where(allowed, logits, -np.inf), tokens, generated)
        log_p = x - _log_sum_exp(x)
        token = int(np.argmax(x)) if self._params.greedy else self._pick(log_p)
        if self._params.top_p_decay < 1:
            reset = token == self._params.top_p_reset_id
            decayed = max(self._params.top_p_min, self._top_p * self._params.top_p_decay)
            self._top_p = self._params.top_p if reset else decayed
        return token, float(log_p[token])

    def _adjusted(self, logits: Float32, tokens: list[int], generated: int) -> Logits:
        params = self._params
        x: Logits = logits.astype(np.float64)
        if self._bias is not None:
            x += self._bias
        if params.temperature > 0:
            x /= params.temperature
        np.add.at(self._counts, np.asarray(tokens[self._seen :], np.int64), 1)
        self._seen = len(tokens)
        present = self._counts > 0
        if params.repetition_penalty != 1:
            penalised = np.where(x < 0, x * params.repetition_penalty, x / params.repetition_penalty)
            x = np.where(present, penalised, x)
        x -= params.presence_penalty * present + params.frequency_penalty * self._counts
        if generated < params.min_tokens and 0 <= self._end_id < len(x):
            x[self._end_id] = -np.inf
        for word in self._bad_words:
            head = word[:-1]
            if word[-1] < len(x) and (not head or tokens[-len(head) :] == head):
                x[word[-1]] = -np.inf
        if not np.isfinite(x.max()):
            raise TrtllmError("guide, min_tokens and bad words leave no token that could follow; allow at least one")
        return x

    def _pick(self, log_p: Logits) -> int:
        order = np.argsort(-log_p, kind="stable")
        if self._params.top_k:
            order = order[: self._params.top_k]
        p = np.exp(log_p[order])
        p /= p.sum()
        if 0 < self._top_p < 1:
            # The smallest set whose probability reaches top_p; its first member always stays.
            keep = int(np.searchsorted(np.cumsum(p), self._top_p)) + 1
            order, p = order[:keep], p[:keep] / p[:keep].sum()
        place = int(np.searchsorted(np.cumsum(p), self._random.random(), side="right"))
        return int(order[min(place, len(order) - 1)])


def _log_sum_exp(x: Logits) -> float:
    peak = x.max()
    return float(peak + np.log(np.exp(x - peak).sum()))
