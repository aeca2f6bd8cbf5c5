# SPDX-License-Identifier: GPL-3.0-or-later
"""Our filling against upstream's own templates and the commands in upstream's own documents.

The templates are recorded ones (the fixture ``shared_dir``), or those of a clone of tensorrtllm_backend whose path is
in TENSORRTLLM_BACKEND_DIR; then every fill_template.py line of every document at every tag is taken from there too.
"""

from __future__ import annotations

import os
import re
import string
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tritonclient
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.versions import version_key
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.tokenizer import Tokenizer
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import RELEASES, release
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.engine import Engine
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.entry import EntryRequest
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.pbtxt import SCALAR, fill, parse, placeholders
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.repository import render_inflight
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.resolve import Resolver
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.schema import (
    MODELS,
    MULTIMODAL,
    find,
    parameters_of,
)
from contract.facts import model_repository_params
from google.protobuf import text_format

sys.path.insert(0, str(Path(tritonclient.__file__).parent / "grpc"))  # importable without the grpc package
import model_config_pb2

TAGS = ("v0.7.2", "v0.8.0", "v0.9.0", "v0.11.0", "v0.13.0", "v0.17.0", "v0.19.0")
Lines = dict[str, dict[str, str]]


def values(text: str) -> dict[str, str]:
    """``k:v,k:v`` as fill_template.py takes it."""
    return dict(pair.split(":", 1) for pair in text.split(",")) if text else {}


def documented(tag: str, name: str, streaming: bool) -> Lines:
    """What the documents of llama, baichuan, gemma and the encoder-decoder models have for each model at *tag*."""
    key = version_key(tag[1:])
    tokenizer = f"tokenizer_dir:/models/{name},triton_max_batch_size:64"
    if key < (0, 9):
        tokenizer += f",tokenizer_type:{'llama' if name == 'llama' else 'auto'}"
    elif name == "gemma":
        tokenizer += ",tokenizer_type:sp"  # the documents still have it where the template has it no more
    types = ",logits_datatype:TYPE_FP32" if key >= (0, 17) else ""
    engine = "/tmp/baichuan/13B/trt_engines/fp16/1-gpu/" if name == "baichuan" else f"/engines/{name}"
    batching = "inflight_batching" if key < (0, 9) or (name == "llama" and streaming) else "inflight_fused_batching"
    llm = (
        f"triton_max_batch_size:64,decoupled_mode:{streaming},max_beam_width:1,engine_dir:{engine},"
        "max_tokens_in_paged_kv_cache:2560,max_attention_window_size:2560,kv_cache_free_gpu_mem_fraction:0.5,"
        f"exclude_input_in_output:True,enable_kv_cache_reuse:False,batching_strategy:{batching},"
        f"max_queue_delay_microseconds:{600 if key < (0, 9) else 0}"
    )
    llm += ",triton_backend:tensorrtllm" if key >= (0, 10) else ""
    llm += f",encoder_input_features_data_type:TYPE_FP16{types}" if key >= (0, 17) else ""
    if name == "gemma":
        llm += ",batch_scheduler_policy:guaranteed_no_evict" + (",enable_trt_overlap:False" if key < (0, 10) else "")
    return {
        "preprocessing": values(
            f"{tokenizer},preprocessing_instance_count:1" + (",add_special_tokens:True" if name == "gemma" else "")
        ),
        "postprocessing": values(f"{tokenizer},postprocessing_instance_count:1"),
        "ensemble": values(f"triton_max_batch_size:64{types}"),
        "tensorrt_llm": values(llm),
        "tensorrt_llm_bls": values(
            f"triton_max_batch_size:64,decoupled_mode:{streaming},bls_instance_count:1,"
            f"accumulate_tokens:{streaming}{types}"
        ),
    }


