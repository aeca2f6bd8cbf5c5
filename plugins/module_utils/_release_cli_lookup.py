# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tools a release builds an engine with, which options they know, and which releases know an option."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from ansible_collections.trtllm.fleet.plugins.module_utils._engine_options import (
    BUILD,
    CONVERSION,
    ENGINE_OPTIONS,
    LIMITS,
    LORA,
    PARALLELISM,
    PLUGINS,
    QUANTIZATION,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._errors import FleetError, nearest
from ansible_collections.trtllm.fleet.plugins.module_utils._release import (
    FLOW_LLMAPI,
    LAST_ENGINE_RELEASE,
    RELEASES,
    Release,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._release_cli_data import CHOICES, TOOLS
from ansible_collections.trtllm.fleet.plugins.module_utils._versions import version_key

BUILD_TOOL, QUANTIZE_TOOL = "trtllm-build", "quantization/quantize.py"

# family | releases | tools in the order in which they run
_FLOWS = """
llama    | 0.7.1        | llama/build.py
llama    | 0.8.0-       | llama/convert_checkpoint.py trtllm-build
mistral  | 0.7.1        | llama/build.py
mistral  | 0.8.0-       | llama/convert_checkpoint.py trtllm-build
mixtral  | 0.7.1        | llama/build.py
mixtral  | 0.8.0-       | llama/convert_checkpoint.py trtllm-build
baichuan | 0.7.1        | baichuan/build.py
baichuan | 0.8.0-       | baichuan/convert_checkpoint.py trtllm-build
gpt2     | 0.7.1-0.8.0  | gpt/hf_gpt_convert.py gpt/build.py
gpt2     | 0.9.0-       | gpt/convert_checkpoint.py trtllm-build
qwen     | 0.7.1-0.8.0  | qwen/build.py
qwen     | 0.9.0-       | qwen/convert_checkpoint.py trtllm-build
qwen2    | 0.10.0-      | qwen/convert_checkpoint.py trtllm-build
phi      | 0.8.0-       | phi/convert_checkpoint.py trtllm-build
phi3     | 0.11.0-      | phi/convert_checkpoint.py trtllm-build
gemma    | 0.9.0-       | gemma/convert_checkpoint.py trtllm-build
falcon   | 0.8.0-       | falcon/convert_checkpoint.py trtllm-build
"""

# option -> names that it had, the newest first; a tool gets the first one that its release knows.
_RENAMED: dict[str, tuple[str, ...]] = {
    "quant_ckpt_path": ("quant_ckpt_path", "modelopt_quant_ckpt_path", "ammo_quant_ckpt_path"),
    "use_fp8": ("use_fp8", "enable_fp8"),
    "int8_kv_cache": ("int8_kv_cache", "calibrate_kv_cache", "calibrate-kv-cache"),
    "smoothquant": ("smoothquant", "use_smooth_quant_plugin"),
    "calib_batch_size": ("batch_size",),
    "calib_max_seq_length": ("calib_max_seq_length", "max_seq_length"),
    "random_seed": ("seed",),
    "lora_dir": ("lora_dir", "hf_lora_dir"),
    "lora_plugin": ("lora_plugin", "use_lora_plugin"),
    "lookup_plugin": ("lookup_plugin", "use_lookup_plugin"),
    "gpt_attention_plugin": ("gpt_attention_plugin", "use_gpt_attention_plugin"),
    "gemm_plugin": ("gemm_plugin", "use_gemm_plugin"),
    "context_fmha": ("context_fmha", "enable_context_fmha"),
    "context_fmha_fp32_acc": ("context_fmha_fp32_acc", "enable_context_fmha_fp32_acc"),
    "kv_cache_type": ("kv_cache_type", "paged_kv_cache"),
    "dtype": ("dtype", "storage-type"),
    "load_model_on_cpu": ("load_model_on_cpu", "load-model-on-cpu"),
    "workers": ("workers", "parallel_build"),
}

# What each kind of tool may be given. An option of the engine goes to every tool of the flow that takes it.
_CONVERT = {*PARALLELISM, *CONVERSION, *QUANTIZATION, *LORA, "model_version", "log_level"} - {"lora_plugin"}
_QUANTIZE = {*PARALLELISM, *QUANTIZATION, "dtype", "log_level"} - {"workers"}
_BUILD = {*LIMITS, *BUILD, *LORA, *PLUGINS, "logits_dtype", "workers"}
_EVERYTHING = {*_CONVERT, *_BUILD}

# Why an option is gone, and what took its place.
_HINTS = {
    "use_inflight_batching": "it follows from gpt_attention_plugin, remove_input_padding and a paged kv_cache_type",
    "use_custom_all_reduce": "later releases decide it at run time",
    "multi_block_mode": "later releases take it as a parameter of the model repository",
    "context_fmha_fp32_acc": "later releases take it as a parameter of the model repository",
    "enable_xqa": "later releases decide it at run time",
    "qformat": "earlier releases quantise with use_weight_only",
    "moe_tp_size": "earlier releases choose by themselves",
    "moe_ep_size": "earlier releases choose by themselves",
}


@dataclass(frozen=True)
class Flag:
    """One option of one tool over a range of releases."""

    name: str
    first: tuple[int, ...]
    last: tuple[int, ...]
    kind: str
    default: str | None
    choices: tuple[str, ...]


def _span(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``0.8.0-``, ``0.8.0-0.16.0`` or ``0.9.0`` as (first, last)."""
    first, dash, last = text.strip().partition("-")
    return version_key(first), version_key(last or LAST_ENGINE_RELEASE) if dash else version_key(first)


@cache
def flags(tool: str) -> dict[str, list[Flag]]:
    """All options of *tool*, by name, over all releases."""
    found: dict[str, list[Flag]] = {}
    for line in TOOLS[tool].strip().splitlines():
        name, span, kind, default, choices = (cell.strip() for cell in line.split("|"))
        words = tuple(word for word in CHOICES.get(choices, choices).split(",") if word)
        found.setdefault(name, []).append(Flag(name, *_span(span), kind, default or None, words))
    return found


def flag(tool: str, name: str, release: Release) -> Flag | None:
    """The option *name* of *tool* in *release*, or None where it is not known there."""
    for candidate in flags(tool).get(name, []):
        if candidate.first <= release.key <= candidate.last:
            return candidate
    return None


@cache
def flow_rows() -> tuple[tuple[str, tuple[int, ...], tuple[int, ...], tuple[str, ...]], ...]:
    rows = []
    for line in _FLOWS.strip().splitlines():
        family, span, tools = (cell.strip() for cell in line.split("|"))
        rows.append((family, *_span(span), tuple(tools.split())))
    return tuple(rows)


def flow(release: Release, family: str, quantized: bool) -> tuple[str, ...] | None:
    """Tools that make an engine of *family* in *release*, in order; None where there is no way."""
    for known, first, last, tools in flow_rows():
        if known == family and first <= release.key <= last:
            if not quantized:
                return tools
            return (QUANTIZE_TOOL, BUILD_TOOL) if tools[-1] == BUILD_TOOL else None
    return None


def engine_releases() -> list[Release]:
    """Releases that build engines, oldest first."""
    return [row for row in RELEASES.values() if row.flow != FLOW_LLMAPI]


def listing(found: Iterable[Release]) -> str:
    """``0.8.0 to 0.11.0 and 1.0.0 to 1.2.1``: runs of neighbouring releases."""
    order, wanted = engine_releases(), set(found)
    runs: list[list[str]] = []
    for index, row in enumerate(order):
        if row not in wanted:
            continue
        if index and order[index - 1] in wanted and runs:
            runs[-1].append(row.version)
        else:
            runs.append([row.version])
    return " and ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def takes(tool: str) -> set[str]:
    """Options that may be given to *tool*, whatever the release."""
    if tool == BUILD_TOOL:
        return _BUILD
    if tool == QUANTIZE_TOOL:
        return _QUANTIZE
    return _CONVERT if "convert" in tool else _EVERYTHING


def find(tool: str, option: str, release: Release) -> Flag | None:
    """The option of *tool* that expresses the engine option, under whichever name it had in *release*."""
    if option not in takes(tool):
        return None
    for name in _RENAMED.get(option, (option,)):
        found = flag(tool, name, release)
        if found is not None:
            return found
    return None


def _expressible(tool: str, option: str, release: Release) -> bool:
    """Whether *tool* of *release* has any way to express *option*."""
    if find(tool, option, release) is not None:
        return True
    names = {
        "tp_size": ("world_size", "world-size", "tensor-parallelism"),
        "use_weight_only": ("use-weight-only-with-precision",),
        "weight_only_precision": ("use-weight-only-with-precision",),
        "max_seq_len": ("max_output_len",),
        "max_output_len": ("max_seq_len",),
        "paged_kv_cache": ("kv_cache_type", "paged_kv_cache"),
    }.get(option, ())
    return any(flag(tool, name, release) is not None for name in names)


def releases_with(option: str, family: str | None = None, quantized: bool | None = None) -> list[Release]:
    """Releases in which some tool of the flow knows *option*; of any family and flow where not given."""
    families = [family] if family else sorted({row[0] for row in flow_rows()})
    ways = [quantized] if quantized is not None else [False, True]
    return [
        row
        for row in engine_releases()
        if any(
            _expressible(tool, option, row) for name in families for way in ways for tool in flow(row, name, way) or ()
        )
    ]


def refuse_option(option: str, release: Release, family: str, quantized: bool) -> FleetError:
    """Why *option* cannot be given here, with the releases that know it."""
    if option in ENGINE_OPTIONS and release in releases_with(option, family, not quantized):
        with_or_without = "is only for building without qformat" if quantized else "needs qformat"
        return FleetError(f"{option} {with_or_without}; leave {option} out or change qformat.")
    known = releases_with(option, family)
    hint = f" ({_HINTS[option]})" if option in _HINTS else ""
    if known:
        return FleetError(
            f"TensorRT-LLM {release.version} has no option {option} for {family}{hint}; {listing(known)} "
            f"{'has' if len(known) == 1 else 'have'} it. Leave it out or choose such a release."
        )
    anywhere = listing(releases_with(option))
    return FleetError(
        f"No release has the option {option} for {family}{hint}; other model families have it in {anywhere}."
        if anywhere
        else f"{option} is not an option of an engine{nearest(option, ENGINE_OPTIONS) or '.'}"
    )


def refuse_choice(option: str, value: str, found: Flag, release: Release, tool: str) -> FleetError:
    """Why *value* cannot be given, with what the release knows and the releases that know the value."""
    elsewhere = [
        row
        for row in engine_releases()
        if (other := flag(tool, found.name, row)) is not None and (not other.choices or value in other.choices)
    ]
    where = f"; {listing(elsewhere)} {'has' if len(elsewhere) == 1 else 'have'} it" if elsewhere else ""
    return FleetError(
        f"{option} is '{value}', which TensorRT-LLM {release.version} does not know (it knows "
        f"{', '.join(found.choices)}){where}."
    )
