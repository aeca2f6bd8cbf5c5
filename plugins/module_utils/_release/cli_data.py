# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which option of which tool each TensorRT-LLM release knows, as data.

One row per flag and range of releases: ``name | releases | kind | default | choices``, and where it says another option
than that of its own name, or that one too, `` | options``.

* ``releases``: ``0.8.0-0.16.0`` inclusive, ``1.0.0-`` to the last release with an engine flow.
* ``kind``: flag (bare), word (takes enable or disable), int, float, str, list (takes several words).
* ``default``: empty where the tool has none; ``?`` where it is not established.

Read from the sources of 0.7.1 to 0.16.0 and 1.0.0. Between 0.16.0 and 1.0.0 a row stands only where both agree
(choices: what both have). After 1.0.0 the options are those of 1.0.0 without the three that were withdrawn.
What a tool takes and then stops at is no choice here. Options that describe a model's shape or a debugging aid are
left out: they are never passed.
"""

from __future__ import annotations

from .cli_build_py import BUILD_PY_TOOLS

# Releases whose own lists were not read: what one neighbour has and the other has not is not established there.
UNREAD = "0.17.0-0.21.0"

# Long lists of choices, by name; the number says since which release.
CHOICES = {
    "@plugin8": "float16,float32,bfloat16,disable",
    "@plugin11": "auto,float16,float32,bfloat16,int32,disable",
    "@gemm11": "auto,float16,float32,bfloat16,int32,fp8,disable",
    "@gemm100": "auto,float16,float32,bfloat16,int32,fp8,nvfp4,disable",
    "@log7": "internal_error,error,warning,info,verbose",
    "@log13": "internal_error,error,warning,info,verbose,debug",
    "@log100": "internal_error,error,warning,info,verbose,debug,trace",
    "@lora7": "attn_qkv,attn_dense,mlp_h_to_4h,mlp_gate,mlp_4h_to_h",
    "@lora8": "attn_qkv,attn_q,attn_k,attn_v,attn_dense,mlp_h_to_4h,mlp_gate,mlp_4h_to_h",
    "@spec11": "draft_tokens_external,lookahead_decoding,medusa",
    "@spec12": "draft_tokens_external,lookahead_decoding,medusa,explicit_draft_tokens",
    "@spec15": "draft_tokens_external,lookahead_decoding,medusa,explicit_draft_tokens,eagle",
    "@weight15": "int8,int4,int8_gptq,int4_gptq,int4_awq",
    "@weight_gemma": "int8,int4,w4a8_awq,w4a16_awq",
    "@qformat8": "fp8,int8_sq,int4_awq,w4a8_awq,int8_wo,int4_wo,full_prec",
    "@qformat100": "nvfp4,fp8,fp8_pc_pt,int8_sq,int4_awq,w4a8_awq,int8_wo,int4_wo,full_prec",
    "@lora10": (
        "attn_qkv,attn_q,attn_k,attn_v,attn_dense,mlp_h_to_4h,mlp_4h_to_h,mlp_gate,cross_attn_qkv"
        ",cross_attn_q,cross_attn_k,cross_attn_v,cross_attn_dense,moe_h_to_4h,moe_4h_to_h,moe_gate"
        ",moe_router"
    ),
    "@lora12": (
        "attn_qkv,attn_q,attn_k,attn_v,attn_dense,mlp_h_to_4h,mlp_4h_to_h,mlp_gate,cross_attn_qkv"
        ",cross_attn_q,cross_attn_k,cross_attn_v,cross_attn_dense,moe_h_to_4h,moe_4h_to_h,moe_gate"
        ",moe_router,mlp_router"
    ),
    "@lora100": (
        "attn_qkv,attn_q,attn_k,attn_v,attn_dense,mlp_h_to_4h,mlp_4h_to_h,mlp_gate,cross_attn_qkv"
        ",cross_attn_q,cross_attn_k,cross_attn_v,cross_attn_dense,moe_h_to_4h,moe_4h_to_h,moe_gate"
        ",moe_router,mlp_router,mlp_gate_up"
    ),
}

TOOLS = {
    "trtllm-build": """
