# SPDX-License-Identifier: GPL-3.0-or-later
"""Triton looks for a Python-based backend here; the package holds it."""

from tensorrt_llm.triton_backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
