# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop and bad words as tensors: row 0 holds all tokens, row 1 the end of each word, padded with -1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def to_tensor(words: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    """Words as [2, n]; no words give [2, 1] of 0 and -1, since an empty tensor would not travel everywhere."""
    kept = [list(word) for word in words if len(word)]
    tokens = [token for word in kept for token in word]
    ends = [int(end) for end in np.cumsum([len(word) for word in kept])]
    width = max(1, len(tokens))
    tokens += [0] * (width - len(tokens))
    ends += [-1] * (width - len(ends))
    return np.array([tokens, ends], np.int32)


def from_tensor(tensor: npt.NDArray[Any] | None) -> list[list[int]]:
    """The inverse, of a tensor of [2, n] or [1, 2, n]; None and empty tensors mean no words."""
    if tensor is None or tensor.size == 0:
        return []
    tokens, ends = tensor.reshape(2, -1)
    words, begin = [], 0
    for end in ends:
        if end <= begin:
            break
        words.append([int(token) for token in tokens[begin:end]])
        begin = int(end)
    return words


def ends_with_any(tokens: list[int], words: list[list[int]]) -> bool:
    """Whether `tokens` ends with one of `words`."""
    return any(tokens[-len(word) :] == word for word in words)
