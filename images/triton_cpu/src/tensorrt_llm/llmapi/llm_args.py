# SPDX-License-Identifier: GPL-3.0-or-later
"""What the LLM API is told of a model, as far as it has a meaning on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import TrtllmError
from .keys import REFUSED_KEYS

POLICIES = {"GUARANTEED_NO_EVICT": "guaranteed_no_evict", "MAX_UTILIZATION": "max_utilization"}
Keys = Mapping[str, frozenset[str]]


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
    # Whether it may read prompts for others, or write answers to prompts that others have read.
    disaggregated: bool = False


def check_keys(given: Mapping[str, Any], keys: Keys) -> None:
    """Raise TrtllmError for a key that is none of *keys*, as upstream's models do, and for what this image lacks."""
    _check(given, "", keys)
    for mapping in keys:
        if mapping and isinstance(given.get(mapping), dict):
            _check(given[mapping], mapping, keys)


def _check(given: Mapping[str, Any], mapping: str, keys: Keys) -> None:
    for name in given:
        if name not in keys[mapping]:
            where = f"{mapping}.{name}" if mapping else name
            raise TrtllmError(f"1 validation error for TorchLlmArgs\n{where}\n  Extra inputs are not permitted")
        if not mapping and name in REFUSED_KEYS and given[name]:
            raise TrtllmError(f"{name} was given, but {REFUSED_KEYS[name]} is not implemented in this image")


def read(said: Mapping[str, Any]) -> LlmArgs:
    """All that is said of a model. Raises TrtllmError for what this image cannot do."""
    cache = said.get("kv_cache_config") or {}
    for name in ("context_parallel_size", "max_beam_width"):
        if (said.get(name) or 1) != 1:
            raise TrtllmError(f"{name} is {said[name]}; this image has 1 only")
    policy = (said.get("scheduler_config") or {}).get("capacity_scheduler_policy", "GUARANTEED_NO_EVICT")
    if policy not in POLICIES:
        raise TrtllmError(f"capacity_scheduler_policy is {policy}, expected one of {', '.join(POLICIES)}")
    fraction = float(cache.get("free_gpu_memory_fraction") or 0.9)
    if not 0 < fraction <= 1:
        raise TrtllmError(f"free_gpu_memory_fraction is {fraction:g}, expected a number above 0 and at most 1")
    numbers = {
        name: _positive(said, name) for name in ("tensor_parallel_size", "pipeline_parallel_size", "max_batch_size",
                                                   "max_num_tokens", "max_seq_len", "max_input_len")
    }  # fmt: skip
    return LlmArgs(
        tp_size=numbers["tensor_parallel_size"] or 1,
        pp_size=numbers["pipeline_parallel_size"] or 1,
        dtype=str(said.get("dtype") or "auto"),
        max_batch_size=numbers["max_batch_size"] or 2048,
        max_input_len=numbers["max_input_len"],
        max_seq_len=numbers["max_seq_len"],
        max_num_tokens=numbers["max_num_tokens"] or 8192,
        kv_cache_fraction=fraction,
        kv_cache_tokens=cache.get("max_tokens"),
        tokens_per_block=int(cache.get("tokens_per_block") or 32),
        chunked_prefill=bool(said.get("enable_chunked_prefill")),
        policy=POLICIES[policy],
        iter_perf_stats=bool(said.get("enable_iter_perf_stats")),
        disaggregated=bool((said.get("cache_transceiver_config") or {}).get("backend")),
    )


def _positive(said: Mapping[str, Any], name: str) -> int | None:
    value = said.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TrtllmError(f"1 validation error for TorchLlmArgs\n{name}\n  {value!r} is no whole number above 0")
    return value
