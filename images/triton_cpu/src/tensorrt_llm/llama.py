# SPDX-License-Identifier: GPL-3.0-or-later
"""The forward pass of a Llama-family model, one rank's share, in float32.

Several sequences go through it in one step, their tokens packed one after another: matrix products see all
tokens at once, attention sees one sequence at a time. n is the number of packed tokens, H hidden size, h and
kv the query and key-value heads of this rank, d the head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .checkpoint import Weights
from .communicator import Communicator
from .config import PretrainedConfig
from .kv_cache import CacheShape, KVCache
from .quantization import dequantise
from .safetensors_file import Float32


@dataclass(frozen=True)
class Chunk:
    """The part of one sequence that a step computes: `tokens` stand at positions `start`, `start`+1, ...

    `blocks` are the cache blocks lent to the sequence. `all_logits` asks for the logits of every token,
    `logits` for those of the last; a chunk in the middle of a long prompt needs neither.
    """

    tokens: list[int]
    start: int
    blocks: list[int]
    logits: bool = True
    all_logits: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


@dataclass
class _Layer:
    input_norm: Float32
    post_norm: Float32
    qkv: Float32
    qkv_bias: Float32 | None
    dense: Float32
    dense_bias: Float32 | None
    fc: Float32
    gate: Float32
    proj: Float32
    fc_bias: Float32 | None
    gate_bias: Float32 | None
    proj_bias: Float32 | None


def rotary_frequencies(config: PretrainedConfig) -> npt.NDArray[np.float64]:
    """Radians per position for each pair of a head, with the checkpoint's scaling applied."""
    half = np.arange(0, config.head_size, 2, dtype=np.float64)
    frequencies: npt.NDArray[np.float64] = config.rotary_base ** (-half / config.head_size)
    scaling: dict[str, Any] = config.rotary_scaling or {}
    kind = scaling.get("rope_type")
    if kind == "linear":
        frequencies = frequencies / float(scaling["factor"])
    elif kind == "llama3":
        # Long waves are stretched by `factor`, short ones kept, those between blended (Llama 3.1).
        factor, original = float(scaling["factor"]), float(scaling["original_max_position_embeddings"])
        low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
        turns = original * frequencies / (2 * math.pi)
        blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
        frequencies = (1 - blend) * frequencies / factor + blend * frequencies
    return frequencies


