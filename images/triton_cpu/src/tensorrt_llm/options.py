# SPDX-License-Identifier: GPL-3.0-or-later
"""The command-line options of the engine-building tools of TensorRT-LLM 1.2.1, as data.

Names, types, choices and defaults are upstream's (1.0.0's list less --auto_parallel, --gpus_per_node and
--cluster_key, which went in 1.1). An option that is not here is an error of argparse, as it is upstream.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Callable

SUPPRESS = argparse.SUPPRESS


@dataclass(frozen=True)
class Option:
    """One option. `kind` is str, int, float, or bool for a bare flag."""

    flag: str
    kind: type
    default: Any = None
    choices: tuple[Any, ...] | None = None
    nargs: str | None = None
    const: Any = None
    aliases: tuple[str, ...] = ()
    convert: Callable[[str], str] | None = None


def kv_cache_type(text: str) -> str:
    """upstream parses its enumeration without regard to case."""
    if text.lower() not in ("continuous", "paged", "disabled"):
        raise argparse.ArgumentTypeError(f"invalid KVCacheType value: {text!r} (choose continuous, paged, disabled)")
    return text.lower()


def _flags(*names: str) -> list[Option]:
    return [Option(f"--{name}", bool, False) for name in names]


def _switches(**defaults: str) -> list[Option]:
    return [Option(f"--{name}", str, default, ("enable", "disable")) for name, default in defaults.items()]


def _plugins(choices: tuple[str, ...], **defaults: str | None) -> list[Option]:
    return [Option(f"--{name}", str, default, (*choices, "disable")) for name, default in defaults.items()]


_DTYPES = ("auto", "float16", "float32", "bfloat16", "int32")

PLUGIN_OPTIONS: list[Option] = [
    *_plugins(_DTYPES, bert_attention_plugin="auto", gpt_attention_plugin="auto"),
    *_plugins((*_DTYPES, "fp8", "nvfp4"), gemm_plugin=None),
    *_plugins(("fp8",), gemm_swiglu_plugin="disable"),
    *_plugins(_DTYPES, fp8_rowwise_gemm_plugin="disable", nccl_plugin="auto", lora_plugin="disable"),
    *_switches(dora_plugin="disable"),
    *_plugins(_DTYPES, moe_plugin="auto", mamba_conv1d_plugin="auto"),
    *_plugins(("fp8",), low_latency_gemm_plugin="disable", low_latency_gemm_swiglu_plugin="disable"),
    *_plugins(("float16", "bfloat16"), gemm_allreduce_plugin="disable"),
    *_switches(
        context_fmha="enable", bert_context_fmha_fp32_acc="disable", remove_input_padding="enable",
        norm_quant_fusion="disable", reduce_fusion="disable", user_buffer="disable",
    ),
    Option("--tokens_per_block", int, 32),
    *_switches(
        use_paged_context_fmha="enable", use_fp8_context_fmha="enable", fuse_fp4_quant="disable",
        multiple_profiles="disable", paged_state="enable", streamingllm="disable", use_fused_mlp="enable",
        pp_reduce_scatter="disable",
    ),
]  # fmt: skip

BUILD_OPTIONS: list[Option] = [
    Option("--checkpoint_dir", str),
    Option("--model_config", str),
    Option("--build_config", str),
    Option("--model_cls_file", str),
    Option("--model_cls_name", str),
    Option("--output_dir", str, "engine_outputs"),
    Option("--max_batch_size", int, 2048),
    Option("--max_input_len", int, 1024),
    Option("--max_seq_len", int, aliases=("--max_decoder_seq_len",)),
    Option("--max_beam_width", int, 1),
    Option("--max_num_tokens", int, 8192),
    Option("--opt_num_tokens", int),
    Option("--max_encoder_input_len", int, 1024),
    Option("--max_prompt_embedding_table_size", int, 0, aliases=("--max_multimodal_len",)),
    Option("--kv_cache_type", str, SUPPRESS, convert=kv_cache_type),
    Option("--paged_kv_cache", str, SUPPRESS),
    Option("--input_timing_cache", str),
    Option("--output_timing_cache", str, "model.cache"),
    Option("--profiling_verbosity", str, "layer_names_only", ("layer_names_only", "detailed", "none")),
    *_flags("strip_plan", "weight_sparsity", "weight_streaming", "fast_build"),
    Option("--workers", int, 1),
    Option(
        "--log_level", str, "info", ("internal_error", "error", "warning", "info", "verbose", "debug", "trace")
    ),
    *_flags("enable_debug_output"),
    Option("--visualize_network", str),
    *_flags("dry_run", "monitor_memory"),
    Option("--logits_dtype", str, None, ("float16", "float32")),
    *_flags("gather_context_logits", "gather_generation_logits", "gather_all_token_logits"),
    Option("--lora_dir", str, nargs="+"),
    Option("--lora_ckpt_source", str, "hf", ("hf", "nemo")),
    Option(
        "--lora_target_modules", str, None,
        (
            "attn_qkv", "attn_q", "attn_k", "attn_v", "attn_dense", "mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate",
            "cross_attn_qkv", "cross_attn_q", "cross_attn_k", "cross_attn_v", "cross_attn_dense", "moe_h_to_4h",
            "moe_4h_to_h", "moe_gate", "moe_router", "mlp_router", "mlp_gate_up",
        ),
        nargs="+",
    ),
    Option("--max_lora_rank", int, 64),
    Option(
        "--speculative_decoding_mode", str, None,
        ("draft_tokens_external", "lookahead_decoding", "medusa", "explicit_draft_tokens", "eagle"),
    ),
    Option("--max_draft_len", int, 0),
    *PLUGIN_OPTIONS,
]  # fmt: skip

_PARALLEL = [
    Option("--tp_size", int, 1),
    Option("--pp_size", int, 1),
    Option("--cp_size", int, 1),
    Option("--moe_tp_size", int, -1),
    Option("--moe_ep_size", int, -1),
]
_CONVERT_COMMON: list[Option] = [
    *_PARALLEL,
    Option("--dtype", str, "auto", ("auto", "float16", "bfloat16", "float32")),
    *_flags("use_weight_only", "disable_weight_only_quant_plugin"),
    Option("--calib_dataset", str, "ccdv/cnn_dailymail"),
    Option("--smoothquant", float, aliases=("-sq",)),
    *_flags("per_channel", "per_token", "int8_kv_cache", "per_group"),
    Option("--group_size", int, 128),
    *_flags("load_model_on_cpu", "use_parallel_embedding"),
    Option("--embedding_sharding_dim", int, 0, (0, 1)),
    Option("--output_dir", str, "tllm_checkpoint"),
    Option("--workers", int, 1),
]

# Per example directory: what its convert_checkpoint.py takes.
CONVERT_OPTIONS: dict[str, list[Option]] = {
    "llama": [
        Option("--model_dir", str),
        Option("--meta_ckpt_dir", str),
        *_CONVERT_COMMON,
        Option(
            "--weight_only_precision", str, "int8", ("int8", "int4", "int8_gptq", "int4_gptq", "int4_awq"), "?", "int8"
        ),
        Option("--vocab_size", int, 32000),
        Option("--n_positions", int, 2048),
        Option("--n_layer", int, 32),
        Option("--n_head", int, 32),
        Option("--n_kv_head", int),
        Option("--n_embd", int, 4096),
        Option("--inter_size", int, 11008),
        Option("--multiple_of", int),
        Option("--ffn_dim_multiplier", float),
        Option("--rms_norm_eps", float, 1e-06),
        Option("--calib_size", int, 512),
        Option("--calib_max_seq_length", int, 512),
        *_flags("use_qserve", "fp8_kv_cache"),
        Option("--quant_ckpt_path", str),
        *_flags("use_fp8", "use_nvfp4", "use_fp8_rowwise", "use_meta_fp8_rowwise_recipe", "load_by_shard"),
        Option("--hidden_act", str, "silu"),
        Option("--rotary_base", float, 10000.0),
        Option("--moe_num_experts", int, 0),
        Option("--moe_top_k", int, 0),
        Option("--moe_renorm_mode", int, 1),
        *_flags("save_config_only", "remove_duplicated_kv_heads"),
        Option("--log_level", str, "info"),
    ],
    "qwen": [
        Option("--model_dir", str),
        *_CONVERT_COMMON,
        Option("--weight_only_precision", str, "int8", ("int8", "int4", "int4_gptq"), "?", "int8"),
    ],
}


def parser(program: str, options: Iterable[Option], required: Iterable[str] = ()) -> argparse.ArgumentParser:
    """An argparse parser of those options."""
    result = argparse.ArgumentParser(prog=program, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    needed = set(required)
    for option in options:
        names = (option.flag, *option.aliases)
        if option.kind is bool:
            result.add_argument(*names, action="store_true", default=option.default)
            continue
        extra: dict[str, Any] = {}
        if option.choices is not None:
            extra["choices"] = option.choices
        if option.nargs is not None:
            extra.update(nargs=option.nargs, const=option.const if option.nargs == "?" else None)
        result.add_argument(
            *names,
            type=option.convert or option.kind,
            default=option.default,
            required=option.flag in needed,
            dest=option.flag.removeprefix("--"),
            **extra,
        )
    return result
