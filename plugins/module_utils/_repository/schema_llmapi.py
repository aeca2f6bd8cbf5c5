# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ``model.yaml`` of the llmapi repository takes: the arguments of ``tensorrt_llm.LLM`` and Triton's own.

Names from TensorRT-LLM's llm_args (1.0 to 1.2), which refuses a name that it does not have. The values of nested
configurations other than kv_cache_config are left to TensorRT-LLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._base.errors import FleetError, nearest
from .._release.releases import Release
from .._release.serve import SERVER_KINDS, check_keys
from .schema_values import BOOLS, KINDS, NO_LIMITS, Limits

MODEL = "tensorrt_llm"

_POSITIVE = Limits(low=1)
_NOT_NEGATIVE = Limits(low=0)
_SHARE = Limits(low=0, high=1)
_BYTES = Limits(low=0, bits=64)
# name -> (kind, limits). Kind "any" takes text and numbers, "mapping" a mapping.
Spec = dict[str, tuple[str, Limits]]


def _spec(kind: str, names: str, limits: Limits = NO_LIMITS) -> Spec:
    return dict.fromkeys(names.split(), (kind, limits))


LLM_ARGUMENTS: Spec = {
    **_spec("path", "model tokenizer postprocess_tokenizer_dir"),
    **_spec(
        "int",
        "tensor_parallel_size pipeline_parallel_size context_parallel_size gpus_per_node moe_cluster_parallel_size "
        "moe_tensor_parallel_size moe_expert_parallel_size max_batch_size max_input_len max_seq_len max_beam_width "
        "max_num_tokens stream_interval",
        _POSITIVE,
    ),
    **_spec(
        "int",
        "iter_stats_max_iterations request_stats_max_iterations num_postprocess_workers perf_metrics_max_requests "
        "batch_wait_timeout_iters garbage_collection_gen0_threshold",
        _NOT_NEGATIVE,
    ),
    **_spec("float", "batch_wait_timeout_ms batch_wait_max_tokens_ratio", _NOT_NEGATIVE),
    **_spec(
        "bool",
        "skip_tokenizer_init trust_remote_code enable_attention_dp enable_lm_head_tp_in_adp enable_lora "
        "enable_chunked_prefill gather_generation_logits fail_fast_on_attention_window_too_large "
        "return_perf_metrics disable_overlap_scheduler enable_iter_perf_stats enable_iter_req_stats print_iter_log "
        "enable_autotuner enable_layerwise_nvtx_marker enable_min_latency force_dynamic_quantization "
        "mm_encoder_only enable_build_cache fast_build normalize_log_probs",
    ),
    **_spec(
        "any",
        "dtype revision tokenizer_revision load_format reasoning_parser attn_backend sampler_type checkpoint_format "
        "ray_worker_extension_cls batching_type logits_post_processors",
    ),
    **_spec("choice", "backend", Limits(choices=("pytorch", "tensorrt", "_autodeploy"))),
    **_spec("choice", "tokenizer_mode", Limits(choices=("auto", "slow"))),
    **_spec("choice", "guided_decoding_backend", Limits(choices=("xgrammar", "llguidance"))),
    **_spec("choice", "orchestrator_type", Limits(choices=("rpc", "ray"))),
    **_spec(
        "choice",
        "allreduce_strategy",
        Limits(
            choices=(
                "AUTO", "NCCL", "UB", "MINLATENCY", "ONESHOT", "TWOSHOT", "LOWPRECISION", "MNNVL", "NCCL_SYMMETRIC",
            )
        ),
    ),
    **_spec(
        "mapping",
        "kv_cache_config lora_config peft_cache_config scheduler_config cache_transceiver_config "
        "sparse_attention_config speculative_config decoding_config cp_config cuda_graph_config attention_dp_config "
        "moe_config torch_compile_config kv_connector_config build_config quant_config calib_config "
        "extended_runtime_perf_knob_config pytorch_backend_config",
    ),
}  # fmt: skip
KV_CACHE: Spec = {
    **_spec(
        "bool",
        "enable_block_reuse onboard_blocks enable_partial_reuse copy_on_partial_reuse use_uvm use_kv_cache_manager_v2",
    ),
    **_spec("int", "max_tokens tokens_per_block", _POSITIVE),
    **_spec(
        "int",
        "sink_token_length secondary_offload_min_priority event_buffer_max_size attention_dp_events_gather_period_ms",
        _NOT_NEGATIVE,
    ),
    **_spec("int", "host_cache_size max_gpu_total_bytes", _BYTES),
    **_spec("float", "free_gpu_memory_fraction cross_kv_cache_fraction max_util_for_resume", _SHARE),
    **_spec("any", "max_attention_window dtype mamba_ssm_cache_dtype"),
}
TRITON: Spec = {
    **_spec("int", "max_batch_size", _NOT_NEGATIVE),
    **_spec("bool", "decoupled"),
    **_spec("int", "cancellation_check_period_ms", _POSITIVE),
}
# Not of model.yaml: they go into config.pbtxt.
CONFIG: Spec = {**_spec("int", "instance_count", _POSITIVE), **_spec("ids", "gpu_device_ids")}

