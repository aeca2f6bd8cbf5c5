# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user may say about an engine: one set of names for all releases, upstream's newest where there is one.

An option is described here alone. What a release's tools make of it is in ``cli``. An option that is not
given is not passed on, so the tool's own default of that release holds.
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


def _int(description: str, default: int | None = None) -> Option:
    option: Option = {"type": "int", "description": description}
    return option if default is None else {**option, "default": default}


def _float(description: str) -> Option:
    return {"type": "float", "description": description}


def _bool(description: str) -> Option:
    return {"type": "bool", "description": description}


def _path(description: str) -> Option:
    return {"type": "path", "description": description}


def _str(description: str, *choices: str) -> Option:
    return {"type": "str", "description": description, **({"choices": list(choices)} if choices else {})}


def _list(description: str, *choices: str) -> Option:
    return {**_str(description, *choices), "type": "list", "elements": "str"}


PARALLELISM: dict[str, Option] = {
    "tp_size": _int("Ranks of tensor parallelism, one GPU each. Must divide the model's attention heads.", default=1),
    "pp_size": _int(
        "Ranks of pipeline parallelism, one GPU each. Must divide the model's layers; from 1.0.0 on it need not.",
        default=1,
    ),
    "cp_size": _int("Ranks of context parallelism, one GPU each.", default=1),
    "moe_tp_size": _int(
        "Ranks over which each expert is split. O(options.moe_tp_size) times O(options.moe_ep_size) is "
        "O(options.tp_size)."
    ),
    "moe_ep_size": _int("Ranks over which the experts are spread."),
    "workers": _int(
        "Ranks that are converted and built at the same time, in processes. Each takes host memory for a "
        "whole checkpoint. Does not change the engine."
    ),
}

CONVERSION: dict[str, Option] = {
    "dtype": _str(
        "Precision of weights and activations. V(auto) is the checkpoint's own, V(float16) for a checkpoint "
        "in V(float32).",
        *DTYPES,
    ),
    "logits_dtype": _str("Precision of the logits.", "float16", "float32"),
    "load_by_shard": _bool(
        "Load the checkpoint one shard at a time, which takes less host memory. Does not change the engine."
    ),
    "load_model_on_cpu": _bool(
        "Load the checkpoint into host memory instead of onto the GPUs. Does not change the engine."
    ),
    "use_parallel_embedding": _bool("Split the embedding table over the ranks."),
    "embedding_sharding_dim": {
        "description": (
            "Dimension along which it is split: V(0) the vocabulary, V(1) the hidden size, which takes effect "
            "with O(options.use_parallel_embedding=true)."
        ),
        "type": "int",
        "choices": [0, 1],
    },
    "use_embedding_sharing": _bool("Share one table between embedding and output layer."),
    "remove_duplicated_kv_heads": _bool("Undo the repetition of key/value heads that some checkpoints carry."),
}

