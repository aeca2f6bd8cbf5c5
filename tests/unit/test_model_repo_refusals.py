# SPDX-License-Identifier: GPL-3.0-or-later
"""Every mistake that can be seen before Triton starts is refused, with a sentence that says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._template_schema import validate_parameters
from unit.model_repo_bed import Bed

LLM, BLS, PRE, POST = "tensorrt_llm", "tensorrt_llm_bls", "preprocessing", "postprocessing"

# (release, parameters, what the sentence says). These need neither engine nor tokenizer: the controller finds them.
BAD_PARAMETERS: list[tuple[str, dict[str, Any], str]] = [
    # names
    ("1.2.1", {LLM: {"batch_scheduler_polcy": "x"}}, "did you mean 'batch_scheduler_policy'?"),
    ("1.2.1", {LLM: {"max_tokens_in_kv_cache": 1}}, "did you mean 'max_tokens_in_paged_kv_cache'?"),
    ("1.2.1", {LLM: {"zzz": 1}}, "is not a parameter of tensorrt_llm in any release; release 1.2.1 has batch_sched"),
    ("1.2.1", {PRE: {"decoupled_mode": True}}, "it is one of tensorrt_llm and tensorrt_llm_bls; give it there"),
    ("1.2.1", {"ensembl": {}}, "parameters.ensembl is not a model of the repository; did you mean 'ensemble'?"),
    ("1.2.1", {LLM: [1]}, "parameters.tensorrt_llm is [1]; it takes a mapping of parameter names"),
    # releases
    ("0.8.0", {LLM: {"decoding_mode": "top_k"}}, "exists from release 0.9.0 on and the release is 0.8.0"),
    ("0.7.2", {LLM: {"gpu_device_ids": "0"}}, "exists from release 0.8.0 on"),
    ("0.13.0", {LLM: {"cross_kv_cache_fraction": 0.4}}, "exists from release 0.14.0 on"),
    ("0.16.0", {LLM: {"logits_datatype": "TYPE_FP16"}}, "is 'TYPE_FP16', but the parameter exists from release 0.17.0"),
    ("0.9.0", {LLM: {"triton_backend": "python"}}, "exists from release 0.10.0 on"),
    ("0.8.0", {PRE: {"add_special_tokens": True}}, "exists from release 0.9.0 on"),
    ("0.11.0", {LLM: {"max_attention_window_size": "2048,4096"}}, "before release 0.13.0 it takes one number"),
    ("0.11.0", {LLM: {"gpu_device_ids": "0,1;2,3"}}, "before release 0.12.0 it takes one list, without ';'"),
    ("0.9.0", {LLM: {"decoding_mode": "medusa"}}, "it takes one of top_k, top_p, top_k_top_p, beam_search"),
    ("0.13.0", {LLM: {"decoding_mode": "eagle"}}, "beam_search, medusa"),
    ("0.7.2", {PRE: {"tokenizer_type": "sp"}}, "it takes one of auto, llama, t5"),
    # types
    ("1.2.1", {LLM: {"max_beam_width": "wide"}}, "is 'wide'; it takes a whole number of at least 1"),
    ("1.2.1", {LLM: {"max_beam_width": 1.0}}, "is 1.0; it takes a whole number"),
    ("1.2.1", {LLM: {"max_beam_width": True}}, "is True; it takes a whole number"),
    ("1.2.1", {LLM: {"max_beam_width": [1]}}, "is [1]; it takes a whole number"),
    ("1.2.1", {LLM: {"enable_kv_cache_reuse": "yes"}}, "is 'yes'; it takes true or false"),
    ("1.2.1", {LLM: {"enable_kv_cache_reuse": 2}}, "is 2; it takes true or false"),
    ("1.2.1", {LLM: {"decoupled_mode": "TRUE"}}, "is 'TRUE'; it takes true or false"),
    ("1.2.1", {BLS: {"accumulate_tokens": "Truelogits_datatype:TYPE_FP32"}}, "it takes true or false"),
    ("1.2.1", {LLM: {"kv_cache_free_gpu_mem_fraction": "most"}}, "is 'most'; it takes a number above 0 up to 1"),
    ("1.2.1", {LLM: {"kv_cache_free_gpu_mem_fraction": "nan"}}, "is 'nan'; it takes a number above 0 up to 1"),
    ("1.2.1", {LLM: {"medusa_choices": "0, 0"}}, "it takes branches such as {0, 0, 0}, {0, 1}"),
    ("1.2.1", {LLM: {"eagle_choices": [["a"]]}}, "it takes branches such as"),
    ("1.2.1", {LLM: {"gpu_device_ids": "a,b"}}, "is 'a'; it takes a whole number of at least 0"),
    ("1.2.1", {LLM: {"gpu_device_ids": ""}}, "is empty"),
    ("1.2.1", {BLS: {"tensorrt_llm_draft_model_name": "a b"}}, "a model's name has letters, digits"),
    # ranges
    ("1.2.1", {LLM: {"kv_cache_free_gpu_mem_fraction": 0}}, "is 0; it takes a number above 0 up to 1"),
    ("1.2.1", {LLM: {"kv_cache_free_gpu_mem_fraction": 1.01}}, "is 1.01; it takes a number above 0 up to 1"),
    ("1.2.1", {LLM: {"gpu_weights_percent": 90}}, "is 90; it takes a number from 0 up to 1"),
    ("1.2.1", {LLM: {"max_queue_size": -1}}, "is -1; it takes a whole number of at least 0"),
    ("1.2.1", {LLM: {"triton_max_batch_size": 0}}, "is 0; it takes a whole number of at least 1"),
    ("1.2.1", {BLS: {"bls_instance_count": 0}}, "is 0; it takes a whole number of at least 1"),
    ("1.2.1", {LLM: {"max_tokens_in_paged_kv_cache": 1 << 40}}, "more than upstream's 32-bit number holds"),
    ("1.2.1", {LLM: {"participant_ids": "0,1"}}, "is '0'; it takes a whole number of at least 1"),
    ("1.2.1", {LLM: {"gpu_device_ids": "0,0"}}, "names 0 twice"),
    # choices
    ("1.2.1", {LLM: {"batch_scheduler_policy": "max_utilisation"}}, "did you mean 'max_utilization'?"),
    ("1.2.1", {LLM: {"batching_strategy": "inflight"}}, "it takes one of inflight_fused_batching, inflight_batching"),
    ("1.2.1", {LLM: {"encoder_input_features_data_type": "float16"}}, "it takes one of TYPE_FP16, TYPE_BF16"),
    ("1.2.1", {LLM: {"guided_decoding_backend": "outlines"}}, "it takes 'xgrammar' only"),
    # text
    ("1.2.1", {PRE: {"tokenizer_dir": "meta-llama/Llama-2-7b-hf"}}, "it takes an absolute path of the host"),
    ("1.2.1", {LLM: {"engine_dir": "/engines/../secret"}}, "it takes a path without '..'"),
    ("1.2.1", {LLM: {"engine_dir": "${ENGINE_DIR}"}}, "still holds a placeholder"),
    ("1.2.1", {LLM: {"engine_dir": "/a\nmax_batch_size: 3"}}, "control characters"),
    ("1.2.1", {LLM: {"engine_dir": " /a"}}, "blanks around it"),
    # one parameter under two names
    ("1.2.1", {LLM: {"gpt_model_type": "V1", "batching_strategy": "inflight_batching"}}, "another name of the same"),
    ("0.19.0", {PRE: {"visual_model_path": "/a", "multimodal_model_path": "/b"}}, "another name of the same"),
    # the release itself
    ("0.4.0", {}, "TensorRT-LLM release '0.4.0' is not known"),
    ("1.3.0", {}, "TensorRT engines ended with release 1.2.1"),
]  # fmt: skip


def assert_a_sentence(text: str) -> None:
    """One line that ends as a sentence does, without Python's own words."""
    assert "\n" not in text and text[-1] in ".?" and "Traceback" not in text and "Error(" not in text