_NESTED = {"kv_cache_config": KV_CACHE, "triton_config": TRITON}


def normalise_llmapi(parameters: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Judge the parameters of the llmapi layout; return those of its one model, typed as YAML has them."""
    for name in parameters:
        if name != MODEL:
            raise FleetError(f"{source}.{name} is not a model of the llmapi repository; give parameters under {MODEL}.")
    given = parameters.get(MODEL)
    if given is not None and not isinstance(given, Mapping):
        raise FleetError(f"{source}.{MODEL} is {given!r}; it takes a mapping of parameter names to values.")
    return _mapping(given or {}, {**LLM_ARGUMENTS, **CONFIG}, f"{source}.{MODEL}")


def normalise_serve(release: Release, parameters: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The same of the file that trtllm-serve of *release* is started with, whose keys are known by release."""
    for name in parameters:
        if name not in (MODEL, *SERVER_KINDS):
            raise FleetError(f"{source}.{name} is not a model that trtllm-serve has; give its keys under {MODEL}.")
    return _normalise(release, parameters.get(MODEL) or {}, f"{source}.{MODEL}")


def normalise_kinds(release: Release, parameters: Mapping[str, Any], source: str) -> dict[str, dict[str, Any]]:
    """The same of each kind of servers, where the model has two kinds."""
    return {
        kind: _normalise(release, parameters[kind], f"{source}.{kind}") for kind in SERVER_KINDS if parameters.get(kind)
    }


def _normalise(release: Release, given: Any, source: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise FleetError(f"{source} is {given!r}; it takes a mapping of keys to values.")
    check_keys(release, given, source)
    return {
        name: _mapping(value, KV_CACHE, f"{source}.{name}")
        if name in _NESTED and isinstance(value, Mapping)
        else _value(value, *LLM_ARGUMENTS.get(name, ("any", NO_LIMITS)), f"{source}.{name}")
        for name, value in given.items()
        # A mapping that is null is off, such as cuda_graph_config.
        if value is not None or LLM_ARGUMENTS.get(name, ("", NO_LIMITS))[0] == "mapping"
    }


def _mapping(given: Mapping[str, Any], spec: Spec, source: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, raw in given.items():
        # A mapping that is null is off, such as cuda_graph_config.
        if raw is None and spec.get(str(name), ("",))[0] != "mapping":
            continue
        at = f"{source}.{name}"
        nested = _NESTED.get(name)
        if nested is None and name not in spec:
            known = [*spec, "triton_config"] if "model" in spec else list(spec)
            raise FleetError(f"{at} is not an argument of model.yaml{nearest(str(name), known) or ';'} known there: "
                             f"{', '.join(sorted(known))}.")  # fmt: skip
        if nested is not None:
            if not isinstance(raw, Mapping):
                raise FleetError(f"{at} is {raw!r}; it takes a mapping.")
            values[name] = _mapping(raw, nested, at)
        else:
            values[name] = _value(raw, *spec[name], at)
    return values


def _value(raw: Any, kind: str, limits: Limits, source: str) -> Any:
    """*raw* as YAML has it: numbers and booleans given as text become what they say."""
    if kind == "mapping":
        if raw is None:
            return None
        if not isinstance(raw, Mapping):
            raise FleetError(f"{source} is {raw!r}; it takes a mapping.")
        return dict(raw)
    if kind == "any":
        if isinstance(raw, str) and "${" in raw:
            raise FleetError(f"{source} is '{raw}', which still holds a placeholder; give a value.")
        return raw
    text = KINDS[kind](raw, limits, source, ())
    if kind == "bool":
        return BOOLS[text]
    return int(text) if kind == "int" else float(text) if kind == "float" else text
