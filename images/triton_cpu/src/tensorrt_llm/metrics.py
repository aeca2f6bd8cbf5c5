# SPDX-License-Identifier: GPL-3.0-or-later
"""Gauges on Triton's /metrics under the names of NVIDIA's backend, with this backend's own numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found,unused-ignore]

from .device import resident_memory_bytes
from .executor import Stats
from .parameters import Parameters

Reading = Callable[[Stats], float]
Family = tuple[str, str, str, dict[str, Reading]]

# Family, its help text, the label that tells its gauges apart, and how each is read.
_COMMON: tuple[Family, ...] = (
    (
        "nv_trt_llm_request_metrics", "TRT LLM request metrics", "request_type",
        {
            "active": lambda s: s.active, "scheduled": lambda s: s.scheduled, "context": lambda s: s.context,
            "waiting": lambda s: s.waiting,
        },
    ),
    (
        "nv_trt_llm_runtime_memory_metrics", "TRT LLM runtime memory metrics", "memory_type",
        {"cpu": lambda s: resident_memory_bytes(), "gpu": lambda s: 0, "pinned": lambda s: 0},
    ),
    (
        "nv_trt_llm_kv_cache_block_metrics", "TRT LLM KV cache block metrics", "kv_cache_block_type",
        {
            "max": lambda s: s.blocks_max, "free": lambda s: s.blocks_free, "used": lambda s: s.blocks_used,
            "tokens_per": lambda s: s.tokens_per_block,
            "fraction": lambda s: s.blocks_used / s.blocks_max if s.blocks_max else 0.0,
        },
    ),
    (
        "nv_trt_llm_general_metrics", "General TRT LLM metrics", "general_type",
        {"iteration_counter": lambda s: s.iteration, "timestamp": lambda s: int(s.timestamp)},
    ),
)  # fmt: skip
_INFLIGHT: Family = (
    "nv_trt_llm_inflight_batcher_metrics", "TRT LLM inflight_batcher-specific metrics",
    "inflight_batcher_specific_metric",
    {
        "total_context_tokens": lambda s: s.context_tokens, "generation_requests": lambda s: s.generation,
        "micro_batch_id": lambda s: 0, "paused_requests": lambda s: s.paused,
    },
)  # fmt: skip
_V1: Family = (
    "nv_trt_llm_v1_metrics", "TRT LLM v1-specific metrics", "v1_specific_metric",
    {
        "total_context_tokens": lambda s: s.context_tokens, "total_generation_tokens": lambda s: s.generation,
        "empty_generation_slots": lambda s: max(0, s.active - s.generation),
    },
)  # fmt: skip


class Metrics:
    """The gauges of one model."""

    def __init__(self, model: str, version: str, max_requests: int, parameters: Parameters) -> None:
        labels = {"model": model, "version": version}
        self._gauges: list[tuple[Any, Reading]] = []
        # A family goes when its object does, so they are kept.
        self._families: list[Any] = []
        self._shown: dict[int, float] = {}
        for name, text, label, readings in (*_COMMON, _INFLIGHT if parameters.inflight else _V1):
            family = pb_utils.MetricFamily(name=name, description=text, kind=pb_utils.MetricFamily.GAUGE)
            self._families.append(family)
            for value, reading in readings.items():
                self._gauges.append((family.Metric(labels={**labels, label: value}), reading))
        most = self._families[0].Metric(labels={**labels, "request_type": "max"})
        most.set(max_requests)
        self._gauges.append((most, lambda s: max_requests))

    def update(self, stats: Stats) -> None:
        """Set what has changed; each setting is a message to the server."""
        for number, (gauge, reading) in enumerate(self._gauges):
            value = float(reading(stats))
            if self._shown.get(number) != value:
                gauge.set(value)
                self._shown[number] = value
