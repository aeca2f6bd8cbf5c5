# SPDX-License-Identifier: GPL-3.0-or-later
"""The `parameters` of tensorrt_llm's config.pbtxt, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import TrtllmError
from .executor import GUARANTEED_NO_EVICT, MAX_UTILIZATION

T = TypeVar("T")

_INFLIGHT = ("inflight_fused_batching", "inflight_batching")
_V1 = ("V1", "v1")
_DECODING_MODES = ("auto", "top_k", "top_p", "top_k_top_p")


@dataclass(frozen=True)
class Parameters:
    """What of the parameters has a meaning on a CPU; the others are taken note of by nobody."""

    engine_dir: str
    inflight: bool = True
    policy: str = GUARANTEED_NO_EVICT
    exclude_input: bool = False
    max_beam_width: int = 1
    kv_cache_free_fraction: float = 0.9
    max_tokens_in_cache: int | None = None
    chunked_context: bool = False
    cancellation_check_ms: int = 100
    stats_check_ms: int = 100
    # What guides are read with: the tokenizer's information file or its directory. Without it there are none.
    guided_tokenizer: str | None = None


class _Reader:
    """Values by key. A key that is absent, empty or an unfilled `${...}` was not specified."""

    def __init__(self, config: dict[str, Any], warn: Callable[[str], None]) -> None:
        self._values = {
            key: str((entry or {}).get("string_value", "")) for key, entry in config.get("parameters", {}).items()
        }
        unfilled = sorted(key for key, value in self._values.items() if value.startswith("${"))
        if unfilled:
            warn(f"not specified, defaults are used: {', '.join(unfilled)}")

    def text(self, key: str) -> str | None:
        value = self._values.get(key, "").strip()
        return None if not value or value.startswith("${") else value

    def convert(self, key: str, to: Callable[[str], T], expected: str, default: T) -> T:
        value = self.text(key)
        if value is None:
            return default
        try:
            return to(value)
        except ValueError:
            raise TrtllmError(f"parameter {key} is {value!r}, expected {expected}") from None

    def flag(self, key: str) -> bool:
        return self.convert(key, _flag, "true or false", False)

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(key)
        if value is not None and value not in choices:
            raise TrtllmError(f"parameter {key} is {value!r}, expected one of {', '.join(choices)}")
        return value or default


def _flag(text: str) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError(text)
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def read_parameters(config: dict[str, Any], warn: Callable[[str], None]) -> Parameters:
    """Parameters of a model configuration as Triton hands it over. Raises TrtllmError for a value that is wrong."""
    read = _Reader(config, warn)
    engine_dir = read.text("gpt_model_path")
    if engine_dir is None:
        raise TrtllmError("parameter gpt_model_path is not specified; fill engine_dir in config.pbtxt")
    if read.text("cross_kv_cache_fraction") is not None:
        raise TrtllmError("Assertion failed: Do not set crossKvCacheFraction for decoder-only model")
    read.choice("decoding_mode", _DECODING_MODES, "auto")
    guided = read.text("guided_decoding_backend")
    # The C++ backend takes the file that was made of the tokenizer and leaves guides off without it, the Python one
    # takes the tokenizer itself.
    python = config.get("backend") == "python"
    tokenizer = read.text("tokenizer_dir" if python else "xgrammar_tokenizer_info_path") if guided else None
    if tokenizer and guided != "xgrammar":
        raise TrtllmError(
            "Guided decoding is currently supported with 'xgrammar' backend. Invalid guided_decoding_backend parameter"
            " provided."
        )
    if guided and python and not tokenizer:
        raise TrtllmError("Guided decoding requires tokenizer's information. Please provide 'tokenizer_dir'.")
    cache = read.convert("max_tokens_in_paged_kv_cache", _positive, "a whole number above 0", 0)
    return Parameters(
        engine_dir=engine_dir,
        inflight=read.choice("gpt_model_type", _INFLIGHT + _V1, _INFLIGHT[0]) in _INFLIGHT,
        policy=read.choice("batch_scheduler_policy", (GUARANTEED_NO_EVICT, MAX_UTILIZATION), GUARANTEED_NO_EVICT),
        exclude_input=read.flag("exclude_input_in_output"),
        max_beam_width=read.convert("max_beam_width", _positive, "a whole number above 0", 1),
        kv_cache_free_fraction=read.convert(
            "kv_cache_free_gpu_mem_fraction", _fraction, "a number above 0 and at most 1", 0.9
        ),
        max_tokens_in_cache=cache or None,
        chunked_context=read.flag("enable_chunked_context"),
        cancellation_check_ms=read.convert("cancellation_check_period_ms", _positive, "milliseconds above 0", 100),
        stats_check_ms=read.convert("stats_check_period_ms", _positive, "milliseconds above 0", 100),
        guided_tokenizer=tokenizer,
    )
