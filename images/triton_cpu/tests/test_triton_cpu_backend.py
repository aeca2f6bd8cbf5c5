# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend `tensorrtllm` of the CPU image, driven as Triton's stub drives it."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tensorrt_llm import communicator, parameters
from tensorrt_llm.errors import TrtllmError
from tensorrt_llm.mapping import Mapping
from triton_cpu_fakes import (
    GOLDEN,
    FakeError,
    FakeFamily,
    FakeLogger,
    FakeRequest,
    golden_llama,
    make_engine,
    triton_module,
)

PROMPT = golden_llama.prompt_of("gqa")
ANSWER = [int(token) for token in GOLDEN["gqa.continuation"]]
OUTPUTS = {
    "output_ids": "TYPE_INT32", "sequence_length": "TYPE_INT32", "cum_log_probs": "TYPE_FP32",
    "output_log_probs": "TYPE_FP32", "context_logits": "TYPE_FP32", "generation_logits": "TYPE_FP16",
    "num_input_tokens": "TYPE_INT32", "num_output_tokens": "TYPE_INT32", "arrival_time_ns": "TYPE_INT64",
    "first_token_time_ns": "TYPE_INT64", "batch_index": "TYPE_INT32",
}  # fmt: skip


@pytest.fixture(scope="module")
def backend() -> Iterator[ModuleType]:
    """The module, imported with a stand-in for what Triton provides."""
    with triton_module():
        yield importlib.import_module("tensorrt_llm.triton_backend")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_engine("gqa", tmp_path_factory.mktemp("engine"), gather_all_token_logits=True, max_input_len=64)


def model_config(decoupled: bool = True, **given: str) -> dict[str, Any]:
    """A model configuration as Triton hands it over."""
    return {
        "model_transaction_policy": {"decoupled": decoupled},
        "output": [{"name": name, "data_type": kind} for name, kind in OUTPUTS.items()],
        "parameters": {key: {"string_value": value} for key, value in given.items()},
    }


Serve = Callable[..., Any]


@pytest.fixture
def serve(backend: ModuleType, engine: Path) -> Iterator[Serve]:
    """Start models; all are ended afterwards."""
    started = []

    def start(decoupled: bool = True, **given: str) -> Any:
        given = {
            "gpt_model_path": str(engine),
            "exclude_input_in_output": "true",
            "stats_check_period_ms": "5",
            **given,
        }
        model = backend.TritonPythonModel()
        config = json.dumps(model_config(decoupled, **given))
        model.initialize({"model_config": config, "model_name": "tensorrt_llm", "model_version": "1"})
        started.append(model)
        return model

    yield start
    for model in started:
        model.finalize()


def request(count: int = 12, name: str = "", **tensors: Any) -> FakeRequest:
    given = {
        "input_ids": np.array([PROMPT], np.int32),
        "input_lengths": np.array([len(PROMPT)], np.int32),
        "request_output_len": np.array([[count]], np.int32),
    }
    return FakeRequest(name, **{**given, **{key: np.asarray(value) for key, value in tensors.items()}})


def answer(model: Any, asked: FakeRequest) -> list[dict[str, Any]]:
    """The tensors of all responses. Raises the error of an error response."""
    model.execute([asked])
    assert asked.sender.done.wait(30)
    assert [flags for _, flags in asked.sender.responses] == [0] * (len(asked.sender.responses) - 1) + [1]
    responses = [response for response, _ in asked.sender.responses if response is not None]
    for response in responses:
        if response.error:
            raise response.error
    return [response.tensors for response in responses]


@pytest.mark.parametrize("decoupled", [True, False])
def test_one_response_holds_every_declared_output(serve: Serve, decoupled: bool) -> None:
    (tensors,) = answer(serve(decoupled), request())
    assert set(tensors) == set(OUTPUTS)
    assert tensors["output_ids"].tolist() == [[ANSWER]]
    assert tensors["sequence_length"].tolist() == [[12]]
    assert tensors["num_input_tokens"].tolist() == [[20]]
    assert tensors["num_output_tokens"].tolist() == [[12]]
    assert tensors["output_log_probs"].tolist() == [[[0.0] * 12]]
    assert tensors["context_logits"].shape == (1, 1, 1)
    assert tensors["generation_logits"].dtype == np.float16


def test_streaming_ends_with_data_and_the_final_flag(serve: Serve) -> None:
    responses = answer(serve(), request(streaming=[True], return_log_probs=[True]))
    assert [r["output_ids"].tolist() for r in responses] == [[[[token]]] for token in ANSWER]
    assert [int(r["num_output_tokens"][0, 0]) for r in responses] == [1] * 12
    assert responses[-1]["cum_log_probs"] == pytest.approx(
        sum(float(r["output_log_probs"].sum()) for r in responses), abs=1e-4
    )


