# SPDX-License-Identifier: GPL-3.0-or-later
"""The same backend for a config.pbtxt that names `python`; with `tensorrtllm` Triton does not look here."""

from tensorrt_llm.triton_backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
