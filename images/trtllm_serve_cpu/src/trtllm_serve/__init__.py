# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of TensorRT-LLM's own server, trtllm-serve, as far as a machine without a GPU can keep it.

The model is run by the package that the image triton_cpu has; everything here is written for this project, with
upstream's names, options, routes and words.
"""
