# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of TensorRT-LLM's contract that a machine without a GPU can keep.

Reads Hugging Face checkpoints, splits them by rank, writes engine directories of upstream's shape and runs
Llama-family models on the CPU in numpy. Everything here is written for this project; upstream's names,
options and file layouts are kept, so that what works against this package works against the real one.
"""

from __future__ import annotations

__version__ = "1.2.1"

# Upstream's package says this on stdout whenever it is imported; what reads its output must be ready for it.
print(f"[TensorRT-LLM] TensorRT-LLM version: {__version__}", flush=True)
