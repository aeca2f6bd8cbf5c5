# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys that describe a model to the LLM API, as data: a key that is not here ends the server, as it does upstream.

Those of `LATER` came after the last release with engines.
"""

from __future__ import annotations

# Keys by the mapping that they stand in, the description itself first.
COMMON = {
    "": """
        allreduce_strategy attention_dp_config attn_backend backend batched_logits_processor cache_transceiver_config
        checkpoint_format checkpoint_loader context_parallel_size cp_config cuda_graph_config decoding_config
        disable_overlap_scheduler dtype enable_attention_dp enable_autotuner enable_chunked_prefill
        enable_iter_perf_stats enable_iter_req_stats enable_layerwise_nvtx_marker enable_lora enable_min_latency
        fail_fast_on_attention_window_too_large force_dynamic_quantization garbage_collection_gen0_threshold
        gather_generation_logits gpus_per_node guided_decoding_backend iter_stats_max_iterations kv_cache_config
        load_format lora_config max_batch_size max_beam_width max_input_len max_num_tokens max_seq_len model
        moe_cluster_parallel_size moe_config moe_expert_parallel_size moe_tensor_parallel_size mpi_session
        num_postprocess_workers peft_cache_config pipeline_parallel_size postprocess_tokenizer_dir print_iter_log
        reasoning_parser request_stats_max_iterations revision scheduler_config skip_tokenizer_init speculative_config
        stream_interval tensor_parallel_size tokenizer tokenizer_mode tokenizer_revision torch_compile_config
        trust_remote_code
    """,
    "kv_cache_config": """
        copy_on_partial_reuse cross_kv_cache_fraction dtype enable_block_reuse enable_partial_reuse
        event_buffer_max_size free_gpu_memory_fraction host_cache_size max_attention_window max_tokens onboard_blocks
        secondary_offload_min_priority sink_token_length use_uvm
    """,
    "scheduler_config": """
        capacity_scheduler_policy context_chunking_policy dynamic_batch_config
    """,
    "cuda_graph_config": """
        batch_sizes enable_padding max_batch_size
    """,
}
LATER = {
    "": """
        batch_wait_max_tokens_ratio batch_wait_timeout_iters batch_wait_timeout_ms custom_tokenizer
        disable_flashinfer_sampling enable_lm_head_tp_in_adp enable_sleep env_overrides kv_connector_config
        layer_wise_benchmarks_config max_stats_len mm_encoder_only model_kwargs nvfp4_gemm_config orchestrator_type
        otlp_traces_endpoint perf_metrics_max_requests pp_partition ray_placement_config ray_worker_extension_cls
        return_perf_metrics sampler_force_async_worker sampler_type sparse_attention_config
    """,
    "kv_cache_config": """
        attention_dp_events_gather_period_ms mamba_ssm_cache_dtype max_gpu_total_bytes max_util_for_resume
        tokens_per_block use_kv_cache_manager_v2
    """,
}


def keys_of(version: str) -> dict[str, frozenset[str]]:
    """By mapping the keys that *version* takes."""
    later = LATER if tuple(int(part) for part in version.split(".")[:2]) >= (1, 3) else {}
    return {name: frozenset(f"{text} {later.get(name, '')}".split()) for name, text in COMMON.items()}


# What asks for a computation that this image cannot do, and what that is.
REFUSED_KEYS = {
    "speculative_config": "speculative decoding", "lora_config": "LoRA", "enable_lora": "LoRA",
    "sparse_attention_config": "sparse attention", "enable_attention_dp": "attention by data parallelism",
}  # fmt: skip