def encoder_decoder(tag: str, streaming: bool) -> Lines:
    """docs/encoder_decoder.md, with MAX_BATCH_SIZE 64 and MAX_BEAM_WIDTH 1."""
    lines = documented(tag, "llama", streaming)
    key = version_key(tag[1:])
    for name in ("max_tokens_in_paged_kv_cache", "max_attention_window_size"):
        if key >= (0, 13):
            del lines["tensorrt_llm"][name]
    lines["tensorrt_llm"] |= {
        "engine_dir": "/engines/t5/decoder",
        "encoder_engine_dir": "/engines/t5/encoder",
        "batching_strategy": "inflight_fused_batching",
        "enable_chunked_context": "False",
    }
    if key >= (0, 13):
        lines["tensorrt_llm"]["max_queue_size"] = "0"
    if key >= (0, 17):
        lines["tensorrt_llm"] |= {"kv_cache_free_gpu_mem_fraction": "0.8", "cross_kv_cache_fraction": "0.5"}
    lines["tensorrt_llm_bls"]["accumulate_tokens"] = "False"
    return lines


def readme(tag: str) -> Lines:
    """README.md of v0.19.0: the mandatory parameters and no other."""
    types = "logits_datatype:TYPE_FP32"
    return {
        "preprocessing": values("tokenizer_dir:/models/gpt,triton_max_batch_size:4,preprocessing_instance_count:1"),
        "postprocessing": values("tokenizer_dir:/models/gpt,triton_max_batch_size:4,postprocessing_instance_count:1"),
        "ensemble": values(f"triton_max_batch_size:4,{types}"),
        "tensorrt_llm": values(
            "triton_backend:tensorrtllm,triton_max_batch_size:4,decoupled_mode:false,engine_dir:/engines/gpt,"
            "max_queue_delay_microseconds:0,batching_strategy:inflight_fused_batching,max_queue_size:0,"
            f"encoder_input_features_data_type:TYPE_FP16,{types}"
        ),
        "tensorrt_llm_bls": values(f"triton_max_batch_size:4,decoupled_mode:false,bls_instance_count:1,{types}"),
    }


def documents(tag: str) -> Iterator[tuple[str, Lines]]:
    """The sets of commands in the documents of one tag."""
    key = version_key(tag[1:])
    for name in ("llama", "baichuan"):
        for streaming in (False, True):
            yield f"{name}{'-streaming' * streaming}", documented(tag, name, streaming)
    if key >= (0, 9):
        yield "gemma", documented(tag, "gemma", False)
    if key >= (0, 11):
        yield "encoder-decoder", encoder_decoder(tag, False)
        yield "encoder-decoder-streaming", encoder_decoder(tag, key >= (0, 13))
    if key >= (0, 19):
        yield "readme", readme(tag)


CASES = [pytest.param(tag, lines, id=f"{tag}-{name}") for tag in TAGS for name, lines in documents(tag)]

# What the fleet fills where the documents of some tag leave it: what does not parse or load unfilled, and what is
# derived. Everything else stays as the documents have it.
FILLED_BESIDES = {
    "preprocessing": {"max_queue_delay_microseconds", "max_queue_size"},
    "postprocessing": set(),
    "ensemble": {"logits_datatype"},
    "tensorrt_llm": {
        "batching_strategy", "max_queue_delay_microseconds", "max_queue_size", "exclude_input_in_output",
        "cross_kv_cache_fraction", "triton_backend", "encoder_input_features_data_type", "logits_datatype",
    },
    "tensorrt_llm_bls": {"accumulate_tokens", "tensorrt_llm_model_name", "logits_datatype"},
}  # fmt: skip


def engine(directory: str, version: str, encoder_decoder_pair: bool) -> Engine:
    """An engine that the documents' values fit to: 2048 tokens in, 512 out."""
    return Engine(
        directory=directory, identity="0" * 64, version=version, world_size=1, max_batch_size=64, max_input_len=2048,
        max_seq_len=2560, max_beam_width=1, tokens_per_block=64, paged_kv_cache=True, paged_context=True,
        vocab_size=32000, kv_bytes=524288, shard_bytes=0, decoder_of_pair=encoder_decoder_pair,
    )  # fmt: skip


TOKENIZER = Tokenizer("/models/llama", True, "the file tokenizer.model", 2, "", 2, "", (2,), 32000)


def rendered(tag: str, lines: Mapping[str, Mapping[str, Any]], templates: Path) -> tuple[dict[str, str], Any]:
    """The five configurations, rendered with the documents' values, and all values that went into them."""
    rel = release(tag[1:])
    request = EntryRequest(parameters=lines)
    pair = "encoder_engine_dir" in lines["tensorrt_llm"]
    built = engine(lines["tensorrt_llm"]["engine_dir"], rel.version, pair)
    resolved = Resolver(rel, request, built, TOKENIZER).resolve()
    result = render_inflight(rel, [resolved], [TOKENIZER], templates)
    return {model: result.files[f"{model}/config.pbtxt"].decode() for model in MODELS}, resolved


