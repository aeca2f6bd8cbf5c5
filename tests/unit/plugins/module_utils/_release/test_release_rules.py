# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release's tools would stop at, or build wrongly from, is refused before; what they can do is not."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.cli import Paths, plan
from ansible_collections.trtllm.fleet.plugins.module_utils._release.lookup import engine_releases
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release
from ansible_collections.trtllm.fleet.plugins.module_utils._release.rules import check_layers

PATHS = Paths("/c", "/v", "/e")


def commands(
    version: str, family: str, stored: str | None = "float16", architecture: str = "", **options: Any
) -> list[str]:
    """Each command as one line, for a checkpoint *stored* in a precision."""
    made = plan(release(version), family, options, PATHS, checkpoint_dtype=stored, architecture=architecture)
    return [" ".join(command.argv) for command in made.commands]


def refusal(version: str, family: str = "llama", **options: Any) -> str:
    with pytest.raises(FleetError) as refused:
        commands(version, family, **options)
    return str(refused.value)


# -- layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.7.1", "0.8.0", "0.15.0", "0.16.0"])
def test_an_engine_without_its_last_layers_is_not_built(version: str) -> None:
    with pytest.raises(FleetError) as refused:
        check_layers(release(version), 5, 2)
    assert str(refused.value) == (
        f"The model's 5 layers cannot be split evenly over pp_size 2, and TensorRT-LLM {version} builds an engine "
        "without those left over; pp_size can be 1, 5."
    )
    check_layers(release(version), 6, 2)


def test_layers_left_over_are_built_by_later_releases() -> None:
    with pytest.raises(FleetError, match=r"whether TensorRT-LLM 0\.19\.0 builds those left over is not established"):
        check_layers(release("0.19.0"), 5, 2)
    for version in ("1.0.0", LAST):
        check_layers(release(version), 5, 2)


def test_the_fate_of_layers_is_known_for_every_release() -> None:
    for row in engine_releases():
        check_layers(row, 4, 2)


# -- precision ---------------------------------------------------------------------------------------------


def test_auto_is_the_precision_that_the_converter_writes() -> None:
    """Up to 0.14.0 converters write float16 unless told otherwise, whatever the checkpoint has."""
    convert, build = commands("0.10.0", "llama", "bfloat16", gemm_plugin="auto", gpt_attention_plugin="auto")
    assert "--dtype" not in convert
    assert "--gemm_plugin float16" in build
    assert "--gpt_attention_plugin float16" in build
    convert, build = commands("0.10.0", "llama", "bfloat16", gemm_plugin="auto", dtype="auto")
    assert "--dtype bfloat16" in convert
    assert "--gemm_plugin bfloat16" in build
    quantize, build = commands("0.10.0", "llama", "bfloat16", gemm_plugin="auto", qformat="fp8")
    assert "bfloat16" not in quantize + build


def test_auto_is_the_checkpoints_where_the_converter_is_told_it() -> None:
    for family in ("gemma", "gpt2"):
        version = {"gemma": "0.9.0", "gpt2": "0.8.0"}[family]
        convert, build = commands(version, family, "bfloat16", gemm_plugin="auto")
        assert "bfloat16" in convert
        assert "gemm_plugin bfloat16" in build


# -- no needless refusal -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("0.9.0", "use_smooth_quant_plugin"),
        ("0.11.0", "use_smooth_quant_plugin"),
        ("0.12.0", "smoothquant"),
        (LAST, "smoothquant"),
    ],
)
def test_gemma_is_smoothed_and_calibrates_with_its_tokenizer(version: str, name: str) -> None:
    convert, _ = commands(version, "gemma", smoothquant=0.5, per_channel=True, per_token=True)
    assert f"--{name} 0.5" in convert
    assert "--per_channel" in convert
    assert "--per_token" in convert
    assert "--tokenizer_dir /c/tokenizer.model" in convert
    assert "tokenizer" not in " ".join(commands(version, "gemma"))


def test_gemmas_weights_alone_have_a_precision_where_the_converter_has_no_default() -> None:
    assert "--use_weight_only --weight_only_precision int8" in commands(LAST, "gemma", use_weight_only=True)[0]