class Llama:
    """One rank's weights, cache and forward pass."""

    def __init__(
        self, config: PretrainedConfig, weights: Weights, comm: Communicator, blocks: int, tokens_per_block: int
    ) -> None:
        self.config = config
        self._comm = comm
        mapping = config.mapping
        self._embedding = self._optional(weights, "transformer.vocab_embedding.weight")
        count = len(mapping.layers(config.num_hidden_layers))
        self._layers = [self._layer(weights, f"transformer.layers.{i}") for i in range(count)]
        self._final_norm = self._optional(weights, "transformer.ln_f.weight")
        self._head = self._optional(weights, "lm_head.weight")
        self._frequencies = rotary_frequencies(config)
        self._heads = config.num_attention_heads // mapping.tp_size
        self._kv_heads = config.kv_heads_after_split
        self.cache = KVCache(CacheShape(count, blocks, tokens_per_block, self._kv_heads, config.head_size))

    @staticmethod
    def _optional(weights: Weights, name: str) -> Float32 | None:
        return weights[name].float32() if name in weights else None

    def _layer(self, weights: Weights, prefix: str) -> _Layer:
        def bias(name: str) -> Float32 | None:
            return self._optional(weights, f"{prefix}.{name}.bias")

        return _Layer(
            input_norm=weights[f"{prefix}.input_layernorm.weight"].float32(),
            post_norm=weights[f"{prefix}.post_layernorm.weight"].float32(),
            qkv=dequantise(weights, f"{prefix}.attention.qkv.weight"),
            qkv_bias=bias("attention.qkv"),
            dense=dequantise(weights, f"{prefix}.attention.dense.weight"),
            dense_bias=bias("attention.dense"),
            fc=dequantise(weights, f"{prefix}.mlp.fc.weight"),
            gate=dequantise(weights, f"{prefix}.mlp.gate.weight"),
            proj=dequantise(weights, f"{prefix}.mlp.proj.weight"),
            fc_bias=bias("mlp.fc"),
            gate_bias=bias("mlp.gate"),
            proj_bias=bias("mlp.proj"),
        )

    def forward(self, chunks: list[Chunk]) -> list[Float32] | None:
        """One step. On the leading rank: per chunk, logits of [asked tokens, vocabulary]; elsewhere None."""
        mapping = self.config.mapping
        positions = np.concatenate([np.arange(c.start, c.end) for c in chunks])
        if mapping.is_first_stage:
            x = self._embed(np.concatenate([np.asarray(c.tokens, np.int64) for c in chunks]))
        else:
            x = self._comm.receive(mapping.rank - mapping.tp_size)
        angles = positions[:, None] * self._frequencies[None]
        cos, sin = np.cos(angles).astype(np.float32)[:, None], np.sin(angles).astype(np.float32)[:, None]
        slots = [self.cache.slots(c.blocks, c.end) for c in chunks]
        for number, layer in enumerate(self._layers):
            x = x + self._attention(number, layer, self._norm(x, layer.input_norm), chunks, slots, cos, sin)
            x = x + self._mlp(layer, self._norm(x, layer.post_norm))
        if not mapping.is_last_stage:
            self._comm.send(x, mapping.rank + mapping.tp_size)
        return self._logits(x, chunks)

    def _embed(self, tokens: npt.NDArray[np.int64]) -> Float32:
        """Rows of the embedding. Split by vocabulary a rank fills in its rows; split by column, its columns."""
        assert self._embedding is not None
        config, mapping = self.config, self.config.mapping
        if not (config.use_parallel_embedding and mapping.tp_size > 1):
            return self._embedding[tokens]
        if config.embedding_sharding_dim == 1:
            return self._comm.all_gather(self._embedding[tokens])
        rows = self._embedding.shape[0]
        local = tokens - mapping.tp_rank * rows
        mine = (local >= 0) & (local < rows)
        found = self._embedding[np.where(mine, local, 0)] * mine[:, None].astype(np.float32)
        return self._comm.all_reduce(found)

    def _norm(self, x: Float32, weight: Float32) -> Float32:
        scale = 1.0 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(self.config.norm_epsilon))
        result: Float32 = x * scale * weight
        return result

    def _attention(
        self,
        number: int,
        layer: _Layer,
        x: Float32,
        chunks: list[Chunk],
        slots: list[npt.NDArray[np.int64]],
        cos: Float32,
        sin: Float32,
    ) -> Float32:
        """Grouped-query attention of each sequence over its own cache, [n, H] -> [n, H]."""
        h, kv, d = self._heads, self._kv_heads, self.config.head_size
        qkv = _linear(x, layer.qkv, layer.qkv_bias)
        q = _rotate(qkv[:, : h * d].reshape(-1, h, d), cos, sin)
        k = _rotate(qkv[:, h * d : (h + kv) * d].reshape(-1, kv, d), cos, sin)
        v = qkv[:, (h + kv) * d :].reshape(-1, kv, d)
        out = np.empty((len(x), h * d), np.float32)
        first = 0
        for chunk, where in zip(chunks, slots, strict=True):
            rows = slice(first, first + len(chunk.tokens))
            first = rows.stop
            self.cache.store(number, where[chunk.start :], k[rows], v[rows])
            keys, values = self.cache.load(number, where)
            out[rows] = self._attend(q[rows], keys, values, chunk.start)
        summed = self._comm.all_reduce(_linear(out, layer.dense, None))
        return summed if layer.dense_bias is None else summed + layer.dense_bias

    def _attend(self, q: Float32, keys: Float32, values: Float32, start: int) -> Float32:
        """Queries [m, h, d] at positions start.. over keys and values [length, kv, d] -> [m, h * d]."""
        m, h, d = q.shape
        kv, length = self._kv_heads, len(keys)
        grouped = q.reshape(m, kv, h // kv, d).transpose(1, 2, 0, 3).reshape(kv, -1, d)
        scores = (grouped @ keys.transpose(1, 2, 0)).reshape(kv, h // kv, m, length)
        mine, theirs = np.arange(start, start + m)[:, None], np.arange(length)[None]
        hidden = theirs > mine
        if self.config.sliding_window is not None:
            hidden |= theirs <= mine - self.config.sliding_window
        scores *= np.float32(1.0 / math.sqrt(d))
        scores[:, :, hidden] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        np.divide(scores, scores.sum(axis=-1, keepdims=True), out=scores)
        mixed = scores.reshape(kv, -1, length) @ values.transpose(1, 0, 2)
        result: Any = mixed.reshape(kv, h // kv, m, d).transpose(2, 0, 1, 3).reshape(m, h * d)
        return np.asarray(result, np.float32)

    def _mlp(self, layer: _Layer, x: Float32) -> Float32:
        """SwiGLU, [n, H] -> [n, H]."""
        activated = _linear(x, layer.fc, layer.fc_bias)
        with np.errstate(over="ignore"):
            np.divide(activated, 1.0 + np.exp(-activated), out=activated)
        summed = self._comm.all_reduce(_linear(activated * _linear(x, layer.gate, layer.gate_bias), layer.proj, None))
        return summed if layer.proj_bias is None else summed + layer.proj_bias

    def _logits(self, x: Float32, chunks: list[Chunk]) -> list[Float32] | None:
        """The last stage computes them, its first rank hands them to the leading rank."""
        mapping, lead_of_last = self.config.mapping, self.config.mapping.world_size - self.config.mapping.tp_size
        if not mapping.is_last_stage:
            return self._comm.receive(lead_of_last) if mapping.rank == 0 else None
        counts = [len(c.tokens) if c.all_logits else int(c.logits) for c in chunks]
        ends = np.cumsum([len(c.tokens) for c in chunks])
        spans = [np.arange(end - count, end) for end, count in zip(ends, counts, strict=True)]
        rows = np.concatenate(spans).astype(np.int64)
        assert self._final_norm is not None and self._head is not None
        local = _linear(self._norm(x[rows], self._final_norm), self._head, None)
        whole = self._comm.all_gather(local)[:, : self.config.vocab_size]
        result = np.split(whole, np.cumsum(counts)[:-1])
        if mapping.rank == lead_of_last != 0:
            self._comm.send(result, 0)
        return result if mapping.rank == 0 else None


def _linear(x: Float32, weight: Float32, bias: Float32 | None) -> Float32:
    """x @ weight.T + bias, weight [out, in]."""
    y: Float32 = x @ weight.T
    return y if bias is None else y + bias


def _rotate(x: Float32, cos: Float32, sin: Float32) -> Float32:
    """Rotary embedding of [n, heads, d]: the first half of a head pairs with the second."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