@pytest.mark.parametrize(("tag", "lines"), CASES)
def test_the_documents_commands_give_what_plain_substitution_gives(tag: str, lines: Lines, shared_dir: Path) -> None:
    templates = shared_dir / "templates" / tag
    texts, resolved = rendered(tag, lines, templates)
    for model in MODELS:
        template = string.Template((templates / model / "config.pbtxt").read_text())
        used = {name: value.text for name, value in resolved.values[model].items()}
        given = {name: text for name, text in lines[model].items() if name != "tokenizer_type" or tag in TAGS[:2]}
        assert texts[model] == template.safe_substitute(used)
        assert {name: used[name] for name in given} == given
        assert set(used) - set(given) <= FILLED_BESIDES[model]
        assert fill(template.template, lines[model]) == template.safe_substitute(lines[model])


@pytest.mark.parametrize(("tag", "lines"), CASES)
def test_protobuf_reads_the_result_with_the_documents_values(tag: str, lines: Lines, shared_dir: Path) -> None:
    texts, _ = rendered(tag, lines, shared_dir / "templates" / tag)
    for model, text in texts.items():
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        ours = parse(text).value
        assert config.name == ours["name"] == model
        assert config.max_batch_size == ours["max_batch_size"] == int(lines[model]["triton_max_batch_size"])
        read = {key: value.string_value for key, value in config.parameters.items()}
        assert read == {key: value["string_value"] for key, value in ours.get("parameters", {}).items()}
        for name, value in lines[model].items():
            key = {"engine_dir": "gpt_model_path", "batching_strategy": "gpt_model_type"}.get(name, name)
            assert read.get(key, value) == value
        assert [(t.name, t.dims) for t in config.input] == [(t["name"], t["dims"]) for t in ours.get("input", [])]
        assert [s.model_name for s in config.ensemble_scheduling.step] == [
            step["model_name"] for step in ours.get("ensemble_scheduling", {}).get("step", [])
        ]
    llm = text_format.Parse(texts["tensorrt_llm"], model_config_pb2.ModelConfig())
    assert llm.model_transaction_policy.decoupled == (lines["tensorrt_llm"]["decoupled_mode"].lower() == "true")


def test_the_table_has_the_placeholders_of_the_cpu_images_templates(repo_dir: Path) -> None:
    key = version_key(LAST)
    for model in MODELS:
        path = repo_dir / "images/triton_cpu/src/all_models/inflight_batcher_llm" / model / "config.pbtxt"
        theirs = {placeholder.name for placeholder in placeholders(path.read_text())}
        table = parameters_of(model, key).values()
        assert theirs == {parameter.placeholder(key) for parameter in table if not parameter.documented}, model


def test_the_table_has_the_placeholders_of_every_recorded_template() -> None:
    for tag, models in model_repository_params().items():
        key = version_key(LAST if tag == "v1.x" else tag[1:])
        if key < (0, 7, 1):
            continue
        for model in MODELS:
            table = parameters_of(model, key).values()
            ours = {parameter.placeholder(key) for parameter in table if not parameter.documented}
            assert ours == set(models[model]["placeholders"]), (tag, model)


@pytest.mark.parametrize("tag", TAGS)
def test_what_stands_outside_a_string_is_filled_or_asked_for(tag: str, shared_dir: Path) -> None:
    """Every scalar placeholder is derived, or always written, or one of the few that the user's choice decides."""
    key = version_key(release(tag[1:]).version)
    for model in MODELS:
        text = (shared_dir / "templates" / tag / model / "config.pbtxt").read_text()
        scalars = {placeholder.name for placeholder in placeholders(text) if placeholder.context == SCALAR}
        known = parameters_of(model, key)
        written = {name for name, parameter in known.items() if parameter.written is not None}
        derived = {"triton_max_batch_size", "decoupled_mode", *(n for n in known if n.endswith("_instance_count"))}
        assert scalars <= written | derived, (tag, model)


