# SPDX-License-Identifier: GPL-3.0-or-later
"""Every mistake that can be seen before Triton starts is refused, with a sentence that says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.entry import EntryRequest
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.schema import validate_parameters
from ansible_collections.trtllm.fleet.plugins.modules import triton_model_repo
from unit.model_repo_fixture import RepositoryFixture

Act = Callable[[RepositoryFixture], Any]
LLM, BLS, PRE, POST = "tensorrt_llm", "tensorrt_llm_bls", "preprocessing", "postprocessing"

# (release, parameters, what the sentence says). These need neither engine nor tokenizer: the controller finds them.
BAD_PARAMETERS: list[tuple[str, dict[str, Any], str]] = [
    # names
    (LAST, {LLM: {"batch_scheduler_polcy": "x"}}, "did you mean 'batch_scheduler_policy'?"),
    (LAST, {LLM: {"max_tokens_in_kv_cache": 1}}, "did you mean 'max_tokens_in_paged_kv_cache'?"),
    (LAST, {LLM: {"zzz": 1}}, f"is not a parameter of tensorrt_llm in any release; release {LAST} has batch_sched"),
    (LAST, {PRE: {"decoupled_mode": True}}, "it is one of tensorrt_llm and tensorrt_llm_bls; give it there"),
    (LAST, {"ensembl": {}}, "parameters.ensembl is not a model of the repository; did you mean 'ensemble'?"),
    (LAST, {LLM: [1]}, "parameters.tensorrt_llm is [1]; it takes a mapping of parameter names"),
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
    (LAST, {LLM: {"max_beam_width": "wide"}}, "is 'wide'; it takes a whole number of at least 1"),
    (LAST, {LLM: {"max_beam_width": 1.0}}, "is 1.0; it takes a whole number"),
    (LAST, {LLM: {"max_beam_width": True}}, "is True; it takes a whole number"),
    (LAST, {LLM: {"max_beam_width": [1]}}, "is [1]; it takes a whole number"),
    (LAST, {LLM: {"enable_kv_cache_reuse": "yes"}}, "is 'yes'; it takes true or false"),
    (LAST, {LLM: {"enable_kv_cache_reuse": 2}}, "is 2; it takes true or false"),
    (LAST, {LLM: {"decoupled_mode": "TRUE"}}, "is 'TRUE'; it takes true or false"),
    (LAST, {BLS: {"accumulate_tokens": "Truelogits_datatype:TYPE_FP32"}}, "it takes true or false"),
    (LAST, {LLM: {"kv_cache_free_gpu_mem_fraction": "most"}}, "is 'most'; it takes a number above 0 up to 1"),
    (LAST, {LLM: {"kv_cache_free_gpu_mem_fraction": "nan"}}, "is 'nan'; it takes a number above 0 up to 1"),
    (LAST, {LLM: {"medusa_choices": "0, 0"}}, "it takes branches such as {0, 0, 0}, {0, 1}"),
    (LAST, {LLM: {"eagle_choices": [["a"]]}}, "it takes branches such as"),
    (LAST, {LLM: {"gpu_device_ids": "a,b"}}, "is 'a'; it takes a whole number of at least 0"),
    (LAST, {LLM: {"gpu_device_ids": ""}}, "is empty"),
    (LAST, {BLS: {"tensorrt_llm_draft_model_name": "a b"}}, "a model's name has letters, digits"),
    # ranges
    (LAST, {LLM: {"kv_cache_free_gpu_mem_fraction": 0}}, "is 0; it takes a number above 0 up to 1"),
    (LAST, {LLM: {"kv_cache_free_gpu_mem_fraction": 1.01}}, "is 1.01; it takes a number above 0 up to 1"),
    (LAST, {LLM: {"gpu_weights_percent": 90}}, "is 90; it takes a number from 0 up to 1"),
    (LAST, {LLM: {"max_queue_size": -1}}, "is -1; it takes a whole number of at least 0"),
    (LAST, {LLM: {"triton_max_batch_size": 0}}, "is 0; it takes a whole number of at least 1"),
    (LAST, {BLS: {"bls_instance_count": 0}}, "is 0; it takes a whole number of at least 1"),
    (LAST, {LLM: {"max_tokens_in_paged_kv_cache": 1 << 40}}, "more than upstream's 32-bit number holds"),
    (LAST, {LLM: {"participant_ids": "0,1"}}, "is '0'; it takes a whole number of at least 1"),
    (LAST, {LLM: {"gpu_device_ids": "0,0"}}, "names 0 twice"),
    # choices
    (LAST, {LLM: {"batch_scheduler_policy": "max_utilisation"}}, "did you mean 'max_utilization'?"),
    (LAST, {LLM: {"batching_strategy": "inflight"}}, "it takes one of inflight_fused_batching, inflight_batching"),
    (LAST, {LLM: {"encoder_input_features_data_type": "float16"}}, "it takes one of TYPE_FP16, TYPE_BF16"),
    (LAST, {LLM: {"guided_decoding_backend": "outlines"}}, "it takes 'xgrammar' only"),
    # text
    (LAST, {PRE: {"tokenizer_dir": "meta-llama/Llama-2-7b-hf"}}, "it takes an absolute path of the host"),
    (LAST, {LLM: {"engine_dir": "/engines/../secret"}}, "; it takes a path without '..'"),
    (LAST, {LLM: {"engine_dir": "${ENGINE_DIR}"}}, "still holds a placeholder"),
    (LAST, {LLM: {"engine_dir": "/a\nmax_batch_size: 3"}}, "control characters"),
    (LAST, {LLM: {"engine_dir": " /a"}}, "blanks around it"),
    # one parameter under two names
    (LAST, {LLM: {"gpt_model_type": "V1", "batching_strategy": "inflight_batching"}}, "another name of the same"),
    ("0.19.0", {PRE: {"visual_model_path": "/a", "multimodal_model_path": "/b"}}, "another name of the same"),
    # the release itself
    ("0.4.0", {}, "TensorRT-LLM release '0.4.0' is not known"),
    ("1.3.0", {}, f"TensorRT engines ended with release {LAST}"),
]  # fmt: skip


def assert_a_sentence(text: str) -> None:
    """One line that ends as a sentence does, without Python's own words."""
    assert "\n" not in text and text[-1] in ".?" and "Traceback" not in text and "Error(" not in text


