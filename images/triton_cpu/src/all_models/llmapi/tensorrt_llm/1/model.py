# SPDX-License-Identifier: GPL-3.0-or-later
"""Triton looks for the model here; the package holds it."""

from tensorrt_llm.triton_llmapi import TritonPythonModel

__all__ = ["TritonPythonModel"]
