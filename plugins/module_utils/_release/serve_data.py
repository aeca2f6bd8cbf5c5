# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``trtllm-serve`` of each release takes, on its command line and in the file of the LLM API, as data.

``releases | names``: ``1.0.0-1.3.0`` inclusive, ``1.0.0-`` to the last release with engines.

Read from the sources of 1.0.0 and 1.3.0rc3, and options of the command line from upstream's own list of later on.
Between the two a name stands only where both have it. What 1.3.0 knows is what its candidate has, and of options what
the later list has too. An unknown key of the file ends the server, so that a name that is not here is refused.
"""

from __future__ import annotations

# Options of `trtllm-serve serve`; those with = are bare.
FLAGS = """
1.0.0-1.3.0 | backend cluster_size ep_size extra_llm_api_options gpus_per_node host kv_cache_free_gpu_memory_fraction
1.0.0-1.3.0 | log_level max_batch_size max_beam_width max_num_tokens max_seq_len metadata_server_config_file
1.0.0-1.3.0 | num_postprocess_workers port pp_size reasoning_parser server_role tokenizer tp_size
1.0.0-1.3.0 | fail_fast_on_attention_window_too_large= trust_remote_code=
1.3.0       | chat_template config context_parallel_size cp_size custom_module_dirs custom_tokenizer disagg_cluster_uri
1.3.0       | free_gpu_memory_fraction media_io_kwargs moe_cluster_parallel_size moe_expert_parallel_size
1.3.0       | otlp_traces_endpoint pipeline_parallel_size revision tensor_parallel_size tool_parser
1.3.0       | enable_chunked_prefill= grpc=
"""

# Options of `trtllm-serve disaggregated`, which stands before servers of two kinds.
DISAGGREGATED = """
1.0.0-1.3.0 | config_file log_level metadata_server_config_file request_timeout server_start_timeout
1.3.0       | metrics-log-interval
"""

# Keys of the file by the mapping that they stand in, the file itself first.
KEYS: dict[str, str] = {
    "": """
1.0.0-1.3.0 | allreduce_strategy attention_dp_config attn_backend backend batched_logits_processor
1.0.0-1.3.0 | cache_transceiver_config checkpoint_format checkpoint_loader context_parallel_size cp_config
1.0.0-1.3.0 | cuda_graph_config decoding_config disable_overlap_scheduler dtype enable_attention_dp enable_autotuner
1.0.0-1.3.0 | enable_chunked_prefill enable_iter_perf_stats enable_iter_req_stats enable_layerwise_nvtx_marker
1.0.0-1.3.0 | enable_lora enable_min_latency fail_fast_on_attention_window_too_large force_dynamic_quantization
1.0.0-1.3.0 | garbage_collection_gen0_threshold gather_generation_logits gpus_per_node guided_decoding_backend
1.0.0-1.3.0 | iter_stats_max_iterations kv_cache_config load_format lora_config max_batch_size max_beam_width
1.0.0-1.3.0 | max_input_len max_num_tokens max_seq_len model moe_cluster_parallel_size moe_config
1.0.0-1.3.0 | moe_expert_parallel_size moe_tensor_parallel_size mpi_session num_postprocess_workers peft_cache_config
1.0.0-1.3.0 | pipeline_parallel_size postprocess_tokenizer_dir print_iter_log reasoning_parser
1.0.0-1.3.0 | request_stats_max_iterations revision scheduler_config skip_tokenizer_init speculative_config
1.0.0-1.3.0 | stream_interval tensor_parallel_size tokenizer tokenizer_mode tokenizer_revision torch_compile_config
1.0.0-1.3.0 | trust_remote_code
1.0.0       | build_config enable_mixed_sampler enable_trtllm_sampler
1.3.0       | batch_wait_max_tokens_ratio batch_wait_timeout_iters batch_wait_timeout_ms custom_tokenizer
1.3.0       | disable_flashinfer_sampling enable_lm_head_tp_in_adp enable_sleep env_overrides kv_connector_config
1.3.0       | layer_wise_benchmarks_config max_stats_len mm_encoder_only model_kwargs nvfp4_gemm_config
1.3.0       | orchestrator_type otlp_traces_endpoint perf_metrics_max_requests pp_partition ray_placement_config
1.3.0       | ray_worker_extension_cls return_perf_metrics sampler_force_async_worker sampler_type
1.3.0       | sparse_attention_config
""",
    "kv_cache_config": """
1.0.0-1.3.0 | copy_on_partial_reuse cross_kv_cache_fraction dtype enable_block_reuse enable_partial_reuse
1.0.0-1.3.0 | event_buffer_max_size free_gpu_memory_fraction host_cache_size max_attention_window max_tokens
1.0.0-1.3.0 | onboard_blocks secondary_offload_min_priority sink_token_length use_uvm
1.3.0       | attention_dp_events_gather_period_ms mamba_ssm_cache_dtype max_gpu_total_bytes max_util_for_resume
1.3.0       | tokens_per_block use_kv_cache_manager_v2
""",
    "scheduler_config": """