@pytest.mark.parametrize(("release", "parameters", "says"), BAD_PARAMETERS)
def test_a_bad_parameter_is_refused_on_the_controller(release: str, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(FleetError, match=re.escape(says)) as refusal:
        validate_parameters(release, "inflight_batcher_llm", parameters)
    assert_a_sentence(str(refusal.value))


def parameters(**given: Any) -> Act:
    return lambda host: host.repository(host.entry(parameters=given)).present()


def streaming(**given: Any) -> Act:
    return lambda host: host.repository(host.entry(streaming=True, parameters=given)).present()


def engine(given: dict[str, Any] | None = None, **changes: Any) -> Act:
    def act(host: RepositoryFixture) -> Any:
        host.engine(**changes)
        return host.repository(host.entry(parameters=given or {})).present()

    return act


def entries(*given: dict[str, Any]) -> Act:
    return lambda host: host.repository(
        *(host.entry(label=f"entries[{index}].parameters", **one) for index, one in enumerate(given))
    ).present()


def edited(model: str, old: str, new: str, given: dict[str, Any] | None = None) -> Act:
    """A template that somebody changed by hand."""

    def act(host: RepositoryFixture) -> Any:
        path = host.templates() / "all_models" / "inflight_batcher_llm" / model / "config.pbtxt"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        return host.present(**(given or {}))

    return act


def removed(*names: str) -> Act:
    def act(host: RepositoryFixture) -> Any:
        for name in names:
            (host.path / name).unlink()
        return host.present()

    return act


def options(**given: Any) -> Act:
    return lambda host: host.repository(**given).present()


def older(release: str, **given: Any) -> Act:
    def act(host: RepositoryFixture) -> Any:
        host.standard(release)
        return host.repository(host.entry(streaming=True, parameters=given), release=release).present()

    return act


# (what is done, what the sentence says)
CONTRADICTIONS: list[tuple[Act, str]] = [
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
    (lambda host: host.repository(host.entry(gpu_memory_mib=1)).present(), "one sequence takes 2048"),
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
    # types and directories that have to agree
    (
        parameters(tensorrt_llm={"logits_datatype": "TYPE_FP32"}, ensemble={"logits_datatype": "TYPE_FP16"}),
        "the tensor passes between them",
    ),
    (parameters(postprocessing={"tokenizer_dir": "/other"}), "both have to use the same tokenizer"),
    (parameters(tensorrt_llm={"engine_dir": "/other"}), "contradicts '{engine}' (from the option engine_dir)"),
    # the sets of models
    (lambda host: host.repository(host.entry(models=("ensemble",))).present(), "it needs tensorrt_llm"),
    (lambda host: host.repository(host.entry(models=(LLM, "ensmble"))).present(), "models names 'ensmble'"),
    (
        lambda host: host.repository(host.entry(models=(PRE, LLM, "ensemble"))).present(),
        "ensemble calls postprocessing in ensemble_scheduling, but the repository holds",
    ),
    (
        lambda host: host.repository(host.entry(models=(LLM, POST, BLS))).present(),
        "tensorrt_llm_bls calls preprocessing",
    ),
    (
        lambda host: host.repository(host.entry(models=(LLM,), parameters={BLS: {"bls_instance_count": 1}})).present(),
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
        lambda host: (
            host.standard("0.8.0").repository(host.entry(), host.entry(prefix="b_"), release="0.8.0").present()
        ),
        "cannot serve several models from one repository; take release 0.9.0 or newer",
    ),
    # what is not on the host
    (options(templates="/nowhere"), "The directory of templates /nowhere does not exist"),
    (options(templates=None, image=None), "Neither templates nor image is given"),
    (lambda host: host.repository(templates=str(host.path)).present(), "holds no inflight_batcher_llm templates"),
    (removed("engine/config.json"), "holds no config.json, so it is no TensorRT-LLM engine"),
    (removed("engine/rank0.engine"), "rank0.engine is missing"),
    (removed("checkpoint/tokenizer.json"), "holds no tokenizer"),
    (lambda host: host.repository(host.entry(engine_dir="/nowhere")).present(), "/nowhere does not exist; build the"),
    (lambda host: host.repository(host.entry(engine_dir=None)).present(), "engine_dir is missing"),
    (lambda host: host.repository(host.entry(tokenizer_dir=None)).present(), "tokenizer_dir is missing"),
    (lambda host: host.repository(host.entry(tokenizer_dir="/nowhere")).present(), "bring the checkpoint onto the"),
    (lambda host: host.repository(host.entry(engine_dir=str(host.tokenizer()))).present(), "neither build_config nor"),
    (lambda host: (host.tokenizer(config="{"), host.present()), "config.json cannot be read as JSON"),
    (options(name="a/b"), "name is 'a/b'; it names directories"),
    (options(layout="llmap"), "layout is 'llmap'; expected one of inflight_batcher_llm, llmapi"),
    # templates that are not the release's
    (
        lambda host: (
            host.standard("0.8.0").repository(release="0.8.0", templates=str(host.templates(LAST))).present()
        ),
        "asks for ${max_queue_delay_microseconds}, which release 0.8.0 does not have",
    ),
    (
        edited(LLM, '"${num_nodes}"', '""', {LLM: {"num_nodes": 1}}),
        "parameters.tensorrt_llm.num_nodes is '1', but {templates}/tensorrt_llm/config.pbtxt has no ${num_nodes}; give "
        f"the templates of release {LAST}",
    ),
    (edited("tensorrt_llm", "dims: [ -1 ]", "dims: ${what}"), f"asks for ${{what}}, which release {LAST} does not"),
    (edited(PRE, 'name: "QUERY" ', ""), "A tensor of preprocessing has no name or no data_type"),
    (edited(POST, "data_type: TYPE_INT32 ", ""), "A tensor of postprocessing has no name or no data_type"),
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
def test_a_contradiction_is_refused_with_both_sides(act: Act, says: str, tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path).standard()
    says = says.replace("{engine}", str(tmp_path / "engine"))
    says = says.replace("{templates}", f"{tmp_path}/backend-{LAST}/all_models/inflight_batcher_llm")
    with pytest.raises(FleetError, match=re.escape(says)) as refusal:
        act(host)
    assert_a_sentence(str(refusal.value))
    assert not list(host.root.glob("repositories/*/*")), "nothing may be left on the host"


# -- directories, whichever way they are given --------------------------------------------------------------------

BAD_DIRECTORIES = [
    ("engines/x", "; it takes an absolute path of the host"),
    ("./x", "; it takes an absolute path of the host"),
    ("/srv/../etc", "; it takes a path without '..'"),
    ("/srv/..", "; it takes a path without '..'"),
    ("/srv/x\n", ", with blanks around it or control characters in it"),
    ("/srv/\x07x", ", with blanks around it or control characters in it"),
    ("/srv/x ", ", with blanks around it or control characters in it"),
    ("/srv/${x}", ", which still holds a placeholder"),
    ("", "empty; it takes an absolute path of the host"),
]
# option, the model that has the parameter of the same name, layout
DIRECTORIES = [
    ("engine_dir", LLM, "inflight_batcher_llm"),
    ("tokenizer_dir", PRE, "inflight_batcher_llm"),
    ("tokenizer_dir", None, "llmapi"),
]


@pytest.mark.parametrize("check_mode", [False, True], ids=["run", "check"])
@pytest.mark.parametrize(("option", "model", "layout"), DIRECTORIES)
@pytest.mark.parametrize(("directory", "says"), BAD_DIRECTORIES)
def test_a_directory_is_judged_alike_as_an_option_and_as_a_parameter(
    directory: str, says: str, option: str, model: str | None, layout: str, check_mode: bool, tmp_path: Path
) -> None:
    """On a host where nothing else is there yet: a wrong path is not something to wait for."""
    host = RepositoryFixture(tmp_path)
    given: list[tuple[str, dict[str, Any]]] = [(f"the option {option}", {option: directory})]
    if model is not None:
        parameter = {"parameters": {model: {option: directory}}, option: None}
        given.append((f"parameters.{model}.{option}", parameter))
    for source, options_ in given:
        with pytest.raises(FleetError, match=f"^{re.escape(source)} is .*{re.escape(says)}") as refusal:
            host.repository(host.entry(**options_), layout=layout, check_mode=check_mode).present()
        assert_a_sentence(str(refusal.value))


def test_a_directory_of_one_of_several_sets_is_named_with_its_place(tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path).standard()
    with pytest.raises(FleetError, match=r"^the option entries\[1\]\.engine_dir is 'x'"):
        entries({}, {"prefix": "b_", "engine_dir": "x"})(host)


def test_a_pair_of_engines_may_be_given_as_a_parameter(tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path).standard()
    for part, architecture in (("encoder", "EncoderModel"), ("decoder", "DecoderModel")):
        host.engine(f"t5/{part}", pretrained={"architecture": architecture})
    pair = str(tmp_path / "t5")
    as_option = host.repository(host.entry(engine_dir=pair)).present()
    entry = host.entry(engine_dir=None, parameters={LLM: {"engine_dir": pair}})
    as_parameter = host.repository(entry).present()
    assert as_parameter.facts["fingerprint"] == as_option.facts["fingerprint"] and not as_parameter.changed
    assert entry.engine_dir is None, "what was asked for stays what was asked for"


# -- in check mode, before anything is on the host ----------------------------------------------------------------

EARLY: list[tuple[dict[str, Any], str]] = [
    ({"entries": [{"streaming": True, "parameters": {LLM: {"batching_strategy": "V1"}}}]}, "V1 batching answers whole"),
    ({"entries": [{"streaming": True, "parameters": {BLS: {"decoupled_mode": False}}}]}, "contradicts true (from st"),
    ({"entries": [{"parameters": {POST: {"tokenizer_dir": "/other"}}}]}, "both have to use the same tokenizer"),
    ({"entries": [{"parameters": {LLM: {"engine_dir": "/other"}}}]}, "contradicts '/e' (from the option engine_dir)"),
    ({"entries": [{"parameters": {LLM: {"decoding_mode": "lookahead"}}}]}, "upstream has no default for them"),
    (
        {
            "entries": [
                {
                    "models": (LLM,),
                    "tokenizer_dir": None,
                    "parameters": {LLM: {"guided_decoding_backend": "xgrammar"}},
                }
            ]
        },
        "xgrammar_tokenizer_info_path is not given",
    ),
    ({"entries": [{"parameters": {LLM: {"gpu_device_ids": "0;1"}}}]}, "for 2 instances, but the template"),
    ({"entries": [{"parameters": {BLS: {"tensorrt_llm_draft_model_name": "draft"}}}]}, "tensorrt_llm_bls calls draft"),
    ({"entries": [{"models": (LLM, POST, BLS)}]}, "tensorrt_llm_bls calls preprocessing"),
    ({"entries": [{"models": (LLM, LLM)}]}, "models names tensorrt_llm twice"),
    ({"entries": [{"models": (LLM,), "parameters": {BLS: {"bls_instance_count": 1}}}]}, "but models leaves tensorrt"),
    ({"entries": [{"gpu_memory_mib": 0}]}, "the option gpu_memory_mib is 0; it takes a whole number of at least 1"),
    ({"entries": [{"gpu_memory_mib": -5}]}, "the option gpu_memory_mib is -5"),
    ({"entries": [{}, {"prefix": "b" * 201}]}, "use at most 128 letters, digits"),
    ({"entries": [{}, {"prefix": "b_"}], "release": "0.8.0"}, "cannot serve several models from one repository"),
    (
        {
            "entries": [
                {"parameters": {LLM: {"gpu_device_ids": "0"}}},
                {"prefix": "b_", "parameters": {LLM: {"gpu_device_ids": "0"}}},
            ]
        },
        "both name 0, and models of one repository must not share it",
    ),
    ({"entries": [{}], "name": "a/b"}, "it names directories"),
    ({"entries": [{}], "name": ".."}, "it names directories"),
    (
        {"entries": [{"parameters": {LLM: {"model": "/other"}}}], "layout": "llmapi"},
        "model '/other' (from parameters.tensorrt_llm.model) contradicts '/t'",
    ),
    ({"entries": [{"parameters": {LLM: {"gpu_device_ids": "0,1"}}}], "layout": "llmapi"}, "1 GPUs for each instance"),
    ({"entries": [{"tokenizer_dir": None}], "layout": "llmapi"}, "tokenizer_dir is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "says"), EARLY, ids=[says[:50] for _, says in EARLY])
def test_what_needs_nothing_of_the_host_is_refused_in_check_mode(
    asked: dict[str, Any], says: str, tmp_path: Path
) -> None:
    host = RepositoryFixture(tmp_path)
    given = {**asked}
    sets = [EntryRequest(**{"engine_dir": "/e", "tokenizer_dir": "/t", **entry}) for entry in given.pop("entries")]
    with pytest.raises(FleetError, match=re.escape(says)) as refusal:
        host.repository(*sets, check_mode=True, templates="/nowhere", **given).present()
    assert_a_sentence(str(refusal.value))


def test_what_is_there_is_judged_though_the_rest_is_not(tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path)
    host.engine(ranks=2)
    entry = host.entry(parameters={LLM: {"gpu_device_ids": "0"}})
    with pytest.raises(FleetError, match="contradicts world size 2"):
        host.repository(entry, check_mode=True).present()


def test_templates_that_are_there_are_judged_before_the_engine_is_built(tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path)
    with pytest.raises(FleetError, match=rf"asks for \$\{{tokenizer_type\}}, which release {re.escape(LAST)} does not"):
        host.repository(check_mode=True, templates=str(host.templates("0.8.0"))).present()
    assert host.repository(check_mode=True, templates=str(host.templates())).present().changed


def test_values_beside_entries_are_refused() -> None:
    spec = triton_model_repo.ARGUMENT_SPEC
    params = {name: option.get("default") for name, option in spec.items()} | {"entries": [{}]}
    triton_model_repo.refuse_beside_entries(params)
    for name, value in (("parameters", {LLM: {}}), ("models", [LLM])):
        with pytest.raises(FleetError, match=f"^{name} stands beside entries, where nothing reads it; give it in each"):
            triton_model_repo.refuse_beside_entries({**params, name: value})


def test_there_are_at_least_sixty_of_them() -> None:
    assert len(BAD_PARAMETERS) + len(CONTRADICTIONS) >= 60