checkpoint_dir                  | 0.8.0-        | str   |                  |
log_level                       | 0.8.0-0.10.0  | str   | info             | @log7
log_level                       | 0.11.0-0.12.0 | str   | info             | @log13
log_level                       | 0.13.0-0.21.0 | str   | info             | @log13
log_level                       | 1.0.0-        | str   | info             | @log100
profiling_verbosity             | 0.8.0-        | str   | layer_names_only | layer_names_only,detailed,none
enable_debug_output             | 0.8.0-        | flag  |                  |
output_dir                      | 0.8.0-        | str   | engine_outputs   |
workers                         | 0.8.0-        | int   | 1                |
max_batch_size                  | 0.8.0-0.10.0  | int   | 1                |
max_batch_size                  | 0.11.0-0.13.0 | int   | 256              |
max_batch_size                  | 0.14.0-       | int   | 2048             |
max_input_len                   | 0.8.0-        | int   | 1024             |
max_output_len                  | 0.8.0-0.10.0  | int   | 1024             | | max_seq_len
max_output_len                  | 0.11.0        | int   |                  | | max_seq_len
max_beam_width                  | 0.8.0-        | int   | 1                |
max_num_tokens                  | 0.8.0-0.10.0  | int   |                  |
max_num_tokens                  | 0.11.0-       | int   | 8192             |
max_prompt_embedding_table_size | 0.8.0-        | int   | 0                |
use_fused_mlp                   | 0.8.0-0.12.0  | flag  |                  |
use_fused_mlp                   | 0.13.0-       | word  | enable           |
gather_all_token_logits         | 0.8.0-        | flag  |                  |
gather_context_logits           | 0.8.0-        | flag  |                  |
gather_generation_logits        | 0.8.0-        | flag  |                  |
strongly_typed                  | 0.8.0-0.10.0  | flag  |                  |
builder_opt                     | 0.8.0-0.12.0  | int   |                  |
builder_opt                     | 0.13.0        | int   |                  | 0,1,2,3,4,5
logits_dtype                    | 0.8.0-        | str   |                  | float16,float32
bert_attention_plugin           | 0.8.0-0.10.0  | str   | float16          | @plugin8
bert_attention_plugin           | 0.11.0-       | str   | auto             | @plugin11
gpt_attention_plugin            | 0.8.0-0.10.0  | str   | float16          | @plugin8
gpt_attention_plugin            | 0.11.0-       | str   | auto             | @plugin11
gemm_plugin                     | 0.8.0-0.10.0  | str   |                  | @plugin8
gemm_plugin                     | 0.11.0-0.16.0 | str   | disable          | @gemm11
gemm_plugin                     | 0.17.0-0.21.0 | str   | ?                | @gemm11
gemm_plugin                     | 1.0.0-        | str   |                  | @gemm100
lookup_plugin                   | 0.8.0-0.10.0  | str   |                  | @plugin8
lookup_plugin                   | 0.11.0-0.14.0 | str   | disable          | @plugin11
lora_plugin                     | 0.8.0-0.10.0  | str   |                  | @plugin8
lora_plugin                     | 0.11.0-       | str   | disable          | @plugin11
context_fmha                    | 0.8.0-        | word  | enable           |
context_fmha_fp32_acc           | 0.8.0-0.11.0  | word  | disable          |
paged_kv_cache                  | 0.8.0-0.12.0  | word  | enable           | | kv_cache_type
remove_input_padding            | 0.8.0-        | word  | enable           |
use_custom_all_reduce           | 0.8.0-0.11.0  | word  | enable           |
multi_block_mode                | 0.8.0-0.11.0  | word  | disable          |
enable_xqa                      | 0.8.0-0.15.0  | word  | enable           |
attention_qk_half_accumulation  | 0.8.0-0.10.0  | word  | disable          |
tokens_per_block                | 0.8.0-0.9.0   | int   | 128              |
tokens_per_block                | 0.10.0-0.16.0 | int   | 64               |
tokens_per_block                | 0.17.0-0.21.0 | int   | ?                |
tokens_per_block                | 1.0.0-        | int   | 32               |
use_paged_context_fmha          | 0.8.0-0.16.0  | word  | disable          |
use_paged_context_fmha          | 0.17.0-0.21.0 | word  | ?                |
use_paged_context_fmha          | 1.0.0-        | word  | enable           |
use_context_fmha_for_generation | 0.8.0-0.10.0  | word  | disable          |
input_timing_cache              | 0.9.0-        | str   |                  |
opt_num_tokens                  | 0.9.0-        | int   |                  |
tp_size                         | 0.9.0-0.10.0  | int   | 1                |
pp_size                         | 0.9.0-0.10.0  | int   | 1                |
weight_sparsity                 | 0.9.0-        | flag  |                  |
max_draft_len                   | 0.9.0-        | int   | 0                |
lora_dir                        | 0.9.0-        | list  |                  |
lora_ckpt_source                | 0.9.0-        | str   | hf               | hf,nemo
lora_target_modules             | 0.9.0         | list  |                  | @lora8
lora_target_modules             | 0.10.0-0.11.0 | list  |                  | @lora10
lora_target_modules             | 0.12.0-0.21.0 | list  |                  | @lora12
lora_target_modules             | 1.0.0-        | list  |                  | @lora100
max_lora_rank                   | 0.9.0-        | int   | 64               |
moe_plugin                      | 0.9.0-0.10.0  | str   | float16          | @plugin8
moe_plugin                      | 0.11.0-       | str   | auto             | @plugin11
mamba_conv1d_plugin             | 0.9.0-0.10.0  | str   | float16          | @plugin8
mamba_conv1d_plugin             | 0.11.0-       | str   | auto             | @plugin11
use_fp8_context_fmha            | 0.9.0-0.16.0  | word  | disable          |
use_fp8_context_fmha            | 0.17.0-0.21.0 | word  | ?                |
use_fp8_context_fmha            | 1.0.0-        | word  | enable           |
multiple_profiles               | 0.9.0-        | word  | disable          |
paged_state                     | 0.9.0-        | word  | enable           |
streamingllm                    | 0.9.0-0.16.0  | word  | disable          |
streamingllm                    | 0.17.0-       | word  | disable          | disable
strip_plan                      | 0.10.0-       | flag  |                  |
max_encoder_input_len           | 0.10.0-       | int   | 1024             |
speculative_decoding_mode       | 0.10.0        | str   |                  | draft_tokens_external,medusa
speculative_decoding_mode       | 0.11.0        | str   |                  | @spec11
speculative_decoding_mode       | 0.12.0-0.14.0 | str   |                  | @spec12
speculative_decoding_mode       | 0.15.0-       | str   |                  | @spec15
weight_streaming                | 0.10.0-       | flag  |                  |
nccl_plugin                     | 0.10.0        | str   | float16          | @plugin8
nccl_plugin                     | 0.11.0-       | str   | auto             | @plugin11
max_seq_len                     | 0.11.0-       | int   |                  | | max_output_len
gemm_swiglu_plugin              | 0.11.0-       | str   | disable          | fp8,disable
reduce_fusion                   | 0.11.0-       | word  | disable          |
builder_force_num_profiles      | 0.12.0-0.14.0 | int   |                  |
fast_build                      | 0.12.0-       | flag  |                  |
fp8_rowwise_gemm_plugin         | 0.12.0-       | str   | disable          | @plugin11
bert_context_fmha_fp32_acc      | 0.12.0-       | word  | disable          |
kv_cache_type                   | 0.13.0-       | str   | paged            | continuous,paged,disabled | paged_kv_cache
low_latency_gemm_plugin         | 0.13.0-       | str   | disable          | fp8,disable
monitor_memory                  | 0.15.0-       | flag  |                  |
low_latency_gemm_swiglu_plugin  | 0.15.0-       | str   | disable          | fp8,disable
pp_reduce_scatter               | 0.15.0-       | word  | disable          |
user_buffer                     | 0.16.0-       | word  | disable          |
dora_plugin                     | 1.0.0-        | word  | disable          |
gemm_allreduce_plugin           | 1.0.0-        | str   | disable          | float16,bfloat16,disable
norm_quant_fusion               | 1.0.0-        | word  | disable          |
fuse_fp4_quant                  | 1.0.0-        | word  | disable          |
""",
    "quantization/quantize.py": """
