# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be said about an engine: the documentation that modules and guides share."""

from __future__ import annotations


class ModuleDocFragment:
    """The option C(options) of M(trtllm.fleet.trtllm_engine)."""

    DOCUMENTATION = r"""
options:
  options:
    description:
      - How the engine is to be. The names are the newest that upstream has; the release decides how they are passed on.
      - An option that is not given is not passed on, so the default of the release's own tool holds.
      - >-
        An option that the release does not know is an error that names the releases that know it. Between 0.16.0 and
        1.0.0, whose own lists are not established, only what both know is accepted.
      - >-
        Numbers out of all proportion, options that contradict each other, and what the tools of the release take but
        cannot build from are refused before anything is changed; what needs neither release nor checkpoint to be seen,
        by the plan on the controller.
    type: dict
    default: {}
    suboptions:
      model_family:
        description: Family whose tools convert the checkpoint. Read from C(config.json) where not given.
        type: str
        choices: [llama, mistral, mixtral, qwen, qwen2, baichuan, gpt2, phi, phi3, gemma, falcon]
      model_version:
        description: >-
          Generation and size of a Baichuan model. Read from C(config.json) where not given. Known to 0.7.1 to
          1.2.1.
        type: str
        choices: [v1_7b, v1_13b, v2_7b, v2_13b]
      tp_size:
        description: >-
          Ranks of tensor parallelism, one GPU each. Must divide the model's attention heads. Known to 0.7.1 to
          1.2.1.
        type: int
        default: 1
      pp_size:
        description: >-
          Ranks of pipeline parallelism, one GPU each. Must divide the model's layers; from 1.0.0 on it need not. Known
          to 0.7.1 to 1.2.1.
        type: int
        default: 1
      cp_size:
        description: Ranks of context parallelism, one GPU each. Known to 0.16.0 to 1.2.1.
        type: int
        default: 1
      moe_tp_size:
        description: >-
          Ranks over which each expert is split. O(options.moe_tp_size) times O(options.moe_ep_size) is
          O(options.tp_size). Known to 0.11.0 to 1.2.1. The tool's default is V(-1).
        type: int
      moe_ep_size:
        description: Ranks over which the experts are spread. Known to 0.11.0 to 1.2.1. The tool's default is V(-1).
        type: int
      workers:
        description: >-
          Ranks that are converted and built at the same time, in processes. Each takes host memory for a whole
          checkpoint. Does not change the engine. Known to 0.7.1 to 1.2.1. The tool's default is V(1).
        type: int
      dtype:
        description: >-
          Precision of weights and activations. V(auto) is the checkpoint's own, V(float16) for a checkpoint in
          V(float32). Known to 0.7.1 to 1.2.1. The tool's default is V(float16) (0.8.0 to 0.14.0), V(auto) (0.15.0
          to 1.2.1).
        type: str
        choices: [auto, float16, bfloat16, float32]
      logits_dtype:
        description: Precision of the logits. Known to 0.7.1 to 1.2.1.
        type: str
        choices: [float16, float32]
      load_by_shard:
        description: >-
          Load the checkpoint one shard at a time, which takes less host memory. Does not change the engine. Known
          to 0.7.1 to 1.2.1. The tool's default is V(false).
        type: bool
      load_model_on_cpu:
        description: >-
          Load the checkpoint into host memory instead of onto the GPUs. Does not change the engine. Known to 0.7.1
          to 1.2.1. The tool's default is V(false).
        type: bool
      use_parallel_embedding:
        description: >-
          Split the embedding table over the ranks. Known to 0.7.1 to 1.2.1. The tool's default is V(false).
        type: bool
      embedding_sharding_dim:
        description: >-
          Dimension along which it is split: V(0) the vocabulary, V(1) the hidden size, which takes effect with
          O(options.use_parallel_embedding=true). Known to 0.7.1 to 1.2.1. The tool's default is V(0).
        type: int
        choices: [0, 1]
      use_embedding_sharing:
        description: >-
          Share one table between embedding and output layer. Known to 0.7.1 to 0.15.0. The tool's default is
          V(false).
        type: bool
      remove_duplicated_kv_heads:
        description: >-
          Undo the repetition of key/value heads that some checkpoints carry. Known to 0.12.0 to 1.2.1. The tool's
          default is V(false).
        type: bool
      use_weight_only:
        description: Quantise the weights alone. Known to 0.7.1 to 1.2.1. The tool's default is V(false).
        type: bool
      weight_only_precision:
        description: >-
          Format of weight-only quantisation. Takes effect with O(options.use_weight_only=true). Known to 0.7.1 to
          1.2.1. The tool's default is V(int8).
        type: str
        choices: [int8, int4, int8_gptq, int4_gptq, int4_awq, w4a8_awq, w4a16_awq]
      disable_weight_only_quant_plugin:
        description: >-
          Quantise weights without the plugin, with TensorRT's own layers. Takes effect with
          O(options.use_weight_only=true). Known to 0.7.1 to 1.2.1. The tool's default is V(false).
        type: bool
      quant_ckpt_path:
        description: >-
          File or directory of a checkpoint that was quantised elsewhere. Its content counts, not its path. Known to
          0.7.1 to 1.2.1.
        type: path
      smoothquant:
        description: SmoothQuant's alpha, from 0 to 1. Known to 0.7.1 to 1.2.1.
        type: float
      per_channel:
        description: >-
          One scaling factor for each channel instead of one for the tensor. Takes effect with O(options.smoothquant).
          Known to 0.7.1 to 1.2.1. The tool's default is V(false).
        type: bool
      per_token:
        description: >-
          One scaling factor for each token instead of one for the tensor. Takes effect with O(options.smoothquant).
          Known to 0.7.1 to 1.2.1. The tool's default is V(false).
        type: bool
      per_group:
        description: >-
          One scaling factor for each group of weights, as GPTQ and AWQ need. Known to 0.7.1 to 1.2.1. The tool's
          default is V(false).
        type: bool
      group_size:
        description: Size of such a group, in weights. Known to 0.7.1 to 1.2.1. The tool's default is V(128).
        type: int
      int8_kv_cache:
        description: Keep the KV cache in INT8. Known to 0.7.1 to 1.2.1. The tool's default is V(false).
        type: bool
      fp8_kv_cache:
        description: Keep the KV cache in FP8. Known to 0.7.1 to 1.2.1. The tool's default is V(false).
        type: bool
      use_fp8:
        description: Use FP8 for the linear layers. Known to 0.7.1 to 1.2.1. The tool's default is V(false).
        type: bool
      use_fp8_rowwise:
        description: >-
          Use FP8 with one scaling factor for each row. Known to 0.12.0 to 1.2.1. The tool's default is V(false).
        type: bool
      use_meta_fp8_rowwise_recipe:
        description: >-
          Leave the layers in higher precision that Meta's recipe leaves. Takes effect with
          O(options.use_fp8_rowwise=true). Known to 0.15.0 to 1.2.1. The tool's default is V(false).
        type: bool
      use_qserve:
        description: Use QServe's W4A8 format. Known to 0.15.0 to 1.2.1. The tool's default is V(false).
        type: bool
      use_nvfp4:
        description: Use NVFP4 for the linear layers. Known to 1.0.0 to 1.2.1. The tool's default is V(false).
        type: bool
      qformat:
        description: >-
          Quantise with C(quantize.py) to this format instead of converting. Needs a GPU and calibration data. Known
          to 0.8.0 to 1.2.1. The tool's default is V(full_prec).
        type: str
        choices: [nvfp4, fp8, fp8_pc_pt, int8_sq, int4_awq, w4a8_awq, int8_wo, int4_wo, full_prec]
      kv_cache_dtype:
        description: Precision of the KV cache, together with O(options.qformat). Known to 0.8.0 to 1.2.1.
        type: str
        choices: [int8, fp8]
      awq_block_size:
        description: Block size of AWQ, in weights. Known to 0.8.0 to 1.2.1. The tool's default is V(128).
        type: int
      autoq_format:
        description: >-
          Formats among which automatic quantisation chooses, separated by commas. Known to 0.14.0 to 1.2.1.
        type: str
      auto_quantize_bits:
        description: >-
          Average size of a weight that automatic quantisation aims at, in bits, from 4 to 16. Takes effect with
          O(options.autoq_format). Known to 0.15.0 to 1.2.1.
        type: float
      quantize_lm_head:
        description: >-
          Quantise the output layer as well. Known to 0.8.0 and 1.0.0 to 1.2.1. The tool's default is V(false).
        type: bool
      calib_dataset:
        description: >-
          Calibration data: a directory of the host, whose content counts and not its path, or a data set's name,
          which the tool then downloads. Known to 0.10.0 to 1.2.1. The tool's default is V(ccdv/cnn_dailymail).
        type: str
      calib_size:
        description: Samples to calibrate with, in samples. Known to 0.8.0 to 1.2.1. The tool's default is V(512).
        type: int
      calib_batch_size:
        description: >-
          Samples that are calibrated at a time, in samples. Known to 0.8.0 to 1.2.1. The tool's default is V(1).
        type: int
      calib_max_seq_length:
        description: >-
          Length to which samples are cut, in tokens. Known to 0.9.0 to 1.2.1. The tool's default is V(512).
        type: int
      random_seed:
        description: Seed of the choice of samples. Known to 0.9.0 to 1.2.1. The tool's default is V(1234).
        type: int
      max_batch_size:
        description: >-
          Requests that run at a time, in sequences. Known to 0.7.1 to 1.2.1. The tool's default is V(1) (0.8.0 to
          0.10.0), V(256) (0.11.0 to 0.13.0), V(2048) (0.14.0 to 1.2.1).
        type: int
      max_input_len:
        description: Longest prompt, in tokens. Known to 0.7.1 to 1.2.1. The tool's default is V(1024).
        type: int
      max_seq_len:
        description: >-
          Longest prompt and output together, in tokens, so at least O(options.max_input_len). Up to 0.10.0 it is
          passed on as the output's length. Mutually exclusive with O(options.max_output_len). Known to 0.7.1 to 1.2.1.
        type: int
      max_output_len:
        description: >-
          Longest output, in tokens. From 0.11.0 on it is passed on as the total length. Known to 0.7.1 to 1.2.1.
        type: int
      max_beam_width:
        description: Widest beam of beam search, in beams. Known to 0.7.1 to 1.2.1. The tool's default is V(1).
        type: int
      max_num_tokens:
        description: >-
          Tokens of all requests that are processed in one step, in tokens. Known to 0.7.1 to 1.2.1. The tool's
          default is V(8192) (0.11.0 to 1.2.1).
        type: int
      opt_num_tokens:
        description: >-
          Number of tokens that kernels are tuned for, in tokens. Not with O(options.multiple_profiles). Known to 0.9.0
          to 1.2.1.
        type: int
      max_encoder_input_len:
        description: >-
          Longest encoder input of an encoder-decoder model, in tokens. Known to 0.10.0 to 1.2.1. The tool's default
          is V(1024).
        type: int
      max_prompt_embedding_table_size:
        description: >-
          Size of the prompt-tuning or multimodal table, in embeddings. Known to 0.7.1 to 1.2.1. The tool's default
          is V(0).
        type: int
      tokens_per_block:
        description: >-
          Size of a block of the paged KV cache, in tokens. Known to 0.7.1 to 1.2.1. The tool's default is V(128)
          (0.8.0 to 0.9.0), V(64) (0.10.0 to 0.16.0), V(32) (1.0.0 to 1.2.1).
        type: int
      kv_cache_type:
        description: >-
          Layout of the KV cache. Up to 0.12.0 it is passed on as C(paged_kv_cache). Known to 0.7.1 to 1.2.1.
        type: str
        choices: [continuous, paged, disabled]
      paged_kv_cache:
        description: >-
          Older name: true is V(paged), false V(continuous). Mutually exclusive with O(options.kv_cache_type). Known
          to 0.7.1 to 1.2.1.
        type: bool
      remove_input_padding:
        description: >-
          Pack prompts without padding; in-flight batching needs it. Known to 0.7.1 to 1.2.1. The tool's default is
          V(true).
        type: bool
      use_inflight_batching:
        description: >-
          Make an engine for in-flight batching: turns on what that needs. Known to 0.7.1 to 0.8.0.
        type: bool
      gather_context_logits:
        description: >-
          Keep the logits of the prompt. From 0.10.0 on not with O(options.max_draft_len). Known to 0.8.0 to 1.2.1. The
          tool's default is V(false).
        type: bool
      gather_generation_logits:
        description: Keep the logits of the output. Known to 0.8.0 to 1.2.1. The tool's default is V(false).
        type: bool
      gather_all_token_logits:
        description: Keep both. Known to 0.7.1 to 1.2.1. The tool's default is V(false).
        type: bool
      multiple_profiles:
        description: >-
          Tune for several ranges of batch size; better kernels, longer build. Known to 0.9.0 to 1.2.1. The tool's
          default is V(false).
        type: bool
      builder_force_num_profiles:
        description: Number of such ranges, in profiles. Known to 0.12.0 to 0.14.0.
        type: int
      builder_opt:
        description: TensorRT's optimisation level, from 0 to 5. Known to 0.7.1 to 0.13.0.
        type: int
      strongly_typed:
        description: >-
          Keep TensorRT from choosing other precisions. Known to 0.7.1 to 0.10.0. The tool's default is V(false).
        type: bool
      fast_build:
        description: >-
          Build faster, at some loss of speed in serving. Known to 0.12.0 to 1.2.1. The tool's default is V(false).
        type: bool
      strip_plan:
        description: >-
          Leave the weights out of the engine file. Known to 0.10.0 to 1.2.1. The tool's default is V(false).
        type: bool
      weight_sparsity:
        description: Use sparse weights. Known to 0.9.0 to 1.2.1. The tool's default is V(false).
        type: bool
      weight_streaming:
        description: >-
          Allow weights to stay in host memory and to be streamed. Known to 0.10.0 to 1.2.1. The tool's default is
          V(false).
        type: bool
      profiling_verbosity:
        description: >-
          What an engine says of its layers when it is profiled. Known to 0.8.0 to 1.2.1. The tool's default is
          V(layer_names_only).
        type: str
        choices: [layer_names_only, detailed, none]
      enable_debug_output:
        description: Mark inner tensors as outputs. Known to 0.7.1 to 1.2.1. The tool's default is V(false).
        type: bool
      input_timing_cache:
        description: >-
          File with kernel timings of an earlier build of the same TensorRT and GPU. Does not change the
          fingerprint. Known to 0.9.0 to 1.2.1.
        type: path
      monitor_memory:
        description: >-
          Write memory use into the log. Does not change the engine. Known to 0.15.0 to 1.2.1. The tool's default is
          V(false).
        type: bool
      log_level:
        description: >-
          How much the tools write into the log. Does not change the engine. V(debug) is known from 0.11.0 on, V(trace)
          from 1.0.0 on. Known to 0.7.1 to 1.2.1. The tool's default is V(info).
        type: str
        choices: [internal_error, error, warning, info, verbose, debug, trace]
      speculative_decoding_mode:
        description: Kind of speculative decoding. Known to 0.10.0 to 1.2.1.
        type: str
        choices: [draft_tokens_external, lookahead_decoding, medusa, explicit_draft_tokens, eagle]
      max_draft_len:
        description: >-
          Longest draft of speculative decoding, in tokens. Known to 0.7.1 to 1.2.1. The tool's default is V(0).
        type: int
      lora_plugin:
        description: >-
          Precision of the LoRA plugin; turns LoRA on. Known to 0.7.1 to 1.2.1. The tool's default is V(disable)
          (0.11.0 to 1.2.1).
        type: str
        choices: [auto, float16, bfloat16, float32, int32, disable]
      lora_dir:
        description: >-
          Directories of LoRA weights; the first one sets the configuration. Their content counts, not their paths.
          They and the following three take effect with O(options.lora_plugin). Known to 0.7.1 to 1.2.1.
        type: list
        elements: path
      lora_ckpt_source:
        description: Format of the LoRA weights. Known to 0.9.0 to 1.2.1. The tool's default is V(hf).
        type: str
        choices: [hf, nemo]
      lora_target_modules:
        description: Modules that LoRA adapts. Known to 0.7.1 to 1.2.1.
        type: list
        elements: str
        choices:
          [attn_qkv, attn_q, attn_k, attn_v, attn_dense, mlp_h_to_4h, mlp_4h_to_h, mlp_gate, mlp_router,
          mlp_gate_up, cross_attn_qkv, cross_attn_q, cross_attn_k, cross_attn_v, cross_attn_dense, moe_h_to_4h,
          moe_4h_to_h, moe_gate, moe_router]
      max_lora_rank:
        description: Highest rank of an adapter. Known to 0.8.0 to 1.2.1. The tool's default is V(64).
        type: int
      dora_plugin:
        description: Use DoRA. Known to 1.0.0 to 1.2.1. The tool's default is V(false).
        type: bool
      gpt_attention_plugin:
        description: >-
          Precision of the attention plugin. Known to 0.7.1 to 1.2.1. The tool's default is V(float16) (0.8.0 to
          0.10.0), V(auto) (0.11.0 to 1.2.1).
        type: str
        choices: [auto, float16, bfloat16, float32, int32, disable]
      bert_attention_plugin:
        description: >-
          Precision of the attention plugin of encoders. Known to 0.8.0 to 1.2.1. The tool's default is V(float16)
          (0.8.0 to 0.10.0), V(auto) (0.11.0 to 1.2.1).
        type: str
        choices: [auto, float16, bfloat16, float32, int32, disable]
      gemm_plugin:
        description: >-
          Precision of the matrix multiplication plugin. Known to 0.7.1 to 1.2.1. The tool's default is V(disable)
          (0.11.0 to 0.16.0).
        type: str
        choices: [auto, float16, bfloat16, float32, int32, fp8, nvfp4, disable]
      gemm_swiglu_plugin:
        description: >-
          Precision of the fused matrix multiplication and SwiGLU. Known to 0.11.0 to 1.2.1. The tool's default is
          V(disable).
        type: str
        choices: [fp8, disable]
      fp8_rowwise_gemm_plugin:
        description: >-
          Precision of the row-wise FP8 matrix multiplication plugin. Known to 0.12.0 to 1.2.1. The tool's default
          is V(disable).
        type: str
        choices: [auto, float16, bfloat16, float32, int32, disable]
      low_latency_gemm_plugin:
        description: >-
          Precision of the matrix multiplication plugin for small batches. Known to 0.13.0 to 1.2.1. The tool's
          default is V(disable).
        type: str
        choices: [fp8, disable]
      low_latency_gemm_swiglu_plugin:
        description: >-
          Precision of the fused one for small batches. Known to 0.15.0 to 1.2.1. The tool's default is V(disable).
        type: str
        choices: [fp8, disable]
      gemm_allreduce_plugin:
        description: >-
          Precision of the fused matrix multiplication and all-reduce. Known to 1.0.0 to 1.2.1. The tool's default
          is V(disable).
        type: str
        choices: [float16, bfloat16, disable]
      lookup_plugin:
        description: >-
          Precision of the embedding lookup plugin. Known to 0.7.1 to 0.14.0. The tool's default is V(disable)
          (0.11.0 to 0.14.0).
        type: str
        choices: [auto, float16, bfloat16, float32, int32, disable]
      nccl_plugin:
        description: >-
          Precision of the communication plugin. Known to 0.10.0 to 1.2.1. The tool's default is V(float16)
          (0.10.0), V(auto) (0.11.0 to 1.2.1).
        type: str
        choices: [auto, float16, bfloat16, float32, int32, disable]
      moe_plugin:
        description: >-
          Precision of the mixture-of-experts plugin. Known to 0.9.0 to 1.2.1. The tool's default is V(float16)
          (0.9.0 to 0.10.0), V(auto) (0.11.0 to 1.2.1).
        type: str
        choices: [auto, float16, bfloat16, float32, int32, disable]
      mamba_conv1d_plugin:
        description: >-
          Precision of Mamba's convolution plugin. Known to 0.9.0 to 1.2.1. The tool's default is V(float16) (0.9.0
          to 0.10.0), V(auto) (0.11.0 to 1.2.1).
        type: str
        choices: [auto, float16, bfloat16, float32, int32, disable]
      context_fmha:
        description: Use fused attention for prompts. Known to 0.7.1 to 1.2.1. The tool's default is V(true).
        type: bool
      context_fmha_fp32_acc:
        description: Let it accumulate in FP32. Known to 0.7.1 to 0.11.0. The tool's default is V(false).
        type: bool
      bert_context_fmha_fp32_acc:
        description: >-
          Let the encoders' fused attention accumulate in FP32. Known to 0.12.0 to 1.2.1. The tool's default is
          V(false).
        type: bool
      use_paged_context_fmha:
        description: >-
          Let fused attention read the paged KV cache; reuse of the KV cache and chunked prompts need it. Known to
          0.7.1 to 1.2.1. The tool's default is V(false) (0.8.0 to 0.16.0), V(true) (1.0.0 to 1.2.1).
        type: bool
      use_fp8_context_fmha:
        description: >-
          Use FP8 in fused attention. Known to 0.9.0 to 1.2.1. The tool's default is V(false) (0.9.0 to 0.16.0),
          V(true) (1.0.0 to 1.2.1).
        type: bool
      use_context_fmha_for_generation:
        description: >-
          Use the prompts' fused attention for generation too. Known to 0.7.1 to 0.10.0. The tool's default is
          V(false).
        type: bool
      attention_qk_half_accumulation:
        description: >-
          Let attention accumulate in half precision. Known to 0.8.0 to 0.10.0. The tool's default is V(false).
        type: bool
      enable_xqa:
        description: Use the XQA kernels for generation. Known to 0.8.0 to 0.15.0. The tool's default is V(true).
        type: bool
      multi_block_mode:
        description: >-
          Split long sequences over several blocks of the GPU. Known to 0.7.1 to 0.11.0. The tool's default is
          V(false).
        type: bool
      use_custom_all_reduce:
        description: >-
          Use the own all-reduce instead of NCCL's; some PCIe machines need it off. Known to 0.7.1 to 0.11.0. The
          tool's default is V(true).
        type: bool
      use_fused_mlp:
        description: >-
          Fuse the two projections of a gated MLP. Known to 0.7.1 to 1.2.1. The tool's default is V(false) (0.8.0 to
          0.12.0), V(true) (0.13.0 to 1.2.1).
        type: bool
      paged_state:
        description: >-
          Keep the state of recurrent models in pages. Known to 0.9.0 to 1.2.1. The tool's default is V(true).
        type: bool
      streamingllm:
        description: >-
          Keep attention sinks for endless generation, of Llama models and up to 0.16.0 only. Known to 0.9.0 to 1.2.1.
          The tool's default is V(false).
        type: bool
      reduce_fusion:
        description: Fuse all-reduce with what follows it. Known to 0.11.0 to 1.2.1. The tool's default is V(false).
        type: bool
      norm_quant_fusion:
        description: Fuse normalisation with quantisation. Known to 1.0.0 to 1.2.1. The tool's default is V(false).
        type: bool
      fuse_fp4_quant:
        description: Fuse FP4 quantisation into attention. Known to 1.0.0 to 1.2.1. The tool's default is V(false).
        type: bool
      user_buffer:
        description: >-
          Register communication buffers with NCCL. Known to 0.16.0 to 1.2.1. The tool's default is V(false).
        type: bool
      pp_reduce_scatter:
        description: >-
          Use reduce-scatter between pipeline ranks of a Mixtral model. Known to 0.15.0 to 1.2.1. The tool's default is
          V(false).
        type: bool
"""