def test_logits_and_times_where_they_are_asked_for(serve: Serve) -> None:
    asked = request(return_context_logits=[True], return_generation_logits=[True], return_perf_metrics=[True])
    (tensors,) = answer(serve(), asked)
    np.testing.assert_allclose(tensors["context_logits"][0], GOLDEN["gqa.logits"][:20], atol=1e-3)
    np.testing.assert_allclose(tensors["generation_logits"][0, 0], GOLDEN["gqa.logits"][19:31], atol=0.01)
    assert 0 < tensors["arrival_time_ns"][0, 0] < tensors["first_token_time_ns"][0, 0]


def test_the_prompt_is_repeated_where_that_is_wanted(serve: Serve) -> None:
    model = serve(exclude_input_in_output="false")
    assert answer(model, request())[0]["output_ids"].tolist() == [[PROMPT + ANSWER]]
    assert answer(model, request(exclude_input_in_output=[True]))[0]["output_ids"].tolist() == [[ANSWER]]
    assert answer(serve(), request(exclude_input_in_output=[False]))[0]["sequence_length"].tolist() == [[32]]


def test_sampling_inputs_of_all_template_releases(serve: Serve) -> None:
    model = serve()
    sampled = {"runtime_top_k": [8], "temperature": np.array([2.0], np.float32)}
    new = answer(model, request(seed=np.array([7], np.uint64), min_tokens=[4], end_id=[ANSWER[0]], **sampled))
    old = answer(model, request(random_seed=np.array([7], np.uint64), min_length=[4], end_id=[ANSWER[0]], **sampled))
    other = answer(model, request(seed=np.array([8], np.uint64), min_tokens=[4], end_id=[ANSWER[0]], **sampled))
    assert new[0]["output_ids"].tolist() == old[0]["output_ids"].tolist() != other[0]["output_ids"].tolist()
    assert new[0]["sequence_length"][0, 0] >= 4


def test_words_and_bias_arrive(serve: Serve) -> None:
    model = serve()
    stop = np.array([[[ANSWER[2], ANSWER[3]], [2, -1]]], np.int32)
    assert answer(model, request(stop_words_list=stop))[0]["output_ids"].tolist() == [[ANSWER[:4]]]
    bad = np.array([[[ANSWER[0]], [1]]], np.int32)
    assert answer(model, request(bad_words_list=bad))[0]["output_ids"][0, 0, 0] != ANSWER[0]
    bias = np.zeros((1, 97), np.float32)
    bias[0, 42] = 1000
    assert answer(model, request(3, embedding_bias=bias))[0]["output_ids"].tolist() == [[[42] * 3]]


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"input_ids": np.zeros((2, 3), np.int32)}, "Expected batch dimension to be 1 .* got 2"),
        ({"beam_width": [2]}, "Requested beam width 2 exceeds the model's max_beam_width 1"),
        ({"num_return_sequences": [2]}, "num_return_sequences above 1"),
        ({"temperature": [-1.0]}, "temperature is -1"),
        ({"temperature": [[1.0], [2.0]]}, "temperature has 2 elements"),
        ({"request_output_len": [0]}, "request_output_len is 0"),
        ({"lora_task_id": [1]}, "LoRA is not implemented"),
        ({"draft_input_ids": [[1, 2]]}, "speculative decoding"),
        ({"prompt_embedding_table": np.zeros((1, 2, 3))}, "prompt tuning"),
    ],
)
def test_requests_that_cannot_be_served_get_one_error(serve: Serve, tensors: dict[str, Any], text: str) -> None:
    with pytest.raises(FakeError, match=text) as e:
        answer(serve(), request(**tensors))
    assert e.value.code == FakeError.INVALID_ARG


def test_streaming_needs_the_decoupled_policy(serve: Serve) -> None:
    with pytest.raises(FakeError, match="decoupled"):
        answer(serve(decoupled=False), request(streaming=[True]))


def test_a_cancelled_request_ends_as_cancelled(serve: Serve) -> None:
    model, asked = serve(cancellation_check_period_ms="1"), request(190, streaming=[True])
    model.execute([asked])
    while not asked.sender.responses:
        time.sleep(0.001)
    asked.gone = True
    assert asked.sender.done.wait(30)
    last = asked.sender.responses[-1][0]
    assert last is not None and last.error is not None
    assert last.error.code == FakeError.CANCELLED
    assert len(asked.sender.responses) < 190


