# SPDX-License-Identifier: GPL-3.0-or-later
"""What the command line and the file of the LLM API say together: the file wins, as in 1.3.0rc3."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import yaml
from tensorrt_llm.errors import TrtllmError
from tensorrt_llm.llmapi.llm_args import LlmArgs, check_keys, read

from .options import KEYS, OPTIONS, REFUSED_OPTIONS


def read_file(path: str) -> dict[str, Any]:
    """The file of the LLM API. Raises TrtllmError for a key that no release knows, as upstream's models do."""
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as e:
        raise TrtllmError(f"{path} cannot be read: {e}") from None
    if not isinstance(given, dict):
        raise TrtllmError(f"{path} is no mapping of keys to values")
    check_keys(given, KEYS)
    return given


def asks_for_metrics(options: Namespace) -> bool:
    """Whether the file asks for metrics in Prometheus' format, for which there is no option."""
    return bool(options.config and read_file(options.config).get("return_perf_metrics"))


def read_args(options: Namespace) -> LlmArgs:
    """Both together. Raises TrtllmError for what this image cannot do."""
    for name, feature in REFUSED_OPTIONS.items():
        if getattr(options, name):
            raise TrtllmError(f"--{name} was given, but {feature} is not implemented in this image")
    if options.backend != "pytorch":
        raise TrtllmError(f"--backend is {options.backend}; this image has the contract of pytorch alone")
    merged: dict[str, Any] = {}
    for option in OPTIONS:
        if option.key and "." not in option.key:
            merged[option.key] = getattr(options, option.names[0].lstrip("-"))
    merged["kv_cache_config"] = {"free_gpu_memory_fraction": options.free_gpu_memory_fraction}
    given = read_file(options.config) if options.config else {}
    cache = {**merged["kv_cache_config"], **(given.get("kv_cache_config") or {})}
    return read({**merged, **given, "kv_cache_config": cache})
