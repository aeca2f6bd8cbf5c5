# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools that end with the flow build.py (0.7.1, for some families 0.8.0), in the form of ``cli_data``."""

from __future__ import annotations

BUILD_PY_TOOLS = {
    "llama/build.py": """
world_size                       | 0.7.1 | int   | 1              | | tp_size
tp_size                          | 0.7.1 | int   | 1              |
pp_size                          | 0.7.1 | int   | 1              |
model_dir                        | 0.7.1 | str   |                |
quant_ckpt_path                  | 0.7.1 | str   |                |
dtype                            | 0.7.1 | str   | float16        | float32,bfloat16,float16
log_level                        | 0.7.1 | str   | info           | @log7
max_batch_size                   | 0.7.1 | int   | 8              |
max_input_len                    | 0.7.1 | int   | 2048           |
max_output_len                   | 0.7.1 | int   | 512            | | max_seq_len
max_beam_width                   | 0.7.1 | int   | 1              |
use_gpt_attention_plugin         | 0.7.1 | str   |                | float16,bfloat16,float32 | gpt_attention_plugin
use_gemm_plugin                  | 0.7.1 | str   |                | float16,bfloat16,float32 | gemm_plugin
parallel_build                   | 0.7.1 | flag  |                | | workers
enable_context_fmha              | 0.7.1 | flag  |                | | context_fmha
enable_context_fmha_fp32_acc     | 0.7.1 | flag  |                | | context_fmha_fp32_acc
multi_block_mode                 | 0.7.1 | flag  |                |
load_by_shard                    | 0.7.1 | flag  |                |
enable_debug_output              | 0.7.1 | flag  |                |
builder_opt                      | 0.7.1 | int   |                |
output_dir                       | 0.7.1 | str   | engine_outputs |
remove_input_padding             | 0.7.1 | flag  |                |
use_fused_mlp                    | 0.7.1 | flag  |                |
per_group                        | 0.7.1 | flag  |                |
group_size                       | 0.7.1 | int   | 128            |
int8_kv_cache                    | 0.7.1 | flag  |                |
use_parallel_embedding           | 0.7.1 | flag  |                |
embedding_sharding_dim           | 0.7.1 | int   | 1              | 0,1
enable_fp8                       | 0.7.1 | flag  |                | | use_fp8
fp8_kv_cache                     | 0.7.1 | flag  |                |
use_weight_only                  | 0.7.1 | flag  |                |
disable_weight_only_quant_plugin | 0.7.1 | flag  |                |
weight_only_precision            | 0.7.1 | str   | int8           | int8,int4,int4_awq,int4_gptq
use_inflight_batching            | 0.7.1 | flag  |                |
paged_kv_cache                   | 0.7.1 | flag  |                | | kv_cache_type
tokens_per_block                 | 0.7.1 | int   | 128            |
max_num_tokens                   | 0.7.1 | int   |                |
strongly_typed                   | 0.7.1 | flag  |                |
use_custom_all_reduce            | 0.7.1 | flag  |                |
max_prompt_embedding_table_size  | 0.7.1 | int   | 0              |
gather_all_token_logits          | 0.7.1 | flag  |                |
use_lora_plugin                  | 0.7.1 | str   |                | float16,float32,bfloat16 | lora_plugin
hf_lora_dir                      | 0.7.1 | str   |                | | lora_dir
""",
    "baichuan/build.py": """
world_size                   | 0.7.1 | int   | 1              | | tp_size
model_dir                    | 0.7.1 | str   |                |
model_version                | 0.7.1 | str   | v1_13b         | v1_7b,v1_13b,v2_7b,v2_13b
dtype                        | 0.7.1 | str   | float16        | float32,bfloat16,float16
logits_dtype                 | 0.7.1 | str   | float32        | float16,float32
log_level                    | 0.7.1 | str   | info           | @log7
max_batch_size               | 0.7.1 | int   | 1              |
max_input_len                | 0.7.1 | int   | 1024           |
max_output_len               | 0.7.1 | int   | 1024           | | max_seq_len
max_beam_width               | 0.7.1 | int   | 1              |
use_gpt_attention_plugin     | 0.7.1 | str   |                | float16,bfloat16,float32 | gpt_attention_plugin
use_gemm_plugin              | 0.7.1 | str   |                | float16,bfloat16,float32 | gemm_plugin
enable_context_fmha          | 0.7.1 | flag  |                | | context_fmha
enable_context_fmha_fp32_acc | 0.7.1 | flag  |                | | context_fmha_fp32_acc
multi_block_mode             | 0.7.1 | flag  |                |
parallel_build               | 0.7.1 | flag  |                | | workers
enable_debug_output          | 0.7.1 | flag  |                |
output_dir                   | 0.7.1 | str   | engine_outputs |
remove_input_padding         | 0.7.1 | flag  |                |
int8_kv_cache                | 0.7.1 | flag  |                |
enable_fp8                   | 0.7.1 | flag  |                | | use_fp8
fp8_kv_cache                 | 0.7.1 | flag  |                |
use_weight_only              | 0.7.1 | flag  |                |
weight_only_precision        | 0.7.1 | str   | int8           | int8,int4
use_inflight_batching        | 0.7.1 | flag  |                |
paged_kv_cache               | 0.7.1 | flag  |                | | kv_cache_type
tokens_per_block             | 0.7.1 | int   | 128            |
max_num_tokens               | 0.7.1 | int   |                |
strongly_typed               | 0.7.1 | flag  |                |
""",
    "gpt/build.py": """
world_size                      | 0.7.1-0.8.0 | int   | 1                | | tp_size
model_dir                       | 0.7.1-0.8.0 | str   |                  |
dtype                           | 0.7.1-0.8.0 | str   | float16          | float16,float32,bfloat16
logits_dtype                    | 0.7.1-0.8.0 | str   | float32          | float16,float32
log_level                       | 0.7.1-0.8.0 | str   | info             | @log7
max_batch_size                  | 0.7.1-0.8.0 | int   | 256              |
max_input_len                   | 0.7.1-0.8.0 | int   | 200              |
max_output_len                  | 0.7.1-0.8.0 | int   | 200              | | max_seq_len
max_beam_width                  | 0.7.1-0.8.0 | int   | 1                |
use_gpt_attention_plugin | 0.7.1-0.8.0 | str | | float16,float32,bfloat16 | gpt_attention_plugin
use_gemm_plugin                 | 0.7.1-0.8.0 | str   |                  | float16,float32,bfloat16 | gemm_plugin
parallel_build                  | 0.7.1-0.8.0 | flag  |                  | | workers
enable_context_fmha             | 0.7.1-0.8.0 | flag  |                  | | context_fmha
enable_context_fmha_fp32_acc    | 0.7.1-0.8.0 | flag  |                  | | context_fmha_fp32_acc
multi_block_mode                | 0.7.1-0.8.0 | flag  |                  |
builder_opt                     | 0.7.1-0.8.0 | int   |                  |
output_dir                      | 0.7.1-0.8.0 | str   | engine_outputs   |
remove_input_padding            | 0.7.1-0.8.0 | flag  |                  |
use_weight_only                 | 0.7.1-0.8.0 | flag  |                  |
weight_only_precision           | 0.7.1-0.8.0 | str   | int8             | int8,int4
use_smooth_quant                | 0.7.1-0.8.0 | flag  |                  | | smoothquant
per_channel                     | 0.7.1-0.8.0 | flag  |                  |
per_token                       | 0.7.1-0.8.0 | flag  |                  |
int8_kv_cache                   | 0.7.1-0.8.0 | flag  |                  |
paged_kv_cache                  | 0.7.1-0.8.0 | flag  |                  | | kv_cache_type
tokens_per_block                | 0.7.1-0.8.0 | int   | 128              |
max_prompt_embedding_table_size | 0.7.1-0.8.0 | int   | 0                |
use_inflight_batching           | 0.7.1-0.8.0 | flag  |                  |
use_parallel_embedding          | 0.7.1-0.8.0 | flag  |                  |
embedding_sharding_dim          | 0.7.1-0.8.0 | int   | 0                | 0,1
use_embedding_sharing           | 0.7.1-0.8.0 | flag  |                  |
use_lookup_plugin               | 0.7.1-0.8.0 | str   |                  | float16,float32,bfloat16 | lookup_plugin
gather_all_token_logits         | 0.7.1-0.8.0 | flag  |                  |
enable_fp8                      | 0.7.1-0.8.0 | flag  |                  | | use_fp8
fp8_kv_cache                    | 0.7.1-0.8.0 | flag  |                  |
max_num_tokens                  | 0.7.1-0.8.0 | int   |                  |
strongly_typed                  | 0.7.1-0.8.0 | flag  |                  |
use_custom_all_reduce           | 0.7.1-0.8.0 | flag  |                  |
use_lora_plugin                 | 0.7.1-0.8.0 | str   |                  | float16,float32,bfloat16 | lora_plugin
max_draft_len                   | 0.7.1-0.8.0 | int   | 0                |
use_paged_context_fmha          | 0.7.1-0.8.0 | flag  |                  |
use_context_fmha_for_generation | 0.7.1-0.8.0 | flag  |                  |
lora_target_modules             | 0.7.1       | list  |                  | @lora7
lora_target_modules             | 0.8.0       | list  |                  | @lora8
profiling_verbosity             | 0.8.0       | str   | layer_names_only | layer_names_only,detailed,none
gather_context_logits           | 0.8.0       | flag  |                  |
gather_generation_logits        | 0.8.0       | flag  |                  |
max_lora_rank                   | 0.8.0       | int   | 64               |
""",
    "qwen/build.py": """
world_size                      | 0.7.1-0.8.0 | int   | 1                | | tp_size
tp_size                         | 0.7.1-0.8.0 | int   | 1                |
pp_size                         | 0.7.1-0.8.0 | int   | 1                |
hf_model_dir                    | 0.7.1-0.8.0 | str   |                  |
dtype                           | 0.7.1-0.8.0 | str   | float16          | float32,bfloat16,float16
log_level                       | 0.7.1-0.8.0 | str   | info             | @log7
max_batch_size                  | 0.7.1-0.8.0 | int   | 2                |
max_input_len                   | 0.7.1-0.8.0 | int   | 2048             |
max_output_len                  | 0.7.1-0.8.0 | int   | 2048             | | max_seq_len
max_beam_width                  | 0.7.1-0.8.0 | int   | 1                |
use_gpt_attention_plugin | 0.7.1 | str | float16 | float16,bfloat16,float32 | gpt_attention_plugin
use_gpt_attention_plugin | 0.8.0 | str | | float16,bfloat16,float32 | gpt_attention_plugin
use_gemm_plugin                 | 0.7.1       | str   | float16          | float16,bfloat16,float32 | gemm_plugin
use_gemm_plugin                 | 0.8.0       | str   |                  | float16,bfloat16,float32 | gemm_plugin
parallel_build                  | 0.7.1-0.8.0 | flag  |                  | | workers
enable_context_fmha             | 0.7.1-0.8.0 | flag  |                  | | context_fmha
enable_context_fmha_fp32_acc    | 0.7.1-0.8.0 | flag  |                  | | context_fmha_fp32_acc
enable_debug_output             | 0.7.1-0.8.0 | flag  |                  |
builder_opt                     | 0.7.1-0.8.0 | int   |                  |
output_dir                      | 0.7.1-0.8.0 | str   | engine_outputs   |
remove_input_padding            | 0.7.1-0.8.0 | flag  |                  |
per_group                       | 0.7.1-0.8.0 | flag  |                  |
use_weight_only                 | 0.7.1-0.8.0 | flag  |                  |
weight_only_precision           | 0.7.1       | str   | int8             | int8,int4
weight_only_precision           | 0.8.0       | str   | int8             | int8,int4,int4_awq,int4_gptq
use_inflight_batching           | 0.7.1-0.8.0 | flag  |                  |
paged_kv_cache                  | 0.7.1-0.8.0 | flag  |                  | | kv_cache_type
tokens_per_block                | 0.7.1-0.8.0 | int   | 128              |
max_num_tokens                  | 0.7.1-0.8.0 | int   |                  |
int8_kv_cache                   | 0.7.1-0.8.0 | flag  |                  |
use_parallel_embedding          | 0.7.1-0.8.0 | flag  |                  |
embedding_sharding_dim          | 0.7.1-0.8.0 | int   | 1                | 0,1
strongly_typed                  | 0.7.1-0.8.0 | flag  |                  |
use_custom_all_reduce           | 0.7.1-0.8.0 | flag  |                  |
quant_ckpt_path                 | 0.8.0       | str   |                  |
profiling_verbosity             | 0.8.0       | str   | layer_names_only | layer_names_only,detailed,none
group_size                      | 0.8.0       | int   | 128              |
quantize_lm_head                | 0.8.0       | flag  |                  |
max_prompt_embedding_table_size | 0.8.0       | int   | 0                |
use_lookup_plugin               | 0.8.0       | str   |                  | float16,float32,bfloat16 | lookup_plugin
""",
    "gpt/hf_gpt_convert.py": """
out-dir              | 0.7.1-0.8.0 | str   |         |
in-file              | 0.7.1-0.8.0 | str   |         |
tensor-parallelism   | 0.7.1-0.8.0 | int   | 1       | | tp_size
processes            | 0.7.1-0.8.0 | int   | 4       |
calibrate-kv-cache   | 0.7.1-0.8.0 | flag  |         | | int8_kv_cache
smoothquant          | 0.7.1-0.8.0 | float |         |
model                | 0.7.1-0.8.0 | str   | gpt2    | gpt2,santacoder,starcoder
storage-type         | 0.7.1-0.8.0 | str   | float32 | float32,float16,bfloat16 | dtype
load-model-on-cpu    | 0.7.1-0.8.0 | flag  |         | | load_model_on_cpu
convert-model-on-cpu | 0.7.1-0.8.0 | flag  |         |
""",
}
