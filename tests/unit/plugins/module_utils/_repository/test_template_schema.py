# SPDX-License-Identifier: GPL-3.0-or-later
"""One description serves all releases: renames, values that are written as upstream reads them, what is dropped."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import RELEASES, release
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.schema import (
    MODELS,
    MULTIMODAL,
    Parameter,
    normalise,
    parameters_of,
    validate_parameters,
)

INFLIGHT = [version for version, row in RELEASES.items() if row.flow != "llmapi"]


def taken(version: str, model: str, **given: Any) -> tuple[dict[str, str], list[str]]:
    values, notes = normalise(release(version), model, given, "parameters")
    return {name: value.value for name, value in values.items()}, notes


@pytest.mark.parametrize("version", INFLIGHT)
def test_a_former_name_and_the_present_one_mean_the_same_in_every_release(version: str) -> None:
    old = {"gpt_model_type": "V1", "gpt_model_path": "/e", "decoupled": False, "max_batch_size": 4}
    new = {"batching_strategy": "V1", "engine_dir": "/e", "decoupled_mode": False, "triton_max_batch_size": 4}
    assert taken(version, "tensorrt_llm", **old) == taken(version, "tensorrt_llm", **new)


@pytest.mark.parametrize("version", INFLIGHT)
def test_scalars_that_became_mandatory_may_be_given_to_releases_that_fix_them(version: str) -> None:
    values, notes = taken(
        version, "tensorrt_llm", triton_backend="tensorrtllm", max_queue_size=0, logits_datatype="TYPE_FP32",
        encoder_input_features_data_type="TYPE_FP16", prompt_embedding_table_data_type="TYPE_FP16",
    )  # fmt: skip
    known = parameters_of("tensorrt_llm", release(version).key)
    assert set(values) <= set(known) and len(values) + len(notes) == 5
    assert all(f"release {version} has no such parameter" in note for note in notes)


def test_a_retired_parameter_is_dropped_with_a_note() -> None:
    assert taken("0.8.0", "preprocessing", tokenizer_type="llama") == ({"tokenizer_type": "llama"}, [])
    values, notes = taken("0.9.0", "preprocessing", tokenizer_type="sp")
    assert values == {} and "tokenizer_type is not used from release 0.9.0 on" in notes[0]
    assert taken("0.8.0", "tensorrt_llm", max_num_sequences=8)[0] == {}


def test_a_renamed_placeholder_is_known_by_both_names() -> None:
    for version, placeholder in (("0.18.2", "visual_model_path"), ("0.19.0", "multimodal_model_path")):
        for name in ("visual_model_path", "multimodal_model_path"):
            assert taken(version, "preprocessing", **{name: "/v"})[0] == {"multimodal_model_path": "/v"}
        parameter = parameters_of("preprocessing", release(version).key)["multimodal_model_path"]
        assert parameter.placeholder(release(version).key) == placeholder


@pytest.mark.parametrize(
    ("name", "raw", "written"),
    [
        ("enable_kv_cache_reuse", False, "False"),
        ("enable_kv_cache_reuse", "false", "false"),
        ("enable_kv_cache_reuse", 1, "1"),
        ("kv_cache_free_gpu_mem_fraction", 0.5, "0.5"),
        ("kv_cache_free_gpu_mem_fraction", "0.50", "0.50"),
        ("kv_cache_free_gpu_mem_fraction", 1, "1"),
        ("max_beam_width", "4", "4"),
        ("kv_cache_host_memory_bytes", 1 << 40, "1099511627776"),
        ("max_attention_window_size", [2048, 4096], "2048,4096"),
        ("max_attention_window_size", 2048, "2048"),
        ("gpu_device_ids", [0, 1], "0,1"),
        ("gpu_device_ids", [[0, 1], [2, 3]], "0,1;2,3"),
        ("gpu_device_ids", 0, "0"),
        ("gpu_device_ids", "0,1;2,3", "0,1;2,3"),
        ("medusa_choices", [[0], [0, 1]], "{0}, {0, 1}"),
        ("medusa_choices", "{0, 0, 0}, {0, 1}", "{0, 0, 0}, {0, 1}"),
        ("engine_dir", "/models/a b/", "/models/a b/"),
    ],
)
def test_values_are_written_as_upstream_reads_them(name: str, raw: Any, written: str) -> None:
    assert taken(LAST, "tensorrt_llm", **{name: raw})[0] == {name: written}


def test_a_value_of_none_is_a_value_not_given() -> None:
    assert taken(LAST, "tensorrt_llm", max_beam_width=None) == ({}, [])
    validate_parameters(LAST, "inflight_batcher_llm", {"tensorrt_llm": None})


def test_the_llmapi_layout_takes_arguments_of_the_llm() -> None:
    good = {"tensor_parallel_size": 2, "kv_cache_config": {"free_gpu_memory_fraction": 0.5}, "dtype": "auto"}
    validate_parameters("1.3.0", "llmapi", {"tensorrt_llm": good})
    for bad, says in (
        ({"tensor_parallel": 2}, "did you mean 'tensor_parallel_size'"),
        ({"tensor_parallel_size": 0}, "a whole number of at least 1"),
        ({"kv_cache_config": {"free_gpu_memory_fraction": 2}}, "from 0 up to 1"),
        ({"kv_cache_config": {"fraction": 1}}, "kv_cache_config.fraction is not an argument"),
        ({"kv_cache_config": 1}, "takes a mapping"),
        ({"triton_config": {"decoupled": "maybe"}}, "takes true or false"),
        ({"backend": "vllm"}, "takes one of pytorch"),
        ({"dtype": "${DTYPE}"}, "still holds a placeholder"),
    ):
        with pytest.raises(FleetError, match=says):
            validate_parameters(LAST, "llmapi", {"tensorrt_llm": bad})
    with pytest.raises(FleetError, match="preprocessing is not a model of the llmapi repository"):
        validate_parameters(LAST, "llmapi", {"preprocessing": {}})
    with pytest.raises(FleetError, match=r"Release 0\.18\.2 has no llmapi repository"):
        validate_parameters("0.18.2", "llmapi", {})


# -- numbers ------------------------------------------------------------------------------------------------------

# What Triton, upstream and we would not read alike: octal, decimal with blanks, other scripts' digits, signs.
NO_NUMBERS = ["010", "08", "00", "-0", "+1", "1_0", "0x10", "1.0", "1e3", " 1", "1 ", "\u0661", "\uff11", "", "one"]
NUMBERS = [
    pytest.param(version, model, parameter, id=f"{version}-{model}-{parameter.name}")
    for version in ("0.7.1", "0.19.0", LAST)
    for model in (*MODELS, MULTIMODAL)
    for parameter in parameters_of(model, release(version).key).values()
    if parameter.kind == "int"
]


def refused(version: str, model: str, name: str, value: Any) -> str:
    with pytest.raises(FleetError) as refusal:
        taken(version, model, **{name: value})
    text = str(refusal.value)
    assert text.startswith(f"parameters.{model}.{name} is ") and "\n" not in text and len(text) < 250
    return text


@pytest.mark.parametrize(("version", "model", "parameter"), NUMBERS)
def test_a_number_has_one_spelling_and_bounds(version: str, model: str, parameter: Parameter) -> None:
    bits = 64 if parameter.name.endswith("_bytes") else 32
    low, high = parameter.limits.low, parameter.limits.high or 2 ** (bits - 1) - 1
    assert low is not None
    for number in (int(low), int(high)):
        for spelling in (number, str(number)):
            assert taken(version, model, **{parameter.name: spelling})[0] == {parameter.name: str(number)}
    for value in (*NO_NUMBERS, low - 1, high + 1, 10**25, str(10**25), "9" * 5000, 1 << 20000, -(10**25)):
        refused(version, model, parameter.name, value)


@pytest.mark.parametrize("text", ["010", "08", "-010"])
def test_a_leading_zero_is_told_from_other_mistakes(text: str) -> None:
    told = refused(LAST, "ensemble", "triton_max_batch_size", text)
    assert "without leading zeros, which would make it octal" in told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_attention_window_size", "2048,010"),
        ("max_attention_window_size", [2**31]),
        ("gpu_device_ids", "0,01"),
        ("gpu_device_ids", [0, 2**31]),
        ("medusa_choices", "{0, 01}"),
        ("medusa_choices", [[0], [0, 2**31]]),
    ],
)
def test_numbers_in_lists_are_numbers_like_others(name: str, value: Any) -> None:
    refused(LAST, "tensorrt_llm", name, value)


def test_sizes_in_bytes_of_the_llmapi_layout_have_64_bits() -> None:
    for name in ("host_cache_size", "max_gpu_total_bytes"):
        validate_parameters(LAST, "llmapi", {"tensorrt_llm": {"kv_cache_config": {name: 1 << 40}}})
        with pytest.raises(FleetError, match="more than upstream's 64-bit number holds"):
            validate_parameters(LAST, "llmapi", {"tensorrt_llm": {"kv_cache_config": {name: 10**25}}})
