# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user may say about an engine: one set of names for all releases, upstream's newest where there is one.

What a release's tools make of it is in ``_release_cli``. An option that is not given is not passed on, so the
tool's own default of that release holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Option = dict[str, Any]

DTYPES = ["auto", "float16", "bfloat16", "float32"]
PLUGIN_DTYPES = ["auto", "float16", "bfloat16", "float32", "int32", "disable"]
# The highest release's list; an earlier one may know fewer, which planning checks.
LORA_MODULES = [
    "attn_qkv", "attn_q", "attn_k", "attn_v", "attn_dense",
    "mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate", "mlp_router", "mlp_gate_up",
    "cross_attn_qkv", "cross_attn_q", "cross_attn_k", "cross_attn_v", "cross_attn_dense",
    "moe_h_to_4h", "moe_4h_to_h", "moe_gate", "moe_router",
]  # fmt: skip


def _int(default: int | None = None) -> Option:
    return {"type": "int"} if default is None else {"type": "int", "default": default}


def _bool() -> Option:
    return {"type": "bool"}


def _str(*choices: str) -> Option:
    return {"type": "str", "choices": list(choices)} if choices else {"type": "str"}


def _list(*choices: str) -> Option:
    return {"type": "list", "elements": "str", **({"choices": list(choices)} if choices else {})}


PARALLELISM: dict[str, Option] = {
    "tp_size": _int(1),
    "pp_size": _int(1),
    "cp_size": _int(1),
    "moe_tp_size": _int(),
    "moe_ep_size": _int(),
    "workers": _int(),
}

CONVERSION: dict[str, Option] = {
    "dtype": _str(*DTYPES),
    "logits_dtype": _str("float16", "float32"),
    "load_by_shard": _bool(),
    "load_model_on_cpu": _bool(),
    "use_parallel_embedding": _bool(),
    "embedding_sharding_dim": {"type": "int", "choices": [0, 1]},
    "use_embedding_sharing": _bool(),
    "remove_duplicated_kv_heads": _bool(),
}

QUANTIZATION: dict[str, Option] = {
    "use_weight_only": _bool(),
    "weight_only_precision": _str("int8", "int4", "int8_gptq", "int4_gptq", "int4_awq", "w4a8_awq", "w4a16_awq"),
    "disable_weight_only_quant_plugin": _bool(),
    "quant_ckpt_path": {"type": "path"},
    "smoothquant": {"type": "float"},
    "per_channel": _bool(),
    "per_token": _bool(),
    "per_group": _bool(),
    "group_size": _int(),
    "int8_kv_cache": _bool(),
    "fp8_kv_cache": _bool(),
    "use_fp8": _bool(),
    "use_fp8_rowwise": _bool(),
    "use_meta_fp8_rowwise_recipe": _bool(),
    "use_qserve": _bool(),
    "use_nvfp4": _bool(),
    "qformat": _str("nvfp4", "fp8", "fp8_pc_pt", "int8_sq", "int4_awq", "w4a8_awq", "int8_wo", "int4_wo", "full_prec"),
    "kv_cache_dtype": _str("int8", "fp8"),
    "awq_block_size": _int(),
    "autoq_format": _str(),
    "auto_quantize_bits": {"type": "float"},
    "quantize_lm_head": _bool(),
    "calib_dataset": _str(),
    "calib_size": _int(),
    "calib_batch_size": _int(),
    "calib_max_seq_length": _int(),
    "random_seed": _int(),
}

LIMITS: dict[str, Option] = {
    "max_batch_size": _int(),
    "max_input_len": _int(),
    "max_seq_len": _int(),
    "max_output_len": _int(),
    "max_beam_width": _int(),
    "max_num_tokens": {**_int(), "no_log": False},
    "opt_num_tokens": {**_int(), "no_log": False},
    "max_encoder_input_len": _int(),
    "max_prompt_embedding_table_size": _int(),
    "tokens_per_block": {**_int(), "no_log": False},
}