@pytest.mark.parametrize("version", ["0.9.0", "0.10.0"])
def test_phi_is_split_when_it_is_built(version: str) -> None:
    convert, build = commands(version, "phi", tp_size=2, pp_size=2)
    assert "_size" not in convert
    assert "--pp_size 2" in build
    assert "--tp_size 2" in build
    assert "tp_size" not in commands(version, "llama", tp_size=2)[1], "others are split by their converter alone"
    assert "tp_size" in commands("0.11.0", "phi", tp_size=2)[0]


@pytest.mark.parametrize("version", ["0.7.1", "0.8.0"])
def test_gpt2_is_smoothed_by_the_converter_and_the_builder_is_told(version: str) -> None:
    convert, build = commands(version, "gpt2", smoothquant=0.5, per_channel=True)
    assert "--smoothquant 0.5" in convert
    assert "--use_smooth_quant" in build
    assert "--per_channel" in build
    assert "--use_smooth_quant" in commands(version, "gpt2", smoothquant=0.0)[1]
    assert "smooth" not in " ".join(commands(version, "gpt2"))


def test_ranks_have_the_name_and_the_number_that_each_tool_wants() -> None:
    assert "--tensor-parallelism 2" in commands("0.8.0", "gpt2", tp_size=2)[0]
    assert "--world_size 2" in commands("0.8.0", "gpt2", tp_size=2)[1]
    assert "--world-size 2" in commands("0.9.0", "gemma", tp_size=2)[0]
    assert "--pp_size 3 --tp_size 2 " in commands("0.7.1", "llama", tp_size=2, pp_size=3, workers=1)[0] + " "
    assert "--world_size 6" in commands("0.7.1", "llama", tp_size=2, pp_size=3)[0]
    assert "--world_size 3" in commands("0.7.1", "llama", pp_size=3)[0]
    assert "_size" not in commands("0.7.1", "llama", tp_size=1, pp_size=1)[0]


# -- dead at the start of the build ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "family", "options", "sentence"),
    [
        ("0.10.0", "llama", {"log_level": "debug"}, "'debug', which TensorRT-LLM 0.10.0 does not know"),
        ("0.7.1", "llama", {"log_level": "debug"}, "'debug', which TensorRT-LLM 0.7.1 does not know"),
        ("0.9.0", "gpt2", {"log_level": "debug"}, "'debug', which TensorRT-LLM 0.9.0 does not know"),
        ("0.12.0", "llama", {"log_level": "trace"}, "'trace', which TensorRT-LLM 0.12.0 does not know"),
        ("0.15.0", "llama", {"log_level": "trace"}, f"; 1.0.0 to {LAST} have it"),
        ("1.1.0", "llama", {"streamingllm": True}, "(it knows disable); 0.9.0 to 0.16.0 have it"),
        ("0.16.0", "falcon", {"streamingllm": True}, "0.16.0 has it for llama, mistral, mixtral only"),
        (LAST, "llama", {"pp_reduce_scatter": True}, f"{LAST} has it for mixtral only"),
        (
            "0.10.0", "llama", {"gather_context_logits": True, "max_draft_len": 4},
            "gather_context_logits and max_draft_len do not go together with TensorRT-LLM 0.10.0",
        ),
        (LAST, "llama", {"gather_all_token_logits": True, "max_draft_len": 4}, "do not go together"),
        (
            "0.9.0", "llama", {"opt_num_tokens": 64, "multiple_profiles": True},
            "opt_num_tokens and multiple_profiles do not go together with TensorRT-LLM 0.9.0",
        ),
    ],
)  # fmt: skip
def test_what_a_tool_takes_and_stops_at_is_refused(
    version: str, family: str, options: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal(version, family, **options)


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("0.11.0", {"log_level": "debug"}),
        ("1.0.0", {"log_level": "trace"}),
        (LAST, {"streamingllm": False}),
        ("0.16.0", {"streamingllm": True}),
        ("0.9.0", {"gather_context_logits": True, "max_draft_len": 4}),
        (LAST, {"gather_context_logits": True, "max_draft_len": 0}),
        (LAST, {"opt_num_tokens": 64, "multiple_profiles": False}),
    ],
)
def test_what_a_tool_can_do_is_not_refused(version: str, options: dict[str, Any]) -> None:
    assert commands(version, "llama", **options)