model_dir            | 0.8.0-       | str   |                |
dtype                | 0.8.0-0.14.0 | str   | float16        |
dtype                | 0.15.0-      | str   | auto           | auto,float16,bfloat16,float32
qformat              | 0.8.0-0.21.0 | str   | full_prec      | @qformat8
qformat              | 1.0.0-       | str   | full_prec      | @qformat100
calib_size           | 0.8.0-       | int   | 512            |
seed                 | 0.9.0-       | int   | 1234           | | random_seed
batch_size           | 0.8.0-       | int   | 1              | | calib_batch_size
output_dir           | 0.8.0-       | str   | exported_model |
tp_size              | 0.8.0-       | int   | 1              |
pp_size              | 0.8.0-       | int   | 1              |
awq_block_size       | 0.8.0-       | int   | 128            |
kv_cache_dtype       | 0.8.0-       | str   |                | int8,fp8
max_seq_length       | 0.9.0        | int   | 2048           | | calib_max_seq_length
calib_dataset        | 0.10.0-      | str   | cnn_dailymail  |
calib_max_seq_length | 0.10.0-      | int   | 512            |
autoq_format         | 0.14.0-      | str   |                |
auto_quantize_bits   | 0.15.0-      | float |                |
cp_size              | 0.16.0-      | int   | 1              |
quantize_lm_head     | 1.0.0-       | flag  |                |
""",
    "llama/convert_checkpoint.py": """