@pytest.mark.parametrize(("release", "parameters", "says"), BAD_PARAMETERS)
def test_a_bad_parameter_is_refused_on_the_controller(release: str, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(FleetError, match=re.escape(says)) as refusal:
        validate_parameters(release, "inflight_batcher_llm", parameters)
    assert_a_sentence(str(refusal.value))


def parameters(**given: Any) -> Callable[[Bed], Any]:
    return lambda bed: bed.repository(bed.entry(parameters=given)).present()


def streaming(**given: Any) -> Callable[[Bed], Any]:
    return lambda bed: bed.repository(bed.entry(streaming=True, parameters=given)).present()


def engine(given: dict[str, Any] | None = None, **changes: Any) -> Callable[[Bed], Any]:
    def act(bed: Bed) -> Any:
        bed.engine(**changes)
        return bed.repository(bed.entry(parameters=given or {})).present()

    return act


def entries(*given: dict[str, Any]) -> Callable[[Bed], Any]:
    return lambda bed: bed.repository(
        *(bed.entry(label=f"entries[{index}].parameters", **one) for index, one in enumerate(given))
    ).present()


def edited(model: str, old: str, new: str) -> Callable[[Bed], Any]:
    """A template that somebody changed by hand."""

    def act(bed: Bed) -> Any:
        path = bed.templates() / "all_models" / "inflight_batcher_llm" / model / "config.pbtxt"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        return bed.present()

    return act


def removed(*names: str) -> Callable[[Bed], Any]:
    def act(bed: Bed) -> Any:
        for name in names:
            (bed.path / name).unlink()
        return bed.present()

    return act


def options(**given: Any) -> Callable[[Bed], Any]:
    return lambda bed: bed.repository(**given).present()


def older(release: str, **given: Any) -> Callable[[Bed], Any]:
    def act(bed: Bed) -> Any:
        bed.standard(release)
        return bed.repository(bed.entry(streaming=True, parameters=given), release=release).present()

    return act


# (what is done, what the sentence says)
CONTRADICTIONS: list[tuple[Callable[[Bed], Any], str]] = [
    # against the engine
    (parameters(tensorrt_llm={"triton_max_batch_size": 9}), "contradicts max_batch_size 8 (from {engine}/config.json"),
    (parameters(ensemble={"triton_max_batch_size": 16}), "triton_max_batch_size 16 of ensemble (from parameters"),
    (parameters(tensorrt_llm={"max_beam_width": 2}), "contradicts max_beam_width 1 (from {engine}/config.json"),
    (parameters(tensorrt_llm={"gpu_device_ids": "0,1"}), "contradicts world size 1 (from {engine}/config.json"),
    (parameters(tensorrt_llm={"gpu_device_ids": "0;1"}), "for 2 instances, but the template of tensorrt_llm has one"),
    (parameters(tensorrt_llm={"participant_ids": "1,2"}), "contradicts world size 1"),
    (parameters(tensorrt_llm={"num_nodes": 2}), "an engine cannot span more nodes than it has ranks"),
    (parameters(tensorrt_llm={"cross_kv_cache_fraction": 0.5}), "contradicts a decoder-only engine"),
    (parameters(tensorrt_llm={"max_tokens_in_paged_kv_cache": 2047}), "contradicts one sequence of 2048 tokens"),
    (engine({LLM: {"max_tokens_in_paged_kv_cache": 2048}}, build={"max_seq_len": 2049}), "one sequence of 2112 tokens"),
    (engine({LLM: {"enable_kv_cache_reuse": True}}, plugin={"use_paged_context_fmha": False}), "use_paged_context"),
    (engine({LLM: {"enable_chunked_context": True}}, plugin={"use_paged_context_fmha": "disable"}), "use_paged"),
    (engine(plugin={"paged_kv_cache": False}), "in-flight batching needs an engine built with a paged KV cache"),
    (engine(build={"kv_cache_type": "CONTINUOUS"}), "contradicts a KV cache that is not paged"),
    (engine(pretrained={"vocab_size": 2}), "contradicts a vocabulary of 2 (from {engine}/config.json"),
    (engine(version="0.19.0"), "was built by TensorRT-LLM 0.19.0"),
    (engine(pretrained={"architecture": "DecoderModel"}), "but no encoder_engine_dir is given"),
    (lambda bed: bed.repository(bed.entry(gpu_memory_mib=1)).present(), "one sequence takes 2048"),
    # streaming
    (streaming(tensorrt_llm={"decoupled_mode": False}), "contradicts true (from streaming)"),
    (streaming(tensorrt_llm_bls={"decoupled_mode": False}), "decoupled_mode False of tensorrt_llm_bls"),
    (
        parameters(tensorrt_llm={"decoupled_mode": True}, tensorrt_llm_bls={"decoupled_mode": False}),
        "contradicts true (from parameters.tensorrt_llm.decoupled_mode)",
    ),
    (streaming(tensorrt_llm={"batching_strategy": "V1"}), "V1 batching answers whole requests only"),
    (older("0.8.0", tensorrt_llm={"batch_scheduler_policy": "max_utilization"}), "falls back to guaranteed_no_evict"),
    # decoding
    (
        engine({LLM: {"max_beam_width": 4}, BLS: {"accumulate_tokens": True}}, build={"max_beam_width": 4}),
        "tokens are accumulated for a beam width of 1 only",
    ),
    (
        engine({LLM: {"max_beam_width": 4, "decoding_mode": "top_k"}}, build={"max_beam_width": 4}),
        "take decoding_mode beam_search for beams",
    ),
    (parameters(tensorrt_llm={"decoding_mode": "lookahead"}), "but lookahead_window_size and lookahead_ngram_size and"),
    (parameters(tensorrt_llm={"decoding_mode": "top_k", "medusa_choices": "{0}"}), "with decoding_mode medusa only"),
    (parameters(tensorrt_llm={"guided_decoding_backend": "xgrammar"}), "xgrammar_tokenizer_info_path is not given"),
    # types and directories that have to agree
    (
        parameters(tensorrt_llm={"logits_datatype": "TYPE_FP32"}, ensemble={"logits_datatype": "TYPE_FP16"}),
        "the tensor passes between them",
    ),
    (parameters(postprocessing={"tokenizer_dir": "/other"}), "both have to use the same tokenizer"),
    (parameters(tensorrt_llm={"engine_dir": "/other"}), "contradicts '{engine}' (from the option engine_dir)"),
    # the sets of models
    (lambda bed: bed.repository(bed.entry(models=("ensemble",))).present(), "it needs tensorrt_llm"),
    (lambda bed: bed.repository(bed.entry(models=(LLM, "ensmble"))).present(), "models names 'ensmble'"),
    (
        lambda bed: bed.repository(bed.entry(models=(PRE, LLM, "ensemble"))).present(),
        "ensemble calls postprocessing in ensemble_scheduling, but the repository holds",
    ),
    (lambda bed: bed.repository(bed.entry(models=(LLM, POST, BLS))).present(), "tensorrt_llm_bls calls preprocessing"),
    (
        lambda bed: bed.repository(bed.entry(models=(LLM,), parameters={BLS: {"bls_instance_count": 1}})).present(),
        "but models leaves tensorrt_llm_bls out",
    ),
    (parameters(tensorrt_llm_bls={"tensorrt_llm_model_name": "llm"}), "tensorrt_llm_bls calls llm"),
    (parameters(tensorrt_llm_bls={"tensorrt_llm_draft_model_name": "draft"}), "tensorrt_llm_bls calls draft"),
    (parameters(ensemble={"triton_max_batch_size": 8}, preprocessing={"triton_max_batch_size": 4}), "is over max_bat"),
    (entries({}, {}), "have the same prefix ''"),
    (entries({}, {"prefix": "b/"}), "prefix is 'b/'; it names directories"),
    (
        entries(
            {"parameters": {LLM: {"gpu_device_ids": "0"}}},
            {"prefix": "b_", "parameters": {LLM: {"gpu_device_ids": "0"}}},
        ),
        "both name 0, and models of one repository must not share it",
    ),
    (
        lambda bed: bed.standard("0.8.0").repository(bed.entry(), bed.entry(prefix="b_"), release="0.8.0").present(),
        "cannot serve several models from one repository; take release 0.9.0 or newer",
    ),
    # what is not on the host
    (options(templates="/nowhere"), "The directory of templates /nowhere does not exist"),
    (options(templates=None, image=None), "Neither templates nor image is given"),
    (lambda bed: bed.repository(templates=str(bed.path)).present(), "holds no inflight_batcher_llm templates"),
    (removed("engine/config.json"), "holds no config.json, so it is no TensorRT-LLM engine"),
    (removed("engine/rank0.engine"), "rank0.engine is missing"),
    (removed("checkpoint/tokenizer.json"), "holds no tokenizer"),
    (lambda bed: bed.repository(bed.entry(engine_dir="/nowhere")).present(), "/nowhere does not exist; build the"),
    (lambda bed: bed.repository(bed.entry(engine_dir=None)).present(), "engine_dir is missing"),
    (lambda bed: bed.repository(bed.entry(tokenizer_dir=None)).present(), "tokenizer_dir is missing"),
    (lambda bed: bed.repository(bed.entry(tokenizer_dir="/nowhere")).present(), "bring the checkpoint onto the host"),
    (lambda bed: bed.repository(bed.entry(engine_dir=str(bed.tokenizer()))).present(), "has neither build_config nor"),
    (lambda bed: (bed.tokenizer(config="{"), bed.present()), "config.json cannot be read as JSON"),
    (options(name="a/b"), "name is 'a/b'; it names directories"),
    (options(layout="llmap"), "layout is 'llmap'; expected one of inflight_batcher_llm, llmapi"),
    # templates that are not the release's
    (
        lambda bed: bed.standard("0.8.0").repository(release="0.8.0", templates=str(bed.templates("1.2.1"))).present(),
        "asks for ${max_queue_delay_microseconds}, which release 0.8.0 does not have",
    ),
    (
        lambda bed: bed.repository(
            bed.entry(parameters={LLM: {"num_nodes": 1}}), templates=str(bed.templates("0.8.0"))
        ).present(),
        "has no ${num_nodes}; give the templates of release 1.2.1",
    ),
    (edited("tensorrt_llm", "dims: [ -1 ]", "dims: ${what}"), "asks for ${what}, which release 1.2.1 does not have"),
    (edited("ensemble", 'value: "_len"', 'value: "_length"'), "from _len, which nothing makes"),
    (edited("ensemble", '{ key: "QUERY"', '{ key: "QUERRY"'), "maps the input QUERRY of preprocessing, which has none"),
    (edited("ensemble", 'model_name: "postprocessing"', 'model_name: "post"'), "ensemble calls post in ensemble_sched"),
    (edited("ensemble", 'value: "_tokens"', 'value: "_ids"'), "The tensor _ids of ensemble comes from preprocessing"),
    (edited("postprocessing", "TYPE_INT32", "TYPE_INT64"), "(TYPE_INT64) from _tokens (TYPE_INT32)"),
    (
        edited("ensemble", '"text_output" data_type: TYPE_STRING', '"text_output" data_type: TYPE_INT8'),
        "declares its output text_output as TYPE_INT8",
    ),
    (edited("tensorrt_llm", "optional: true", "optional: false"), "does not feed the input seed of tensorrt_llm"),
    (edited("preprocessing", 'name: "preprocessing"', 'name: "pre"'), "The configuration of preprocessing calls it"),
    (edited("preprocessing", "kind: KIND_CPU", "kind: KIND_TPU"), "takes one of KIND_AUTO"),
    (
        edited("ensemble", 'platform: "ensemble"', 'platform: "ensemble" model_transaction_policy { decoupled: true }'),
        "is decoupled (from its model_transaction_policy), but none of the models",
    ),
    (edited("tensorrt_llm_bls", "decoupled: ${decoupled_mode}", "decoupled: true"), "set both with the option"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "says"), CONTRADICTIONS, ids=[says[:50] for _, says in CONTRADICTIONS])
def test_a_contradiction_is_refused_with_both_sides(act: Callable[[Bed], Any], says: str, tmp_path: Path) -> None:
    bed = Bed(tmp_path).standard()
    says = says.replace("{engine}", str(tmp_path / "engine"))
    with pytest.raises(FleetError, match=re.escape(says)) as refusal:
        act(bed)
    assert_a_sentence(str(refusal.value))
    assert not list(bed.root.glob("repositories/*/*")), "nothing may be left on the host"


def test_there_are_at_least_sixty_of_them() -> None:
    assert len(BAD_PARAMETERS) + len(CONTRADICTIONS) >= 60
