# SPDX-License-Identifier: GPL-3.0-or-later
"""An OpenAI-compatible front of TensorRT-LLM models that Triton serves."""

from __future__ import annotations

__version__ = "0.1.0"