def of_release(version: str, templates: Path) -> None:
    """A repository of *version* that says nothing of its own, from *templates*."""
    rel = release(version)
    request = EntryRequest(engine_dir="/engines/gpt", tokenizer_dir="/models/gpt")
    resolved = Resolver(rel, request, engine("/engines/gpt", rel.version, False), TOKENIZER).resolve()
    render_inflight(rel, [resolved], [TOKENIZER], templates)


@pytest.mark.parametrize("tag", TAGS)
def test_templates_are_taken_for_their_own_release_only(tag: str, shared_dir: Path) -> None:
    version = release(tag[1:]).version
    of_release(version, shared_dir / "templates" / tag)
    for other in TAGS:
        if other == tag:
            continue
        wrong_tag = rf"config\.pbtxt .* release {re.escape(version)} .*; give the templates of "
        with pytest.raises(FleetError, match=wrong_tag):
            of_release(version, shared_dir / "templates" / other)


# The rows of the tables in README.md (0.7 to 0.12) and docs/model_config.md (0.13 and newer).
DOCUMENTED_NAMES = {
    "ensemble": "triton_max_batch_size logits_datatype",
    "preprocessing": "triton_max_batch_size tokenizer_dir tokenizer_type preprocessing_instance_count "
    "max_queue_delay_microseconds max_queue_size add_special_tokens visual_model_path multimodal_model_path engine_dir",
    MULTIMODAL: "triton_max_batch_size max_queue_delay_microseconds max_queue_size multimodal_model_path hf_model_path",
    "postprocessing": "triton_max_batch_size tokenizer_dir tokenizer_type postprocessing_instance_count "
    "skip_special_tokens",
    "tensorrt_llm": "triton_backend triton_max_batch_size decoupled_mode decoupled max_queue_delay_microseconds "
    "max_queue_size engine_dir gpt_model_path batching_strategy gpt_model_type encoder_input_features_data_type "
    "logits_datatype encoder_engine_dir max_attention_window_size sink_token_length exclude_input_in_output "
    "cancellation_check_period_ms stats_check_period_ms recv_poll_period_ms iter_stats_max_iterations "
    "request_stats_max_iterations normalize_log_probs gpu_device_ids participant_ids num_nodes gpu_weights_percent "
    "max_tokens_in_paged_kv_cache kv_cache_free_gpu_mem_fraction cross_kv_cache_fraction kv_cache_host_memory_bytes "
    "enable_kv_cache_reuse lora_cache_optimal_adapter_size lora_cache_max_adapter_size lora_cache_gpu_memory_fraction "
    "lora_cache_host_memory_bytes lora_prefetch_dir max_beam_width decoding_mode enable_chunked_context "
    "multi_block_mode enable_context_fmha_fp32_acc cuda_graph_mode cuda_graph_cache_size batch_scheduler_policy "
    "medusa_choices eagle_choices guided_decoding_backend tokenizer_dir xgrammar_tokenizer_info_path "
    "max_num_sequences enable_trt_overlap",
    "tensorrt_llm_bls": "triton_max_batch_size decoupled_mode bls_instance_count logits_datatype accumulate_tokens "
    "tensorrt_llm_model_name tensorrt_llm_draft_model_name",
}


def test_every_row_of_the_documents_tables_can_be_given() -> None:
    for model, names in DOCUMENTED_NAMES.items():
        for name in names.split():
            assert find(model, name) is not None, (model, name)


# -- against a clone of tensorrtllm_backend -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def clone() -> Path:
    """A clone of tensorrtllm_backend with its tags."""
    path = os.environ.get("TENSORRTLLM_BACKEND_DIR")
    if not path:
        pytest.skip("TENSORRTLLM_BACKEND_DIR is not set; set it to a clone of tensorrtllm_backend to test against it")
    return Path(path)


def git(clone: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(clone), *arguments], capture_output=True, text=True, check=False)
    return done.stdout


def tags_of(clone: Path) -> list[str]:
    tags = [tag for tag in git(clone, "tag").split() if re.fullmatch(r"v[01]\.[0-9]+\.[0-9]+", tag)]
    return [tag for tag in tags if (0, 7, 1) <= version_key(tag[1:]) < (0, 20)]


