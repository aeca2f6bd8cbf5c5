# SPDX-License-Identifier: GPL-3.0-or-later
"""The LLM API as far as a machine without a GPU can keep it: a checkpoint that is served without an engine.

What serves it, `trtllm-serve` or Triton's repository `llmapi`, is told the same keys.
"""
