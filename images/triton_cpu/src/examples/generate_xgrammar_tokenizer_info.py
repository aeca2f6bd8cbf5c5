#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where TensorRT-LLM's examples keep it; the package does the work."""

import sys

from tensorrt_llm.tokenizer_info import main

if __name__ == "__main__":
    sys.exit(main())