QUANTIZATION: dict[str, Option] = {
    "use_weight_only": _bool("Quantise the weights alone."),
    "weight_only_precision": _str(
        "Format of weight-only quantisation. Takes effect with O(options.use_weight_only=true).",
        "int8",
        "int4",
        "int8_gptq",
        "int4_gptq",
        "int4_awq",
        "w4a8_awq",
        "w4a16_awq",
    ),
    "disable_weight_only_quant_plugin": _bool(
        "Quantise weights without the plugin, with TensorRT's own layers. Takes effect with "
        "O(options.use_weight_only=true)."
    ),
    "quant_ckpt_path": _path(
        "File or directory of a checkpoint that was quantised elsewhere. Its content counts, not its path."
    ),
    "smoothquant": _float("SmoothQuant's alpha, from 0 to 1."),
    "per_channel": _bool(
        "One scaling factor for each channel instead of one for the tensor. Takes effect with O(options.smoothquant)."
    ),
    "per_token": _bool(
        "One scaling factor for each token instead of one for the tensor. Takes effect with O(options.smoothquant)."
    ),
    "per_group": _bool("One scaling factor for each group of weights, as GPTQ and AWQ need."),
    "group_size": _int("Size of such a group, in weights."),
    "int8_kv_cache": _bool("Keep the KV cache in INT8."),
    "fp8_kv_cache": _bool("Keep the KV cache in FP8."),
    "use_fp8": _bool("Use FP8 for the linear layers."),
    "use_fp8_rowwise": _bool("Use FP8 with one scaling factor for each row."),
    "use_meta_fp8_rowwise_recipe": _bool(
        "Leave the layers in higher precision that Meta's recipe leaves. Takes effect with "
        "O(options.use_fp8_rowwise=true)."
    ),
    "use_qserve": _bool("Use QServe's W4A8 format."),
    "use_nvfp4": _bool("Use NVFP4 for the linear layers."),
    "qformat": _str(
        "Quantise with C(quantize.py) to this format instead of converting. Needs a GPU and calibration data.",
        "nvfp4",
        "fp8",
        "fp8_pc_pt",
        "int8_sq",
        "int4_awq",
        "w4a8_awq",
        "int8_wo",
        "int4_wo",
        "full_prec",
    ),
    "kv_cache_dtype": _str("Precision of the KV cache, together with O(options.qformat).", "int8", "fp8"),
    "awq_block_size": _int("Block size of AWQ, in weights."),
    "autoq_format": _str("Formats among which automatic quantisation chooses, separated by commas."),
    "auto_quantize_bits": _float(
        "Average size of a weight that automatic quantisation aims at, in bits, from 4 to 16. Takes effect "
        "with O(options.autoq_format)."
    ),
    "quantize_lm_head": _bool("Quantise the output layer as well."),
    "calib_dataset": _str(
        "Calibration data: a directory of the host, or a data set's name, which the tool then downloads."
    ),
    "calib_size": _int("Samples to calibrate with, in samples."),
    "calib_batch_size": _int("Samples that are calibrated at a time, in samples."),
    "calib_max_seq_length": _int("Length to which samples are cut, in tokens."),
    "random_seed": _int("Seed of the choice of samples."),
}

LIMITS: dict[str, Option] = {
    "max_batch_size": _int("Requests that run at a time, in sequences."),
    "max_input_len": _int("Longest prompt, in tokens."),
    "max_seq_len": _int(
        "Longest prompt and output together, in tokens, so at least O(options.max_input_len). Up to 0.10.0 it "
        "is passed on as the output's length. Mutually exclusive with O(options.max_output_len)."
    ),
    "max_output_len": _int("Longest output, in tokens. From 0.11.0 on it is passed on as the total length."),
    "max_beam_width": _int("Widest beam of beam search, in beams."),
    "max_num_tokens": {**_int("Tokens of all requests that are processed in one step, in tokens."), "no_log": False},
    "opt_num_tokens": {
        **_int("Number of tokens that kernels are tuned for, in tokens. Not with O(options.multiple_profiles)."),
        "no_log": False,
    },
    "max_encoder_input_len": _int("Longest encoder input of an encoder-decoder model, in tokens."),
    "max_prompt_embedding_table_size": _int("Size of the prompt-tuning or multimodal table, in embeddings."),
    "tokens_per_block": {**_int("Size of a block of the paged KV cache, in tokens."), "no_log": False},
}

