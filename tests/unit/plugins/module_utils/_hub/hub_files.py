# SPDX-License-Identifier: GPL-3.0-or-later
"""A small repository of a hub."""

from __future__ import annotations

import json
import struct

REPO = "acme/tiny"
SECRET = "hf_thisIsNobodysToken"
BIG = 1 << 20


def weights(size: int = BIG, byte: bytes = b"w") -> bytes:
    """A safetensors file of one tensor."""
    header = json.dumps({"t": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + byte * size


def files(**more: bytes) -> dict[str, bytes]:
    config = json.dumps({"architectures": ["LlamaForCausalLM"]}).encode()
    found = {"config.json": config, "tokenizer.json": b"{}", "model.safetensors": weights()}
    return {**found, **{name.replace("__", "."): body for name, body in more.items()}}