model_dir                        | 0.8.0-        | str   |                    |
tp_size                          | 0.8.0-        | int   | 1                  |
pp_size                          | 0.8.0-        | int   | 1                  |
dtype                            | 0.8.0-0.14.0  | str   | float16            | float32,bfloat16,float16
dtype                            | 0.15.0-       | str   | auto               | auto,float16,bfloat16,float32
use_weight_only                  | 0.8.0-        | flag  |                    |
disable_weight_only_quant_plugin | 0.8.0-        | flag  |                    |
weight_only_precision            | 0.8.0-0.12.0  | str   | int8               | int8,int4,int4_gptq
weight_only_precision            | 0.13.0-0.14.0 | str   | int8               | int8,int4,int4_gptq,int4_awq
weight_only_precision            | 0.15.0-       | str   | int8               | @weight15
smoothquant                      | 0.8.0-        | float |                    |
per_channel                      | 0.8.0-        | flag  |                    |
per_token                        | 0.8.0-        | flag  |                    |
int8_kv_cache                    | 0.8.0-        | flag  |                    |
ammo_quant_ckpt_path             | 0.8.0-0.9.0   | str   |                    | | quant_ckpt_path
per_group                        | 0.8.0-        | flag  |                    |
enable_fp8                       | 0.8.0         | flag  |                    | | use_fp8
fp8_kv_cache                     | 0.8.0         | flag  |                    |
fp8_kv_cache                     | 0.12.0-       | flag  |                    |
load_by_shard                    | 0.8.0-        | flag  |                    |
group_size                       | 0.8.0-        | int   | 128                |
load_model_on_cpu                | 0.8.0-        | flag  |                    |
use_parallel_embedding           | 0.8.0-        | flag  |                    |
embedding_sharding_dim           | 0.8.0-        | int   | 0                  | 0,1
use_embedding_sharing            | 0.8.0-0.15.0  | flag  |                    |
output_dir                       | 0.8.0-        | str   | tllm_checkpoint    |
workers                          | 0.8.0-        | int   | 1                  |
hf_lora_dir                      | 0.8.0         | str   |                    | | lora_dir
lora_target_modules              | 0.8.0         | list  |                    | @lora8
max_lora_rank                    | 0.8.0         | int   | 64                 |
calib_dataset                    | 0.10.0-       | str   | ccdv/cnn_dailymail |
modelopt_quant_ckpt_path         | 0.10.0        | str   |                    | | quant_ckpt_path
moe_tp_size                      | 0.11.0-       | int   | -1                 |
moe_ep_size                      | 0.11.0-       | int   | -1                 |
quant_ckpt_path                  | 0.11.0-       | str   |                    |
use_fp8_rowwise                  | 0.12.0-       | flag  |                    |
remove_duplicated_kv_heads       | 0.12.0-       | flag  |                    |
log_level                        | 0.12.0-0.21.0 | str   | info               | @log13
log_level                        | 1.0.0-        | str   | info               | @log100
use_fp8                          | 0.13.0-       | flag  |                    |
calib_size                       | 0.14.0-       | int   | 512                |
calib_max_seq_length             | 0.14.0-       | int   | 512                |
use_qserve                       | 0.15.0-       | flag  |                    |
use_meta_fp8_rowwise_recipe      | 0.15.0-       | flag  |                    |
cp_size                          | 0.16.0-       | int   | 1                  |
use_nvfp4                        | 1.0.0-        | flag  |                    |
""",
    "baichuan/convert_checkpoint.py": """