def test_a_stop_request_ends_its_namesake(serve: Serve) -> None:
    model, asked, stop = serve(), request(190, "r", streaming=[True]), request(1, "r", stop=[True])
    model.execute([asked])
    while not asked.sender.responses:
        time.sleep(0.001)
    assert answer(model, stop)[0]["sequence_length"].tolist() == [[0]]
    assert asked.sender.done.wait(30)
    last = asked.sender.responses[-1][0]
    assert last is not None and last.error is None
    assert sum(r.tensors["num_output_tokens"][0, 0] for r, _ in asked.sender.responses if r) < 190


def test_a_stream_that_ends_by_itself_counts_no_token_twice(serve: Serve) -> None:
    """Its last response brings no token; upstream's backend reports what is new in each."""
    responses = answer(serve(), request(streaming=[True], end_id=[ANSWER[5]]))
    assert [int(r["num_output_tokens"][0, 0]) for r in responses] == [1] * 5 + [0]


def test_metrics_carry_the_names_of_the_real_backend(serve: Serve) -> None:
    FakeFamily.every.clear()
    model = serve(max_tokens_in_paged_kv_cache="512")
    answer(model, request())
    time.sleep(0.1)
    gauges = {
        (family.name, next(iter(gauge.labels.keys() - {"model", "version"})), gauge.labels[label]): gauge.value
        for family in FakeFamily.every
        for gauge in family.gauges
        for label in gauge.labels.keys() - {"model", "version"}
    }
    assert gauges["nv_trt_llm_request_metrics", "request_type", "max"] == 4
    assert gauges["nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "max"] == 16
    assert gauges["nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "tokens_per"] == 32
    assert gauges["nv_trt_llm_general_metrics", "general_type", "iteration_counter"] == 12
    assert gauges["nv_trt_llm_general_metrics", "general_type", "timestamp"] > 1e9
    assert gauges["nv_trt_llm_runtime_memory_metrics", "memory_type", "cpu"] > 1e6
    assert ("nv_trt_llm_inflight_batcher_metrics", "inflight_batcher_specific_metric", "generation_requests") in gauges
    assert {family.gauges[0].labels["model"] for family in FakeFamily.every} == {"tensorrt_llm"}
    FakeFamily.every.clear()
    serve(gpt_model_type="V1")
    assert "nv_trt_llm_v1_metrics" in {family.name for family in FakeFamily.every}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"gpt_model_path": "${engine_dir}"}, "gpt_model_path is not specified; fill engine_dir"),
        ({"gpt_model_path": "/nowhere"}, "/nowhere/config.json does not exist"),
        ({"gpt_model_type": "fast"}, "gpt_model_type is 'fast', expected one of inflight_fused_batching"),
        ({"batch_scheduler_policy": "lifo"}, "batch_scheduler_policy is 'lifo'"),
        (
            {"kv_cache_free_gpu_mem_fraction": "1.5"},
            "kv_cache_free_gpu_mem_fraction is '1.5', expected a number above 0",
        ),
        ({"max_beam_width": "none"}, "max_beam_width is 'none'"),
        ({"exclude_input_in_output": "perhaps"}, "exclude_input_in_output is 'perhaps', expected true or false"),
        ({"decoding_mode": "medusa"}, "decoding_mode is 'medusa'"),
        ({"cross_kv_cache_fraction": "0.5"}, "Do not set crossKvCacheFraction for decoder-only model"),
        ({"max_tokens_in_paged_kv_cache": "64"}, r"maxTokensInPagedKvCache \(64\) must be large enough"),
    ],
)
def test_wrong_parameters_fail_the_load(serve: Serve, given: dict[str, str], text: str) -> None:
    with pytest.raises(FakeError, match=text):
        serve(**given)


def test_what_was_left_unfilled_is_named_once(serve: Serve) -> None:
    FakeLogger.warnings.clear()
    serve(max_beam_width="${max_beam_width}", lora_prefetch_dir="${lora_prefetch_dir}")
    assert FakeLogger.warnings == ["not specified, defaults are used: lora_prefetch_dir, max_beam_width"]


def test_a_world_of_another_size_is_refused_in_the_runtimes_words(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine("gqa", tmp_path, converting=("--tp_size", 2))
    with pytest.raises(TrtllmError, match=r"Assertion failed: mpiSize == tp \* pp \(1 != 2 \* 1\)"):
        communicator.join_world(Mapping(0, 2, 1))
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    config = json.dumps(model_config(gpt_model_path=str(engine)))
    with pytest.raises(FakeError, match=r"mpiSize == tp \* pp \(4 != 2 \* 1\)"):
        backend.TritonPythonModel().initialize({"model_config": config, "model_name": "m", "model_version": "1"})


def test_parameters_have_upstreams_defaults() -> None:
    read = parameters.read_parameters(model_config(gpt_model_path="/e"), lambda text: None)
    assert read == parameters.Parameters(engine_dir="/e")
    assert (read.inflight, read.exclude_input, read.kv_cache_free_fraction) == (True, False, 0.9)
