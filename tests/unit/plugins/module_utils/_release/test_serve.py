# SPDX-License-Identifier: GPL-3.0-or-later
"""How a model is served follows from its release, and what trtllm-serve is told from what engines are told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.options import ENGINE_OPTIONS
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import (
    RELEASES,
    flow_of,
    flows,
    release,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._release.serve import (
    check_arguments,
    check_keys,
    crossing,
    engine_ways,
    prometheus_route,
    serve_config,
)

SERVE = "trtllm-serve"
ALWAYS = {"kv_cache_config": {"free_gpu_memory_fraction": 0.9}, "enable_iter_perf_stats": True}


def config(
    options: dict[str, Any] | None = None, parameters: Any = None, args: Any = None, version: str = "1.3.0"
) -> dict[str, Any]:
    return serve_config(release(version), options or {}, parameters or {}, args or {})


def test_the_flow_follows_from_the_release() -> None:
    assert {row.version: flow_of(row) for row in RELEASES.values()} == {
        row.version: "engine" if row.builds_engines else SERVE for row in RELEASES.values()
    }
    assert flow_of(release(LAST), SERVE) == SERVE
    assert flows(release("0.18.0")) == ("engine",)


@pytest.mark.parametrize(
    ("version", "flow", "sentence"),
    [
        ("1.3.0", "engine", f"1.3.0 is not known to have (it has {SERVE}); 0.7.1 to {LAST} have it."),
        ("0.20.0", SERVE, "(it has engine); 1.0.0 to 1.3.0 have it."),
        ("1.3.0", "llmapi", f"(it has {SERVE}); 1.0.0 to {LAST} have it."),
    ],
)
def test_a_flow_that_a_release_has_not_names_those_that_have(version: str, flow: str, sentence: str) -> None:
    with pytest.raises(FleetError) as refused:
        flow_of(release(version), flow)
    assert sentence in str(refused.value)


def test_what_means_the_same_is_said_once_and_in_the_file() -> None:
    options = {
        "tp_size": 2, "pp_size": 1, "moe_ep_size": -1, "max_batch_size": 8, "max_seq_len": 512, "dtype": "float16",
        "fp8_kv_cache": True, "kv_cache_type": "paged", "use_paged_context_fmha": True,
    }  # fmt: skip
    parameters = {
        "tensorrt_llm": {
            "kv_cache_free_gpu_mem_fraction": 0.5,
            "enable_kv_cache_reuse": False,
            "max_attention_window_size": "1024,2048",
            "batch_scheduler_policy": "max_utilization",
        }
    }
    args = {"attn_backend": "FLASHINFER", "kv_cache_config": {"host_cache_size": 5}, "cuda_graph_config": None}
    assert config(options, parameters, args) == {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "max_batch_size": 8,
        "max_seq_len": 512,
        "dtype": "float16",
        "kv_cache_config": {
            "dtype": "fp8",
            "free_gpu_memory_fraction": 0.5,
            "enable_block_reuse": False,
            "max_attention_window": [1024, 2048],
            "host_cache_size": 5,
        },
        "enable_chunked_prefill": True,
        "scheduler_config": {"capacity_scheduler_policy": "MAX_UTILIZATION"},
        "attn_backend": "FLASHINFER",
        "cuda_graph_config": None,
        "enable_iter_perf_stats": True,
        "return_perf_metrics": True,
    }


def test_what_is_lost_or_not_told_otherwise_is_always_said() -> None:
    assert config(version="1.0.0") == {"tensor_parallel_size": 1, **ALWAYS}
    assert config(args={"enable_iter_perf_stats": False})["enable_iter_perf_stats"] is False
    assert config(version="1.3.0") == {"tensor_parallel_size": 1, **ALWAYS, "return_perf_metrics": True}
    assert config(args={"return_perf_metrics": False})["return_perf_metrics"] is False


def test_metrics_for_prometheus_are_where_the_release_has_them() -> None:
    assert [prometheus_route(release(name)) for name in ("1.0.0", LAST, "1.3.0")] == ["", "", "/prometheus/metrics"]


@pytest.mark.parametrize(
    ("options", "parameters", "args", "version", "sentence"),
    [
        ({"gemm_plugin": "auto"}, {}, {}, "1.3.0", "engine.gemm_plugin says how an engine is made, and "
         "trtllm-serve makes none; leave it out."),
        ({"gemm_plugin": "auto"}, {}, {}, LAST, "leave it out, or set flow: engine, which has it."),
        ({"qformat": "fp8"}, {}, {}, "1.3.0", "serve a checkpoint that is quantised already, whose own"),
        ({"max_output_len": 5}, {}, {}, "1.3.0", "give max_seq_len, which counts prompt and output together"),
        ({"max_draft_len": 5}, {}, {}, "1.3.0", "describe it in llm_args.speculative_config"),
        ({"dtype": "float32"}, {}, {}, "1.3.0", "is float32, but trtllm-serve takes auto or float16 or bfloat16"),
        ({"kv_cache_type": "continuous"}, {}, {}, "1.3.0", "is continuous, but trtllm-serve takes paged"),
        ({"tokens_per_block": 32}, {}, {}, "1.2.0", "1.2.0 is not known to have; it is for 1.3.0; leave it out"),
        ({}, {"preprocessing": {"tokenizer_dir": "/x"}}, {}, "1.3.0", "is of a model repository for an engine, and "
         "trtllm-serve has none"),
        ({}, {"tensorrt_llm": {"decoding_mode": "top_k"}}, {}, "1.3.0", "all else in llm_args"),
        ({}, {"tensorrt_llm": {"max_attention_window_size": "a"}}, {}, "1.3.0", "give numbers of tokens"),
        ({}, {}, {"tensor_parallel_size": 2}, "1.3.0", "is said as engine.tp_size; give that."),
        ({}, {}, {"atn_backend": "x"}, "1.3.0", "is not a key of the LLM API; did you mean 'attn_"),
        ({}, {}, {"kv_cache_config": {"share": 1}}, "1.3.0", "kv_cache_config.share is not a key of the LLM"),
        ({}, {}, {"model": "x"}, "1.3.0", "is not for you to give: the checkpoint of the model is served"),
        ({}, {}, {"sampler_type": "x"}, LAST, "is not known to have; it is for 1.3.0; leave it out"),
        ({"use_paged_context_fmha": True}, {"tensorrt_llm": {"enable_chunked_context": False}}, {}, "1.3.0",
         "both say enable_chunked_prefill of the LLM API, and not the same; leave one out."),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_with_what_can(
    options: dict[str, Any], parameters: dict[str, Any], args: dict[str, Any], version: str, sentence: str
) -> None:
    with pytest.raises(FleetError) as refused:
        config(options, parameters, args, version)
    assert sentence in str(refused.value) and str(refused.value).endswith((".", "?"))


@pytest.mark.parametrize("option", sorted(ENGINE_OPTIONS))
def test_no_option_of_an_engine_is_dropped(option: str) -> None:
    """It is said, or it is refused."""
    kind = ENGINE_OPTIONS[option]
    values = [{"int": 2, "float": 0.5, "bool": True, "list": ["x"]}.get(kind["type"], "x")]
    value = next(one for one in kind.get("choices", values) if one)
    value = {"dtype": "auto", "kv_cache_type": "paged", "kv_cache_dtype": "fp8"}.get(option, value)
    if option in engine_ways():
        said = config({option: value})
        assert said != config() or not engine_ways()[option]
    elif value != "disable":
        with pytest.raises(FleetError):
            config({option: value})


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--log_level=debug", ""),
        ("--tool_parser=qwen3", ""),
        ("--port=5", "which the unit gives itself"),
        ("--extra_llm_api_options=/x", "which the unit gives itself"),
        ("--tp_size=2", "which the file of the LLM API says; give it in engine or llm_args"),
        ("--log-level=debug", "1.3.0 is not known to have; did you mean 'log_level'?"),
        ("--served_model_name=x", "is not known to have"),
    ],
)
def test_further_arguments_are_those_that_the_file_cannot_say(argument: str, sentence: str) -> None:
    if not sentence:
        check_arguments(release("1.3.0"), [argument], "m-0: extra_args")
        return
    with pytest.raises(FleetError) as refused:
        check_arguments(release("1.3.0"), [argument], "m-0: extra_args")
    assert str(refused.value).startswith("m-0: extra_args has --") and sentence in str(refused.value)


def test_a_whole_file_is_judged_by_its_keys() -> None:
    check_keys(release("1.3.0"), config(args={"lora_config": {"anything": 1}}), "parameters")
    for given, sentence in (
        ({"tokenizer": "x"}, "tokenizer of the checkpoint"),
        ({"kv_cache_config": {"x": 1}}, "x of"),
    ):
        with pytest.raises(FleetError) as refused:
            check_keys(release("1.3.0"), given, "parameters")
        assert sentence in str(refused.value)


def test_what_becomes_of_each_option_where_a_model_crosses_over() -> None:
    options = {
        "tp_size": 2,
        "dtype": "float16",
        "gemm_plugin": "auto",
        "kv_cache_type": "paged",
        "max_beam_width": None,
    }
    parameters = {"tensorrt_llm": {"enable_kv_cache_reuse": True}, "postprocessing": {"tokenizer_dir": "/x"}}
    found = crossing(release("1.3.0"), options, parameters)
    assert [(line["option"], line["fate"]) for line in found] == [
        ("engine.tp_size", "changes"),
        ("engine.dtype", "survives"),
        ("engine.gemm_plugin", "goes"),
        ("engine.kv_cache_type", "survives"),
        ("repository.parameters.tensorrt_llm.enable_kv_cache_reuse", "changes"),
        ("repository.parameters.postprocessing.tokenizer_dir", "goes"),
    ]
    assert [line["becomes"] for line in found[:2]] == ["tensor_parallel_size: 2", "dtype: float16"]
    assert found[3]["becomes"] == "always so" and "makes none" in found[2]["becomes"]