model_dir                       | 0.8.0-       | str   |                    |
quant_ckpt_path                 | 0.8.0-       | str   |                    |
tp_size                         | 0.8.0-       | int   | 1                  |
pp_size                         | 0.8.0-       | int   | 1                  |
model_version                   | 0.8.0-       | str   | v1_13b             | v1_7b,v1_13b,v2_7b,v2_13b
dtype                           | 0.8.0-0.14.0 | str   | float16            | float32,bfloat16,float16
dtype                           | 0.15.0-      | str   | auto               | auto,float16,bfloat16,float32
logits_dtype                    | 0.8.0-       | str   | float32            | float16,float32
output_dir                      | 0.8.0-       | str   | tllm_checkpoint    |
workers                         | 0.8.0-       | int   | 1                  |
max_prompt_embedding_table_size | 0.8.0        | int   | 0                  |
calibrate_kv_cache              | 0.8.0        | flag  |                    | | int8_kv_cache
per_channel                     | 0.8.0-       | flag  |                    |
per_token                       | 0.8.0-       | flag  |                    |
smoothquant                     | 0.8.0-       | float |                    |
use_weight_only                 | 0.8.0-       | flag  |                    |
weight_only_precision           | 0.8.0-       | str   | int8               | int8,int4,int4_gptq
group_size                      | 0.8.0-       | int   | 128                |
int8_kv_cache                   | 0.8.0-       | flag  |                    |
calib_dataset                   | 0.10.0-      | str   | ccdv/cnn_dailymail |
""",
    "gpt/convert_checkpoint.py": """
model_dir              | 0.9.0-        | str   |                 |
tp_size                | 0.9.0-        | int   | 1               |
pp_size                | 0.9.0-        | int   | 1               |
dtype                  | 0.9.0-0.14.0  | str   | float16         | float32,bfloat16,float16
dtype                  | 0.15.0-       | str   | auto            | auto,float16,bfloat16,float32
use_parallel_embedding | 0.9.0-        | flag  |                 |
embedding_sharding_dim | 0.9.0-        | int   | 0               | 0,1
use_embedding_sharing  | 0.9.0-0.15.0  | flag  |                 |
use_weight_only        | 0.9.0-        | flag  |                 |
weight_only_precision  | 0.9.0-        | str   | int8            | int8,int4
int8_kv_cache          | 0.9.0-        | flag  |                 |
per_channel            | 0.9.0-        | flag  |                 |
per_token              | 0.9.0-        | flag  |                 |
smoothquant            | 0.9.0-        | float |                 |
output_dir             | 0.9.0-        | str   | tllm_checkpoint |
workers                | 0.9.0-        | int   | 1               |
log_level              | 0.9.0-0.10.0  | str   | info            | @log7
log_level              | 0.11.0-0.21.0 | str   | info            | @log13
log_level              | 1.0.0-        | str   | info            | @log100
calib_dataset          | 0.10.0-       | str   | lambada         |
load_model_on_cpu      | 0.12.0-       | flag  |                 |
""",
    "qwen/convert_checkpoint.py": """
model_dir                        | 0.9.0-       | str   |                    |
tp_size                          | 0.9.0-       | int   | 1                  |
pp_size                          | 0.9.0-       | int   | 1                  |
dtype                            | 0.9.0-0.14.0 | str   | float16            | float32,bfloat16,float16
dtype                            | 0.15.0-      | str   | auto               | auto,float16,bfloat16,float32
use_weight_only                  | 0.9.0-       | flag  |                    |
disable_weight_only_quant_plugin | 0.9.0-       | flag  |                    |
weight_only_precision            | 0.9.0-       | str   | int8               | int8,int4,int4_gptq
smoothquant                      | 0.9.0-       | float |                    |
per_channel                      | 0.9.0-       | flag  |                    |
per_token                        | 0.9.0-       | flag  |                    |
int8_kv_cache                    | 0.9.0-       | flag  |                    |
per_group                        | 0.9.0-       | flag  |                    |
group_size                       | 0.9.0-       | int   | 128                |
load_model_on_cpu                | 0.9.0-       | flag  |                    |
use_parallel_embedding           | 0.9.0-       | flag  |                    |
embedding_sharding_dim           | 0.9.0-       | int   | 0                  | 0,1
use_embedding_sharing            | 0.9.0-0.15.0 | flag  |                    |
output_dir                       | 0.9.0-       | str   | tllm_checkpoint    |
workers                          | 0.9.0-       | int   | 1                  |
calib_dataset                    | 0.10.0-      | str   | ccdv/cnn_dailymail |
moe_tp_size                      | 0.11.0-      | int   | -1                 |
moe_ep_size                      | 0.11.0-      | int   | -1                 |
cp_size                          | 1.0.0-       | int   | 1                  |
""",
    "falcon/convert_checkpoint.py": """
