# SPDX-License-Identifier: GPL-3.0-or-later
"""What the command line and the file of the LLM API say together: the file wins, as in 1.3.0rc3."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tensorrt_llm.errors import TrtllmError

from .options import KEYS, OPTIONS, REFUSED_KEYS, REFUSED_OPTIONS

POLICIES = {"GUARANTEED_NO_EVICT": "guaranteed_no_evict", "MAX_UTILIZATION": "max_utilization"}


@dataclass(frozen=True)
class LlmArgs:
    """What of it has a meaning on a CPU."""

    tp_size: int
    pp_size: int
    dtype: str
    max_batch_size: int
    max_input_len: int | None
    max_seq_len: int | None
    max_num_tokens: int
    kv_cache_fraction: float
    kv_cache_tokens: int | None
    tokens_per_block: int
    chunked_prefill: bool
    policy: str
    iter_perf_stats: bool


def read_file(path: str) -> dict[str, Any]:
    """The file of the LLM API. Raises TrtllmError for a key that no release knows, as upstream's models do."""
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as e:
        raise TrtllmError(f"{path} cannot be read: {e}") from None
    if not isinstance(given, dict):
        raise TrtllmError(f"{path} is no mapping of keys to values")
    _check(given, "")
    for mapping in KEYS:
        if mapping and isinstance(given.get(mapping), dict):
            _check(given[mapping], mapping)
    return given


def _check(given: Mapping[str, Any], mapping: str) -> None:
    known = KEYS[mapping].split()
    for name in given:
        if name not in known:
            where = f"{mapping}.{name}" if mapping else name
            raise TrtllmError(f"1 validation error for TorchLlmArgs\n{where}\n  Extra inputs are not permitted")
        if not mapping and name in REFUSED_KEYS and given[name]:
            raise TrtllmError(f"{name} was given, but {REFUSED_KEYS[name]} is not implemented in this image")


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
    merged.update(given, kv_cache_config=cache)
    for name in ("context_parallel_size", "max_beam_width"):
        if (merged.get(name) or 1) != 1:
            raise TrtllmError(f"{name} is {merged[name]}; this image has 1 only")
    policy = (merged.get("scheduler_config") or {}).get("capacity_scheduler_policy", "GUARANTEED_NO_EVICT")
    if policy not in POLICIES:
        raise TrtllmError(f"capacity_scheduler_policy is {policy}, expected one of {', '.join(POLICIES)}")
    fraction = float(cache.get("free_gpu_memory_fraction") or 0.9)
    if not 0 < fraction <= 1:
        raise TrtllmError(f"free_gpu_memory_fraction is {fraction:g}, expected a number above 0 and at most 1")
    numbers = {
        name: _positive(merged, name) for name in ("tensor_parallel_size", "pipeline_parallel_size", "max_batch_size",
                                                   "max_num_tokens", "max_seq_len", "max_input_len")
    }  # fmt: skip
    return LlmArgs(
        tp_size=numbers["tensor_parallel_size"] or 1,
        pp_size=numbers["pipeline_parallel_size"] or 1,
        dtype=str(merged.get("dtype") or "auto"),
        max_batch_size=numbers["max_batch_size"] or 2048,
        max_input_len=numbers["max_input_len"],
        max_seq_len=numbers["max_seq_len"],
        max_num_tokens=numbers["max_num_tokens"] or 8192,
        kv_cache_fraction=fraction,
        kv_cache_tokens=cache.get("max_tokens"),
        tokens_per_block=int(cache.get("tokens_per_block") or 32),
        chunked_prefill=bool(merged.get("enable_chunked_prefill")),
        policy=POLICIES[policy],
        iter_perf_stats=bool(merged.get("enable_iter_perf_stats")),
    )


def _positive(merged: Mapping[str, Any], name: str) -> int | None:
    value = merged.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TrtllmError(f"1 validation error for TorchLlmArgs\n{name}\n  {value!r} is no whole number above 0")
    return value