BUILD: dict[str, Option] = {
    "kv_cache_type": _str(
        "Layout of the KV cache. Up to 0.12.0 it is passed on as C(paged_kv_cache).", "continuous", "paged", "disabled"
    ),
    "paged_kv_cache": _bool(
        "Older name: true is V(paged), false V(continuous). Mutually exclusive with O(options.kv_cache_type)."
    ),
    "remove_input_padding": _bool("Pack prompts without padding; in-flight batching needs it."),
    "use_inflight_batching": _bool("Make an engine for in-flight batching: turns on what that needs."),
    "gather_context_logits": _bool("Keep the logits of the prompt. From 0.10.0 on not with O(options.max_draft_len)."),
    "gather_generation_logits": _bool("Keep the logits of the output."),
    "gather_all_token_logits": _bool("Keep both."),
    "multiple_profiles": _bool("Tune for several ranges of batch size; better kernels, longer build."),
    "builder_force_num_profiles": _int("Number of such ranges, in profiles."),
    "builder_opt": _int("TensorRT's optimisation level, from 0 to 5."),
    "strongly_typed": _bool("Keep TensorRT from choosing other precisions."),
    "fast_build": _bool("Build faster, at some loss of speed in serving."),
    "strip_plan": _bool("Leave the weights out of the engine file."),
    "weight_sparsity": _bool("Use sparse weights."),
    "weight_streaming": _bool("Allow weights to stay in host memory and to be streamed."),
    "profiling_verbosity": _str(
        "What an engine says of its layers when it is profiled.", "layer_names_only", "detailed", "none"
    ),
    "enable_debug_output": _bool("Mark inner tensors as outputs."),
    "input_timing_cache": _path(
        "File with kernel timings of an earlier build of the same TensorRT and GPU. Does not change the fingerprint."
    ),
    "monitor_memory": _bool("Write memory use into the log. Does not change the engine."),
    "log_level": _str(
        "How much the tools write into the log. Does not change the engine. V(debug) is known from 0.11.0 on, "
        "V(trace) from 1.0.0 on.",
        "internal_error",
        "error",
        "warning",
        "info",
        "verbose",
        "debug",
        "trace",
    ),
    "speculative_decoding_mode": _str(
        "Kind of speculative decoding.",
        "draft_tokens_external",
        "lookahead_decoding",
        "medusa",
        "explicit_draft_tokens",
        "eagle",
    ),
    "max_draft_len": _int("Longest draft of speculative decoding, in tokens."),
}

LORA: dict[str, Option] = {
    "lora_plugin": _str("Precision of the LoRA plugin; turns LoRA on.", *PLUGIN_DTYPES),
    "lora_dir": {
        "description": (
            "Directories of LoRA weights; the first one sets the configuration. Their content counts, not their "
            "paths. They and the following three take effect with O(options.lora_plugin)."
        ),
        "type": "list",
        "elements": "path",
    },
    "lora_ckpt_source": _str("Format of the LoRA weights.", "hf", "nemo"),
    "lora_target_modules": _list("Modules that LoRA adapts.", *LORA_MODULES),
    "max_lora_rank": _int("Highest rank of an adapter."),
    "dora_plugin": _bool("Use DoRA."),
}

