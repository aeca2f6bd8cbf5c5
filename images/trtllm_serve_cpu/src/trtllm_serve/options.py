# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of ``trtllm-serve serve`` and the keys of the LLM API's file, as TensorRT-LLM 1.3.0rc3 has them, as data.

An option or a key that is not here ends the server, as it does upstream.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

LOG_LEVELS = ("internal_error", "error", "warning", "info", "verbose", "debug", "trace")


@dataclass(frozen=True)
class Option:
    """One option. *kind* is str, int, float, or bool for a bare one; *key*: the key of the file that says the same."""

    names: tuple[str, ...]
    kind: type
    default: Any = None
    choices: tuple[str, ...] | None = None
    key: str | None = None


OPTIONS = (
    Option(("--tokenizer",), str),
    Option(("--custom_tokenizer",), str),
    Option(("--host",), str, "localhost"),
    Option(("--port",), int, 8000),
    Option(("--backend",), str, "pytorch", ("pytorch", "tensorrt", "trt", "_autodeploy")),
    Option(("--custom_module_dirs",), str),
    Option(("--log_level",), str, "info", LOG_LEVELS),
    Option(("--max_beam_width",), int, 1, key="max_beam_width"),
    Option(("--max_batch_size",), int, 2048, key="max_batch_size"),
    Option(("--max_num_tokens",), int, 8192, key="max_num_tokens"),
    Option(("--max_seq_len",), int, key="max_seq_len"),
    Option(("--tensor_parallel_size", "--tp_size"), int, 1, key="tensor_parallel_size"),
    Option(("--pipeline_parallel_size", "--pp_size"), int, 1, key="pipeline_parallel_size"),
    Option(("--context_parallel_size", "--cp_size"), int, 1, key="context_parallel_size"),
    Option(("--moe_expert_parallel_size", "--ep_size"), int, key="moe_expert_parallel_size"),
    Option(("--moe_cluster_parallel_size", "--cluster_size"), int, key="moe_cluster_parallel_size"),
    Option(("--gpus_per_node",), int, key="gpus_per_node"),
    Option(
        ("--free_gpu_memory_fraction", "--kv_cache_free_gpu_memory_fraction"), float, 0.9,
        key="kv_cache_config.free_gpu_memory_fraction",
    ),
    Option(("--num_postprocess_workers",), int, 0, key="num_postprocess_workers"),
    Option(("--trust_remote_code",), bool, False, key="trust_remote_code"),
    Option(("--revision",), str, key="revision"),
    Option(("--config", "--extra_llm_api_options"), str),
    Option(("--reasoning_parser",), str, None, ("deepseek-r1", "qwen3", "nano-v3"), key="reasoning_parser"),
    Option(
        ("--tool_parser",), str, None,
        ("qwen3", "qwen3_coder", "kimi_k2", "deepseek_v3", "deepseek_v31", "deepseek_v32"),
    ),
    Option(("--metadata_server_config_file",), str),
    Option(("--server_role",), str),
    Option(("--fail_fast_on_attention_window_too_large",), bool, False, key="fail_fast_on_attention_window_too_large"),
    Option(("--otlp_traces_endpoint",), str, key="otlp_traces_endpoint"),
    Option(("--disagg_cluster_uri",), str),
    Option(("--enable_chunked_prefill",), bool, False, key="enable_chunked_prefill"),
    Option(("--media_io_kwargs",), str),
    Option(("--chat_template",), str),
    Option(("--grpc",), bool, False),
)  # fmt: skip

# Keys of the file by the mapping that they stand in, the file itself first.
KEYS = {
    "": """
        allreduce_strategy attention_dp_config attn_backend backend batch_wait_max_tokens_ratio batch_wait_timeout_iters
        batch_wait_timeout_ms batched_logits_processor cache_transceiver_config checkpoint_format checkpoint_loader
        context_parallel_size cp_config cuda_graph_config custom_tokenizer decoding_config disable_flashinfer_sampling
        disable_overlap_scheduler dtype enable_attention_dp enable_autotuner enable_chunked_prefill
        enable_iter_perf_stats enable_iter_req_stats enable_layerwise_nvtx_marker enable_lm_head_tp_in_adp enable_lora
        enable_min_latency enable_sleep env_overrides fail_fast_on_attention_window_too_large force_dynamic_quantization
        garbage_collection_gen0_threshold gather_generation_logits gpus_per_node guided_decoding_backend
        iter_stats_max_iterations kv_cache_config kv_connector_config layer_wise_benchmarks_config load_format
        lora_config max_batch_size max_beam_width max_input_len max_num_tokens max_seq_len max_stats_len mm_encoder_only
        model model_kwargs moe_cluster_parallel_size moe_config moe_expert_parallel_size moe_tensor_parallel_size
        mpi_session num_postprocess_workers nvfp4_gemm_config orchestrator_type otlp_traces_endpoint peft_cache_config
        perf_metrics_max_requests pipeline_parallel_size postprocess_tokenizer_dir pp_partition print_iter_log
        ray_placement_config ray_worker_extension_cls reasoning_parser request_stats_max_iterations return_perf_metrics
        revision sampler_force_async_worker sampler_type scheduler_config skip_tokenizer_init sparse_attention_config
        speculative_config stream_interval tensor_parallel_size tokenizer tokenizer_mode tokenizer_revision
        torch_compile_config trust_remote_code
    """,
    "kv_cache_config": """
        attention_dp_events_gather_period_ms copy_on_partial_reuse cross_kv_cache_fraction dtype enable_block_reuse
        enable_partial_reuse event_buffer_max_size free_gpu_memory_fraction host_cache_size mamba_ssm_cache_dtype
        max_attention_window max_gpu_total_bytes max_tokens max_util_for_resume onboard_blocks
        secondary_offload_min_priority sink_token_length tokens_per_block use_kv_cache_manager_v2 use_uvm
    """,
    "scheduler_config": "capacity_scheduler_policy context_chunking_policy dynamic_batch_config",
    "cuda_graph_config": "batch_sizes enable_padding max_batch_size",
}
# What asks for a computation that this image cannot do, and what that is.
REFUSED_KEYS = {
    "speculative_config": "speculative decoding", "lora_config": "LoRA", "enable_lora": "LoRA",
    "sparse_attention_config": "sparse attention", "cache_transceiver_config": "disaggregated serving",
    "enable_attention_dp": "attention by data parallelism",
}  # fmt: skip
REFUSED_OPTIONS = {
    "grpc": "gRPC", "server_role": "disaggregated serving", "disagg_cluster_uri": "disaggregated serving",
    "metadata_server_config_file": "disaggregated serving", "custom_tokenizer": "another tokenizer",
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """An argparse parser of `serve`."""
    result = argparse.ArgumentParser(
        prog="trtllm-serve serve", formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    result.add_argument("model", help="name | path of the model, or of its checkpoint")
    for option in OPTIONS:
        if option.kind is bool:
            result.add_argument(*option.names, action="store_true")
        else:
            result.add_argument(*option.names, type=option.kind, default=option.default, choices=option.choices)
    return result