BUILD: dict[str, Option] = {
    "kv_cache_type": _str("continuous", "paged", "disabled"),
    "paged_kv_cache": _bool(),
    "remove_input_padding": _bool(),
    "use_inflight_batching": _bool(),
    "gather_context_logits": _bool(),
    "gather_generation_logits": _bool(),
    "gather_all_token_logits": _bool(),
    "multiple_profiles": _bool(),
    "builder_force_num_profiles": _int(),
    "builder_opt": _int(),
    "strongly_typed": _bool(),
    "fast_build": _bool(),
    "strip_plan": _bool(),
    "weight_sparsity": _bool(),
    "weight_streaming": _bool(),
    "profiling_verbosity": _str("layer_names_only", "detailed", "none"),
    "enable_debug_output": _bool(),
    "input_timing_cache": {"type": "path"},
    "monitor_memory": _bool(),
    "log_level": _str("internal_error", "error", "warning", "info", "verbose", "debug", "trace"),
    "speculative_decoding_mode": _str(
        "draft_tokens_external", "lookahead_decoding", "medusa", "explicit_draft_tokens", "eagle"
    ),
    "max_draft_len": _int(),
}

LORA: dict[str, Option] = {
    "lora_plugin": _str(*PLUGIN_DTYPES),
    "lora_dir": {"type": "list", "elements": "path"},
    "lora_ckpt_source": _str("hf", "nemo"),
    "lora_target_modules": _list(*LORA_MODULES),
    "max_lora_rank": _int(),
    "dora_plugin": _bool(),
}

PLUGINS: dict[str, Option] = {
    "gpt_attention_plugin": _str(*PLUGIN_DTYPES),
    "bert_attention_plugin": _str(*PLUGIN_DTYPES),
    "gemm_plugin": _str("auto", "float16", "bfloat16", "float32", "int32", "fp8", "nvfp4", "disable"),
    "gemm_swiglu_plugin": _str("fp8", "disable"),
    "fp8_rowwise_gemm_plugin": _str(*PLUGIN_DTYPES),
    "low_latency_gemm_plugin": _str("fp8", "disable"),
    "low_latency_gemm_swiglu_plugin": _str("fp8", "disable"),
    "gemm_allreduce_plugin": _str("float16", "bfloat16", "disable"),
    "lookup_plugin": _str(*PLUGIN_DTYPES),
    "nccl_plugin": _str(*PLUGIN_DTYPES),
    "moe_plugin": _str(*PLUGIN_DTYPES),
    "mamba_conv1d_plugin": _str(*PLUGIN_DTYPES),
    "context_fmha": _bool(),
    "context_fmha_fp32_acc": _bool(),
    "bert_context_fmha_fp32_acc": _bool(),
    "use_paged_context_fmha": _bool(),
    "use_fp8_context_fmha": _bool(),
    "use_context_fmha_for_generation": _bool(),
    "attention_qk_half_accumulation": _bool(),
    "enable_xqa": _bool(),
    "multi_block_mode": _bool(),
    "use_custom_all_reduce": _bool(),
    "use_fused_mlp": _bool(),
    "paged_state": _bool(),
    "streamingllm": _bool(),
    "reduce_fusion": _bool(),
    "norm_quant_fusion": _bool(),
    "fuse_fp4_quant": _bool(),
    "user_buffer": _bool(),
    "pp_reduce_scatter": _bool(),
}

MODEL: dict[str, Option] = {
    "model_family": _str(
        "llama", "mistral", "mixtral", "qwen", "qwen2", "baichuan", "gpt2", "phi", "phi3", "gemma", "falcon"
    ),
    "model_version": _str("v1_7b", "v1_13b", "v2_7b", "v2_13b"),
}

# In the form of an argument_spec, as modules, roles and the fleet's description use it.
ENGINE_OPTIONS: dict[str, Option] = {
    **MODEL, **PARALLELISM, **CONVERSION, **QUANTIZATION, **LIMITS, **BUILD, **LORA, **PLUGINS,
}  # fmt: skip

# They change how long making an engine takes and what is printed, not the engine: no reason to make it again.
WITHOUT_EFFECT_ON_ENGINE = frozenset(
    {"workers", "log_level", "monitor_memory", "load_by_shard", "load_model_on_cpu", "input_timing_cache"}
)

# What multiplies up to the number of ranks, and so of GPUs, of one engine.
RANKS = ("tp_size", "pp_size", "cp_size")


def world_size(options: Mapping[str, Any]) -> int:
    """Ranks of the engine: ``tp_size * pp_size * cp_size``, each 1 where not given."""
    return math.prod(int(options.get(name) or 1) for name in RANKS)