1.0.0-1.3.0 | capacity_scheduler_policy context_chunking_policy dynamic_batch_config
""",
    "scheduler_config.dynamic_batch_config": """
1.0.0-1.3.0 | dynamic_batch_moving_average_window enable_batch_size_tuning enable_max_num_tokens_tuning
""",
    "cuda_graph_config": """
1.0.0-1.3.0 | batch_sizes enable_padding max_batch_size
""",
    "moe_config": """
1.0.0-1.3.0 | backend load_balancer max_num_tokens
1.3.0       | disable_finalize_fusion use_low_precision_moe_combine
""",
    "attention_dp_config": """
1.0.0-1.3.0 | batching_wait_iters enable_balance timeout_iters
""",
    "torch_compile_config": """
1.0.0-1.3.0 | enable_fullgraph enable_inductor enable_piecewise_cuda_graph enable_userbuffers max_num_streams
1.3.0       | capture_num_tokens
""",
    "peft_cache_config": """
1.0.0-1.3.0 | device_cache_percent host_cache_size lora_prefetch_dir max_adapter_size max_pages_per_block_device
1.0.0-1.3.0 | max_pages_per_block_host num_copy_streams num_device_module_layer num_ensure_workers
1.0.0-1.3.0 | num_host_module_layer num_put_workers optimal_adapter_size
""",
    "cache_transceiver_config": """
1.0.0-1.3.0 | backend max_tokens_in_buffer
1.3.0       | kv_transfer_sender_future_timeout_ms kv_transfer_timeout_ms
""",
}

# releases | variable of the environment | where in the directory for what a start compiles and tunes it points; @gpus@
# becomes a number for the kind of GPU. All but the last two are of libraries that every image has; TensorRT-LLM's own
# autotuner keeps what it measured since some release after 1.0. Who does not know a variable does as before.
CACHES = """
1.0.0-1.3.0 | CUDA_CACHE_PATH           | cuda
1.0.0-1.3.0 | FLASHINFER_WORKSPACE_BASE | flashinfer
1.0.0-1.3.0 | TORCHINDUCTOR_CACHE_DIR   | inductor
1.0.0-1.3.0 | TRITON_CACHE_DIR          | triton
1.0.0-1.3.0 | TRTLLM_DG_CACHE_DIR       | deep_gemm
1.3.0       | TLLM_AUTOTUNER_CACHE_PATH | autotuner-@gpus@.json
"""

# option of an engine | key of the file | values that it takes, with what they become; any where none stand
ENGINE_WAYS = """
tp_size                  | tensor_parallel_size            |
pp_size                  | pipeline_parallel_size          |
cp_size                  | context_parallel_size           |
moe_tp_size              | moe_tensor_parallel_size        | -1=
moe_ep_size              | moe_expert_parallel_size        | -1=
dtype                    | dtype                           | auto=auto float16=float16 bfloat16=bfloat16
max_batch_size           | max_batch_size                  |
max_input_len            | max_input_len                   |
max_seq_len              | max_seq_len                     |
max_beam_width           | max_beam_width                  |
max_num_tokens           | max_num_tokens                  |
tokens_per_block         | kv_cache_config.tokens_per_block |
fp8_kv_cache             | kv_cache_config.dtype           | true=fp8 false=
kv_cache_dtype           | kv_cache_config.dtype           | fp8=fp8
use_paged_context_fmha   | enable_chunked_prefill          |
gather_generation_logits | gather_generation_logits        |
kv_cache_type            |                                 | paged=
paged_kv_cache           |                                 | true=
"""

# The same for parameters of the model tensorrt_llm in a model repository.
PARAMETER_WAYS = """
kv_cache_free_gpu_mem_fraction | kv_cache_config.free_gpu_memory_fraction |
max_tokens_in_paged_kv_cache   | kv_cache_config.max_tokens               |
enable_kv_cache_reuse          | kv_cache_config.enable_block_reuse       |
max_attention_window_size      | kv_cache_config.max_attention_window     |
sink_token_length              | kv_cache_config.sink_token_length        |
kv_cache_host_memory_bytes     | kv_cache_config.host_cache_size          |
enable_chunked_context         | enable_chunked_prefill                   |
guided_decoding_backend        | guided_decoding_backend                  | xgrammar=xgrammar
batch_scheduler_policy         | scheduler_config.capacity_scheduler_policy | \
max_utilization=MAX_UTILIZATION guaranteed_no_evict=GUARANTEED_NO_EVICT
"""

# What else an option of an engine asks for | how it is said here
INSTEAD = """
max_output_len            | give max_seq_len, which counts prompt and output together
speculative_decoding_mode | describe it in llm_args.speculative_config
max_draft_len             | describe it in llm_args.speculative_config
lora_plugin               | describe it in llm_args.enable_lora and llm_args.lora_config
lora_dir                  | describe it in llm_args.enable_lora and llm_args.lora_config
lora_ckpt_source          | describe it in llm_args.enable_lora and llm_args.lora_config
lora_target_modules       | describe it in llm_args.enable_lora and llm_args.lora_config
max_lora_rank             | describe it in llm_args.enable_lora and llm_args.lora_config
log_level                 | give --log_level in triton_extra_args
"""