model_dir              | 0.8.0-        | str  |                 |
tp_size                | 0.8.0-        | int  | 1               |
pp_size                | 0.8.0-        | int  | 1               |
dtype                  | 0.8.0-0.14.0  | str  | float16         | float32,bfloat16,float16
dtype                  | 0.15.0-       | str  | auto            | auto,float16,bfloat16,float32
use_parallel_embedding | 0.8.0-        | flag |                 |
embedding_sharding_dim | 0.8.0-        | int  | 0               | 0,1
use_embedding_sharing  | 0.8.0-0.15.0  | flag |                 |
use_weight_only        | 0.8.0-        | flag |                 |
weight_only_precision  | 0.8.0-        | str  | int8            | int8,int4
load_by_shard          | 0.8.0-        | flag |                 |
output_dir             | 0.8.0-        | str  | tllm_checkpoint |
workers                | 0.8.0-        | int  | 1               |
log_level              | 0.8.0-0.10.0  | str  | info            | @log7
log_level              | 0.11.0-0.21.0 | str  | info            | @log13
log_level              | 1.0.0-        | str  | info            | @log100
""",
    "phi/convert_checkpoint.py": """
model_dir              | 0.8.0-       | str   |                 |
tp_size                | 0.8.0        | int   | 1               |
tp_size                | 0.11.0-      | int   | 1               |
pp_size                | 0.8.0        | int   | 1               |
pp_size                | 0.11.0-      | int   | 1               |
dtype                  | 0.8.0-0.14.0 | str   | float16         | float32,bfloat16,float16
dtype                  | 0.15.0-      | str   | auto            | auto,float16,bfloat16,float32
use_parallel_embedding | 0.8.0        | flag  |                 |
embedding_sharding_dim | 0.8.0        | int   | 0               | 0,1
output_dir             | 0.8.0-       | str   | tllm_checkpoint |
workers                | 0.8.0        | int   | 1               |
workers                | 0.11.0-      | int   | 1               |
use_weight_only        | 0.11.0-      | flag  |                 |
weight_only_precision  | 0.11.0-      | str   | int8            | int8,int4
moe_tp_size            | 0.14.0-      | int   | -1              |
moe_ep_size            | 0.14.0-      | int   | -1              |
""",
    "gemma/convert_checkpoint.py": """
ckpt-type                      | 0.9.0-0.11.0 | str   |                    | jax,keras,torch,hf
ckpt-type                      | 0.12.0-      | str   |                    |
model-dir                      | 0.9.0-       | str   |                    |
output-model-dir               | 0.9.0-       | str   |                    |
world-size                     | 0.9.0-       | int   | 1                  | | tp_size
use-weight-only-with-precision | 0.9.0-0.16.0 | str | | @weight_gemma | use_weight_only weight_only_precision
dtype                          | 0.9.0-0.14.0 | str   |                    | float32,bfloat16,float16
dtype                          | 0.15.0-      | str   | auto               | auto,float16,bfloat16,float32
enable_fp8                     | 0.9.0-       | flag  |                    | | use_fp8
fp8_kv_cache                   | 0.9.0-       | flag  |                    |
use_smooth_quant_plugin        | 0.9.0-0.11.0 | float |                    | | smoothquant
smoothquant                    | 0.12.0-      | float |                    |
per_channel                    | 0.9.0-       | flag  |                    |
per_token                      | 0.9.0-       | flag  |                    |
tokenizer_dir                  | 0.9.0-       | str   |                    |
ammo_quant_ckpt_path           | 0.9.0        | str   |                    | | quant_ckpt_path
calibrate_kv_cache             | 0.9.0-0.11.0 | flag  |                    | | int8_kv_cache
modelopt_quant_ckpt_path       | 0.10.0       | str   |                    | | quant_ckpt_path
calib_dataset                  | 0.10.0-      | str   | ccdv/cnn_dailymail |
quant_ckpt_path                | 0.11.0-      | str   |                    |
int8_kv_cache                  | 0.12.0-      | flag  |                    |
load_model_on_cpu              | 0.12.0-      | flag  |                    |
use_weight_only                | 1.0.0-       | flag  |                    |
weight_only_precision          | 1.0.0-       | str   |                    | @weight_gemma
""",
    **BUILD_PY_TOOLS,
}
