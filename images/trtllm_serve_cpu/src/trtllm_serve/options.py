# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of ``trtllm-serve serve``, as TensorRT-LLM 1.3.0rc3 has them, as data.

An option that is not here ends the server, as it does upstream.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from tensorrt_llm.llmapi.keys import keys_of

KEYS = keys_of("1.3.0")
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

# What asks for something that this image cannot do, and what that is.
REFUSED_OPTIONS = {
    "grpc": "gRPC", "server_role": "disaggregated serving", "disagg_cluster_uri": "disaggregated serving",
    "metadata_server_config_file": "disaggregated serving", "custom_tokenizer": "another tokenizer",
}  # fmt: skip


def disaggregated_parser() -> argparse.ArgumentParser:
    """An argparse parser of `disaggregated`."""
    result = argparse.ArgumentParser(
        prog="trtllm-serve disaggregated", formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    result.add_argument("-c", "--config_file", required=True)
    result.add_argument("-t", "--server_start_timeout", type=int, default=180)
    result.add_argument("-r", "--request_timeout", type=int, default=180)
    result.add_argument("-l", "--log_level", default="info", choices=LOG_LEVELS)
    result.add_argument("-m", "--metadata_server_config_file")
    result.add_argument("--metrics-log-interval", type=int, default=0)
    return result


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
