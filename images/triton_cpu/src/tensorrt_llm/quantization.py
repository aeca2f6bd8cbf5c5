# SPDX-License-Identifier: GPL-3.0-or-later
"""Weight-only quantisation: symmetric, one scale per output row, int8 or int4 (two values a byte)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .checkpoint import Weights
from .safetensors_file import Float32, Tensor, from_float32

ALGORITHMS = {"int8": "W8A16", "int4": "W4A16"}
_LARGEST = {"W8A16": 127, "W4A16": 7}
_SCALE = ".per_channel_scale"
_QUANTISED = ("attention.qkv.weight", "attention.dense.weight", "mlp.fc.weight", "mlp.gate.weight", "mlp.proj.weight")


def quantise(weights: Weights, algorithm: str) -> Weights:
    """The same weights with the layers' matrices quantised; embeddings, norms and lm_head are kept."""
    result: Weights = {}
    for name, tensor in weights.items():
        if not name.endswith(_QUANTISED):
            result[name] = tensor
            continue
        values = tensor.float32()
        largest = _LARGEST[algorithm]
        peak = np.abs(values).max(axis=1, keepdims=True)
        scale = np.where(peak > 0, peak / largest, 1.0).astype(np.float32)
        codes = np.clip(np.rint(values / scale), -largest, largest).astype(np.int8)
        packed = Tensor("I8", codes) if algorithm == "W8A16" else Tensor("U8", _pack(codes))
        result[name] = packed
        result[name.removesuffix(".weight") + _SCALE] = from_float32(scale[:, 0], "float32")
    return result


def dequantise(weights: Weights, name: str) -> Float32:
    """Matrix `name` as float32, whatever it is stored as."""
    tensor = weights[name]
    scale = weights.get(name.removesuffix(".weight") + _SCALE)
    if scale is None:
        return tensor.float32()
    codes = _unpack(tensor.data) if tensor.dtype == "U8" else tensor.data
    values: Float32 = codes.astype(np.float32) * scale.float32()[:, None]
    return values


def _pack(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pairs of neighbours in a row into one byte, the even one in the low half; columns are even in number."""
    low, high = codes[:, 0::2] & 0xF, codes[:, 1::2] & 0xF
    return (low | (high << 4)).astype(np.uint8)


def _unpack(packed: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    halves = np.stack([packed & 0xF, packed >> 4], axis=-1).astype(np.int8)
    return np.where(halves > 7, halves - 16, halves).reshape(packed.shape[0], -1)