PLUGINS: dict[str, Option] = {
    "gpt_attention_plugin": _str("Precision of the attention plugin.", *PLUGIN_DTYPES),
    "bert_attention_plugin": _str("Precision of the attention plugin of encoders.", *PLUGIN_DTYPES),
    "gemm_plugin": _str(
        "Precision of the matrix multiplication plugin.",
        "auto",
        "float16",
        "bfloat16",
        "float32",
        "int32",
        "fp8",
        "nvfp4",
        "disable",
    ),
    "gemm_swiglu_plugin": _str("Precision of the fused matrix multiplication and SwiGLU.", "fp8", "disable"),
    "fp8_rowwise_gemm_plugin": _str("Precision of the row-wise FP8 matrix multiplication plugin.", *PLUGIN_DTYPES),
    "low_latency_gemm_plugin": _str(
        "Precision of the matrix multiplication plugin for small batches.", "fp8", "disable"
    ),
    "low_latency_gemm_swiglu_plugin": _str("Precision of the fused one for small batches.", "fp8", "disable"),
    "gemm_allreduce_plugin": _str(
        "Precision of the fused matrix multiplication and all-reduce.", "float16", "bfloat16", "disable"
    ),
    "lookup_plugin": _str("Precision of the embedding lookup plugin.", *PLUGIN_DTYPES),
    "nccl_plugin": _str("Precision of the communication plugin.", *PLUGIN_DTYPES),
    "moe_plugin": _str("Precision of the mixture-of-experts plugin.", *PLUGIN_DTYPES),
    "mamba_conv1d_plugin": _str("Precision of Mamba's convolution plugin.", *PLUGIN_DTYPES),
    "context_fmha": _bool("Use fused attention for prompts."),
    "context_fmha_fp32_acc": _bool("Let it accumulate in FP32."),
    "bert_context_fmha_fp32_acc": _bool("Let the encoders' fused attention accumulate in FP32."),
    "use_paged_context_fmha": _bool(
        "Let fused attention read the paged KV cache; reuse of the KV cache and chunked prompts need it."
    ),
    "use_fp8_context_fmha": _bool("Use FP8 in fused attention."),
    "use_context_fmha_for_generation": _bool("Use the prompts' fused attention for generation too."),
    "attention_qk_half_accumulation": _bool("Let attention accumulate in half precision."),
    "enable_xqa": _bool("Use the XQA kernels for generation."),
    "multi_block_mode": _bool("Split long sequences over several blocks of the GPU."),
    "use_custom_all_reduce": _bool("Use the own all-reduce instead of NCCL's; some PCIe machines need it off."),
    "use_fused_mlp": _bool("Fuse the two projections of a gated MLP."),
    "paged_state": _bool("Keep the state of recurrent models in pages."),
    "streamingllm": _bool("Keep attention sinks for endless generation, of Llama models and up to 0.16.0 only."),
    "reduce_fusion": _bool("Fuse all-reduce with what follows it."),
    "norm_quant_fusion": _bool("Fuse normalisation with quantisation."),
    "fuse_fp4_quant": _bool("Fuse FP4 quantisation into attention."),
    "user_buffer": _bool("Register communication buffers with NCCL."),
    "pp_reduce_scatter": _bool("Use reduce-scatter between pipeline ranks of a Mixtral model."),
}

MODEL: dict[str, Option] = {
    "model_family": _str(
        "Family whose tools convert the checkpoint. Read from C(config.json) where not given.",
        "llama",
        "mistral",
        "mixtral",
        "qwen",
        "qwen2",
        "baichuan",
        "gpt2",
        "phi",
        "phi3",
        "gemma",
        "falcon",
    ),
    "model_version": _str(
        "Generation and size of a Baichuan model. Read from C(config.json) where not given.",
        "v1_7b",
        "v1_13b",
        "v2_7b",
        "v2_13b",
    ),
}

# What `make docs` documents, with the releases that know each option and the tools' defaults from their tables.
ENGINE_OPTIONS: dict[str, Option] = {
    **MODEL, **PARALLELISM, **CONVERSION, **QUANTIZATION, **LIMITS, **BUILD, **LORA, **PLUGINS,
}  # fmt: skip


def argument_spec(options: Mapping[str, Option]) -> dict[str, Option]:
    """*options* as Ansible validates them, which has no place for a description."""
    return {
        name: {key: value for key, value in option.items() if key != "description"} for name, option in options.items()
    }


# They change how long making an engine takes and what is printed, not the engine: no reason to make it again.
WITHOUT_EFFECT_ON_ENGINE = frozenset(
    {"workers", "log_level", "monitor_memory", "load_by_shard", "load_model_on_cpu", "input_timing_cache"}
)

# What multiplies up to the number of ranks, and so of GPUs, of one engine.
RANKS = ("tp_size", "pp_size", "cp_size")


def world_size(options: Mapping[str, Any]) -> int:
    """Ranks of the engine: ``tp_size * pp_size * cp_size``, each 1 where not given."""
    return math.prod(int(options.get(name) or 1) for name in RANKS)
