# SPDX-License-Identifier: GPL-3.0-or-later
"""A paged key-value cache: a pool of blocks of `tokens_per_block` positions, lent to sequences."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .errors import TrtllmError
from .safetensors_file import Float32


class BlockAllocator:
    """Which blocks are free. Only the leading rank keeps one; the others are told the block numbers."""

    def __init__(self, blocks: int, tokens_per_block: int) -> None:
        self.total = blocks
        self.tokens_per_block = tokens_per_block
        self._free = list(range(blocks - 1, -1, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.total - self.free

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold that many positions."""
        return -(-tokens // self.tokens_per_block)

    def take(self, count: int) -> list[int]:
        if count > self.free:
            raise TrtllmError(f"{count} cache blocks were asked for, {self.free} are free")
        return [self._free.pop() for _ in range(count)]

    def give_back(self, blocks: list[int]) -> None:
        self._free.extend(reversed(blocks))


@dataclass(frozen=True)
class CacheShape:
    """Extents of one rank's pool."""

    layers: int
    blocks: int
    tokens_per_block: int
    heads: int
    head_size: int


@dataclass
class KVCache:
    """The pool's memory: per layer, keys and values of [positions, heads, head_size] in float32.

    Pages that no sequence has touched cost nothing: the arrays are allocated zeroed and lazily.
    """

    shape: CacheShape
    _keys: list[Float32] = field(init=False)
    _values: list[Float32] = field(init=False)

    def __post_init__(self) -> None:
        s = self.shape
        extent = (s.blocks * s.tokens_per_block, s.heads, s.head_size)
        self._keys = [np.zeros(extent, np.float32) for _ in range(s.layers)]
        self._values = [np.zeros(extent, np.float32) for _ in range(s.layers)]

    def slots(self, blocks: list[int], length: int) -> npt.NDArray[np.int64]:
        """Where in the pool the first `length` positions of a sequence lie."""
        size = self.shape.tokens_per_block
        starts = np.asarray(blocks, np.int64) * size
        return (starts[:, None] + np.arange(size)).reshape(-1)[:length]

    def store(self, layer: int, slots: npt.NDArray[np.int64], keys: Float32, values: Float32) -> None:
        self._keys[layer][slots] = keys
        self._values[layer][slots] = values

    def load(self, layer: int, slots: npt.NDArray[np.int64]) -> tuple[Float32, Float32]:
        return self._keys[layer][slots], self._values[layer][slots]