def test_every_line_of_every_document_at_every_tag_gives_what_plain_substitution_gives(clone: Path) -> None:
    line = re.compile(r"fill_template\.py +-i +\"?[^ ]*?/([a-z_]+?)(?:_2)?/config\.pbtxt +\"?([^\"\n]+)")
    compared = 0
    for tag in tags_of(clone):
        for model, pairs in line.findall(git(clone, "grep", "-h", "fill_template.py -i", tag, "--", "*.md")):
            if model not in MODELS or any(pair.count(":") != 1 for pair in pairs.split(",")):
                continue  # upstream's own tool stops at a misprint such as accumulate_tokens:Truelogits_datatype:...
            text = git(clone, "show", f"{tag}:all_models/inflight_batcher_llm/{model}/config.pbtxt")
            given = {name: value.replace("${", "/").replace("}", "") for name, value in values(pairs).items()}
            assert fill(text, given) == string.Template(text).safe_substitute(given), (tag, model)
            compared += 1
    assert compared > 200


def templates_of(clone: Path, tag: str, place: Path) -> Path:
    """The templates of *tag*, checked out into *place*."""
    for name in git(clone, "ls-tree", "-r", "--name-only", tag, "all_models/inflight_batcher_llm").split():
        target = place / tag / Path(name).relative_to("all_models/inflight_batcher_llm")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(git(clone, "show", f"{tag}:{name}"))
    return place / tag


# Tags whose templates another release is not told apart from: by their placeholders they are the same, or they lack
# only what this release can do without (a value that is given for it is refused).
SAME_PLACEHOLDERS = ("0.17.0", "0.18.0", "0.18.1", "0.18.2")
ALIKE = {
    "0.7.1": {"v0.7.2"},
    "0.11.0": {"v0.10.0"},
    "0.13.0": {"v0.12.0"},
    "0.14.0": {"v0.12.0", "v0.13.0"},
    "0.16.0": {"v0.15.0"},
    **{version: {f"v{other}" for other in SAME_PLACEHOLDERS} for version in SAME_PLACEHOLDERS},
}


def test_every_tag_of_the_clone_is_of_its_own_release(clone: Path, tmp_path: Path) -> None:
    checkouts = {tag: templates_of(clone, tag, tmp_path) for tag in tags_of(clone)}
    taken: dict[str, set[str]] = {}
    for version, row in RELEASES.items():
        if row.flow == "llmapi":
            continue
        for tag, templates in checkouts.items():
            try:
                of_release(version, templates)
            except FleetError as refusal:
                assert "config.pbtxt" in str(refusal) and "give the templates of" in str(refusal)
            else:
                taken.setdefault(version, set()).add(tag)
    assert taken == {version: ALIKE.get(version, set()) | {f"v{version}"} for version in taken} and len(taken) == 15


def test_every_tag_of_the_clone_renders_and_parses(clone: Path, tmp_path: Path) -> None:
    for tag in tags_of(clone):
        templates = templates_of(clone, tag, tmp_path)
        for _, lines in documents(tag):
            texts, _ = rendered(tag, lines, templates)
            for text in texts.values():
                text_format.Parse(text, model_config_pb2.ModelConfig())
        if version_key(tag[1:]) >= (0, 9):
            code = prefixed_bls_code(tag, templates)
            assert b"x_preprocessing" in code and b"x_postprocessing" in code and b"x_tensorrt_llm" in code


def prefixed_bls_code(tag: str, templates: Path) -> bytes:
    """All Python code of the BLS in a repository where every model has the prefix x_."""
    rel = release(tag[1:])
    lines = documented(tag, "llama", False)
    request = EntryRequest(prefix="x_", parameters=lines)
    built = engine(lines["tensorrt_llm"]["engine_dir"], rel.version, False)
    resolved = Resolver(rel, request, built, TOKENIZER).resolve()
    files = render_inflight(rel, [resolved], [TOKENIZER], templates).files
    return b"".join(content for path, content in files.items() if path.startswith("x_tensorrt_llm_bls/1/"))


def test_the_contradiction_in_a_document_of_upstream_is_refused(shared_dir: Path) -> None:
    """docs/guided_decoding.md makes tensorrt_llm decoupled and the BLS not."""
    lines = documented("v0.19.0", "llama", False)
    lines["tensorrt_llm"]["decoupled_mode"] = "True"
    with pytest.raises(FleetError, match="contradicts"):
        rendered("v0.19.0", lines, shared_dir / "templates" / "v0.19.0")