@pytest.mark.parametrize("version", ["0.7.1", "0.8.0"])
def test_the_old_converter_is_told_which_gpt_it_reads(version: str) -> None:
    assert "--model starcoder" in commands(version, "gpt2", architecture="GPTBigCodeForCausalLM")[0]
    assert "--model santacoder" in commands(version, "gpt2", architecture="GPT2LMHeadCustomModel")[0]
    assert "--model " not in commands(version, "gpt2", architecture="GPT2LMHeadModel")[0]
    assert "starcoder" not in " ".join(commands("0.9.0", "gpt2", architecture="GPTBigCodeForCausalLM"))


# -- sentences ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option", ["dora_plugin", "norm_quant_fusion", "fuse_fp4_quant", "use_nvfp4", "use_weight_only_of_gemma"]
)
def test_what_is_not_established_is_not_told_as_a_fact(option: str) -> None:
    family, option = ("gemma", "use_weight_only") if option.endswith("_of_gemma") else ("llama", option)
    said = refusal("0.20.0", family, **{option: True})
    assert said.startswith(f"Whether TensorRT-LLM 0.20.0 has the option {option} for {family} is not established; ")
    assert f"1.0.0 to {LAST} have it" in said


def test_a_value_that_is_not_established_is_not_told_as_a_fact() -> None:
    assert refusal("0.20.0", gemm_plugin="nvfp4") == (
        "gemm_plugin is 'nvfp4', and whether TensorRT-LLM 0.20.0 knows that is not established (it knows auto, "
        f"float16, float32, bfloat16, int32, fp8, disable); 1.0.0 to {LAST} have it."
    )
    assert "is 'nvfp4', which TensorRT-LLM 0.16.0 does not know" in refusal("0.16.0", gemm_plugin="nvfp4")
    gone = refusal("0.20.0", use_embedding_sharing=True)
    assert gone.startswith("TensorRT-LLM 0.20.0 has no option use_embedding_sharing"), "it was gone in 0.16.0"


def test_an_option_of_the_other_way_says_the_release_the_reason_and_what_to_do() -> None:
    assert refusal("0.16.0", "gemma", pp_size=2) == (
        "TensorRT-LLM 0.16.0 cannot split a gemma model by pp_size: its gemma/convert_checkpoint.py has no such "
        "option; leave pp_size out or raise tp_size."
    )
    assert refusal("0.16.0", "gpt2", cp_size=2).endswith("leave cp_size out or raise tp_size.")
    assert refusal("0.15.0", "gpt2", cp_size=2) == (
        f"TensorRT-LLM 0.15.0 has no option cp_size for gpt2; 0.16.0 to {LAST} have it with qformat. Leave it out or "
        "choose such a release."
    )
    assert refusal("0.13.0", calib_size=8) == (
        f"TensorRT-LLM 0.13.0 has calib_size for llama only together with qformat; 0.14.0 to {LAST} have it here too; "
        "leave calib_size out or set qformat."
    )
    assert refusal(LAST, qformat="fp8", smoothquant=0.5) == (
        f"TensorRT-LLM {LAST} has smoothquant for llama only without qformat, which quantises instead of converting; "
        "leave smoothquant or qformat out."
    )
    assert "max_seq_len is 0; give a number from 1" in refusal("0.10.0", max_seq_len=0)


def test_baichuans_generation_is_not_dropped_in_silence() -> None:
    assert refusal(LAST, "llama", model_version="v2_7b") == (
        "No release has the option model_version for llama; it is known for baichuan. Leave it out."
    )
    assert "model_version for baichuan only without qformat" in refusal(
        LAST, "baichuan", model_version="v2_7b", qformat="int4_awq"
    )
    assert commands(LAST, "baichuan", qformat="int4_awq"), "which needs no generation"
