# SPDX-License-Identifier: GPL-3.0-or-later
"""What is derived, how several models share a repository, and what any set of parameters comes to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tritonclient
import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.tokenizer import read_tokenizer
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import RELEASES, release
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.repository import Outcome
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.schema import MODELS, parameters_of
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.model_repo_fixture import KEYS, RepositoryFixture

sys.path.insert(0, str(Path(tritonclient.__file__).parent / "grpc"))  # importable without the grpc package
import model_config_pb2

LLM, BLS, PRE, POST = "tensorrt_llm", "tensorrt_llm_bls", "preprocessing", "postprocessing"
INFLIGHT = [version for version, row in RELEASES.items() if row.flow != "llmapi"]


@pytest.fixture
def host(tmp_path: Path) -> RepositoryFixture:
    return RepositoryFixture(tmp_path).standard()


def config(outcome: Outcome, model: str) -> Any:
    """The published configuration, as protobuf reads it."""
    text = (Path(outcome.facts["repository_dir"]) / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def strings(outcome: Outcome, model: str) -> dict[str, str]:
    return {key: value.string_value for key, value in config(outcome, model).parameters.items()}


@pytest.mark.parametrize("version", INFLIGHT)
def test_one_description_serves_every_release(version: str, tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path).standard(version)
    parameters = {
        LLM: {"gpt_model_type": "inflight_fused_batching", "kv_cache_free_gpu_mem_fraction": 0.5, "max_queue_size": 0},
        PRE: {"tokenizer_type": "auto"},
    }
    outcome = host.repository(host.entry(streaming=True, parameters=parameters), release=version).present()
    assert outcome.facts["entry_models"] == ["ensemble", "tensorrt_llm_bls"]
    for model in MODELS:
        assert config(outcome, model).max_batch_size == 8
    assert config(outcome, LLM).model_transaction_policy.decoupled
    assert config(outcome, BLS).model_transaction_policy.decoupled
    assert strings(outcome, LLM)["gpt_model_path"] == str(tmp_path / "engine")
    assert strings(outcome, LLM)["exclude_input_in_output"] == "True"
    assert strings(outcome, LLM)["max_tokens_in_paged_kv_cache"] == "${max_tokens_in_paged_kv_cache}"
    assert strings(outcome, BLS)["accumulate_tokens"] == "True"


def test_what_the_engine_and_the_tokenizer_say_is_derived_with_its_source(host: RepositoryFixture) -> None:
    facts = host.present().facts
    assert (facts["world_size"], facts["max_batch_size"]) == (1, 8)
    assert (facts["max_input_len"], facts["max_seq_len"]) == (1024, 2048)
    assert (facts["end_id"], facts["pad_id"], facts["stop_ids"]) == (2, 2, [2])
    llm = facts["derived"][LLM]
    assert llm["triton_max_batch_size"] == {
        "value": "8",
        "source": f"{host.path}/engine/config.json (build_config.max_batch_size)",
    }
    assert facts["derived"][PRE]["preprocessing_instance_count"]["value"] == "5"
    assert facts["derived"][BLS]["bls_instance_count"]["value"] == "8"


def test_what_is_derived_can_be_overridden(host: RepositoryFixture) -> None:
    outcome = host.present(
        tensorrt_llm={"triton_max_batch_size": 4, "exclude_input_in_output": False},
        tensorrt_llm_bls={"bls_instance_count": 3, "accumulate_tokens": True},
        preprocessing={"preprocessing_instance_count": 1},
    )
    assert {config(outcome, model).max_batch_size for model in MODELS} == {4}
    assert strings(outcome, LLM)["exclude_input_in_output"] == "False"
    assert config(outcome, BLS).instance_group[0].count == 3
    assert config(outcome, PRE).instance_group[0].count == 1
    assert config(outcome, POST).instance_group[0].count == 4
    assert "exclude_input_in_output" not in outcome.facts["derived"][LLM]


def test_the_engine_of_build_py_is_understood(tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path).standard("0.7.2")
    engine = tmp_path / "engine"
    (engine / "rank0.engine").unlink()
    for rank in range(2):
        (engine / f"llama_float16_tp2_rank{rank}.engine").touch()
    built = {
        "builder_config": {
            "max_batch_size": 6, "max_input_len": 1000, "max_output_len": 24, "tensor_parallel": 2, "num_layers": 4,
            "num_heads": 8, "hidden_size": 64, "precision": "float16", "vocab_size": 32000,
        },
        "plugin_config": {"paged_kv_cache": True, "tokens_per_block": 128},
    }  # fmt: skip
    (engine / "config.json").write_text(json.dumps(built))
    facts = host.repository(release="0.7.2").present().facts
    assert (facts["world_size"], facts["max_batch_size"], facts["max_seq_len"]) == (2, 6, 1024)
    with pytest.raises(FleetError, match=r"one sequence of 1024 tokens .*max_input_len \+ max_output_len"):
        host.repository(host.entry(parameters={LLM: {"max_tokens_in_paged_kv_cache": 1000}}), release="0.7.2").present()


def test_tokens_of_a_stream_keep_their_order(host: RepositoryFixture) -> None:
    """Seen on a real Triton: two processes of the ensemble's last step swapped two words of an answer."""
    outcomes = [host.repository(host.entry(streaming=streaming)).present() for streaming in (True, False)]
    counts = [config(outcome, POST).instance_group[0].count for outcome in outcomes]
    assert counts[0] == 1
    assert counts[1] > 1


@pytest.mark.parametrize(
    ("streaming", "cls", "accumulates"),
    [(True, "LlamaTokenizerFast", "True"), (True, "GPT2Tokenizer", "True"), (False, "LlamaTokenizer", "False")],
)
def test_tokens_are_accumulated_where_a_piece_alone_is_not_text(
    host: RepositoryFixture, streaming: bool, cls: str, accumulates: str
) -> None:
    host.tokenizer(cls=cls)
    outcome = host.repository(host.entry(streaming=streaming)).present()
    assert strings(outcome, BLS)["accumulate_tokens"] == accumulates
    assert outcome.facts["cumulative"] == (accumulates == "True")


def test_beams_leave_tokens_unaccumulated_with_a_note(host: RepositoryFixture) -> None:
    host.engine(build={"max_beam_width": 4})
    outcome = host.repository(host.entry(streaming=True, parameters={LLM: {"max_beam_width": 4}})).present()
    assert strings(outcome, BLS)["accumulate_tokens"] == "False"
    assert "may lack spaces" in outcome.facts["notes"][0]


def test_an_encoder_decoder_pair_is_recognised(tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path).standard()
    for part, architecture in (("encoder", "EncoderModel"), ("decoder", "DecoderModel")):
        host.engine(f"t5/{part}", pretrained={"architecture": architecture})
    outcome = host.repository(host.entry(engine_dir=str(tmp_path / "t5"))).present()
    values = strings(outcome, LLM)
    assert values["gpt_model_path"] == f"{tmp_path}/t5/decoder"
    assert values["encoder_model_path"] == f"{tmp_path}/t5/encoder"
    assert values["cross_kv_cache_fraction"] == "0.5"


def test_a_documented_parameter_without_a_placeholder_is_added(host: RepositoryFixture) -> None:
    assert "recv_poll_period_ms" not in strings(host.present(), LLM)
    assert strings(host.present(tensorrt_llm={"recv_poll_period_ms": 10}), LLM)["recv_poll_period_ms"] == "10"


def test_a_parameter_that_only_stands_in_a_comment_is_noted(host: RepositoryFixture) -> None:
    outcome = host.present(tensorrt_llm={"enable_trt_overlap": True})
    assert f"has no effect: release {LAST} has it in a comment only" in outcome.facts["notes"][0]


def test_a_subset_of_the_models_is_served(host: RepositoryFixture) -> None:
    outcome = host.repository(host.entry(models=(PRE, LLM, POST, BLS))).present()
    assert sorted(path.name for path in Path(outcome.facts["repository_dir"]).iterdir() if path.is_dir()) == sorted(
        (PRE, LLM, POST, BLS)
    )
    assert outcome.facts["entry_models"] == [BLS]


def test_two_models_share_a_repository_by_prefix_and_gpus(host: RepositoryFixture) -> None:
    host.engine("wide", ranks=2)
    outcome = host.repository(
        host.entry(parameters={LLM: {"gpu_device_ids": "1"}}),
        host.entry(prefix="code_", engine_dir=str(host.path / "wide"), streaming=True),
    ).present()
    facts = outcome.facts
    assert facts["mode"] == "orchestrator" and facts["world_size"] == 1
    assert facts["worker_models"] == ["tensorrt_llm", "code_tensorrt_llm"]
    assert facts["entry_models"] == ["ensemble", "tensorrt_llm_bls", "code_ensemble", "code_tensorrt_llm_bls"]
    assert [entry["gpu_device_ids"] for entry in facts["entries"]] == ["1", "0,2"]
    assert config(outcome, "code_tensorrt_llm").name == "code_tensorrt_llm"
    assert [step.model_name for step in config(outcome, "code_ensemble").ensemble_scheduling.step] == [
        "code_preprocessing", "code_tensorrt_llm", "code_postprocessing",
    ]  # fmt: skip
    assert strings(outcome, "code_tensorrt_llm_bls")["tensorrt_llm_model_name"] == "code_tensorrt_llm"
    code = (Path(facts["repository_dir"]) / "code_tensorrt_llm_bls" / "1" / "model.py").read_text()
    assert '"code_preprocessing", \'code_tensorrt_llm\', "code_postprocessing"' in code
    plain = (Path(facts["repository_dir"]) / "tensorrt_llm_bls" / "1" / "model.py").read_text()
    assert "code_" not in plain


def test_a_draft_model_may_be_of_another_entry(host: RepositoryFixture) -> None:
    outcome = host.repository(
        host.entry(parameters={BLS: {"tensorrt_llm_draft_model_name": "draft_tensorrt_llm"}}),
        host.entry(prefix="draft_", models=(LLM,)),
    ).present()
    assert strings(outcome, BLS)["tensorrt_llm_draft_model_name"] == "draft_tensorrt_llm"


def test_a_bls_without_the_literals_cannot_be_prefixed(host: RepositoryFixture) -> None:
    (host.path / f"backend-{LAST}/all_models/inflight_batcher_llm/tensorrt_llm_bls/1/model.py").write_text("# other\n")
    with pytest.raises(FleetError, match="does not name preprocessing, so the prefix 'b_' cannot reach it"):
        host.repository(host.entry(), host.entry(prefix="b_")).present()


# -- tokenizers ---------------------------------------------------------------------------------------------------


def test_special_tokens_come_from_the_tokenizer_first(tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path)
    place = host.tokenizer(
        tokenizer_config={
            "eos_token": {"content": "<|eot|>"}, "pad_token": "<pad>",
            "added_tokens_decoder": {"7": {"content": "<|eot|>"}, "9": {"content": "<pad>"}},
        },
        generation_config={"eos_token_id": [5, 7], "pad_token_id": 1},
    )  # fmt: skip
    tokenizer = read_tokenizer(str(place))
    assert (tokenizer.end_id, tokenizer.pad_id, tokenizer.stop_ids) == (7, 9, (7, 5))
    assert tokenizer.end_source == "tokenizer_config.json (eos_token <|eot|>)"


def test_special_tokens_come_from_the_model_where_the_tokenizer_does_not_number_them(tmp_path: Path) -> None:
    place = RepositoryFixture(tmp_path).tokenizer(
        tokenizer_config={"eos_token": "</s>"}, config={"eos_token_id": 2}, generation_config={"eos_token_id": 3}
    )
    tokenizer = read_tokenizer(str(place))
    assert (tokenizer.end_id, tokenizer.end_source) == (3, "generation_config.json (eos_token_id)")
    assert tokenizer.pad_id == 3 and tokenizer.pad_source.endswith("as there is no pad token")


def test_a_sentencepiece_model_says_what_an_unknown_class_does_not(tmp_path: Path) -> None:
    place = RepositoryFixture(tmp_path).tokenizer(cls="SomebodysTokenizer")
    assert not read_tokenizer(str(place)).sentencepiece
    (place / "tokenizer.model").write_bytes(b"")
    assert read_tokenizer(str(place)).sentencepiece_source == "the file tokenizer.model"


@pytest.mark.parametrize("number", ["\u00b2", "\u0662", "9" * 5000, "-1", ""])
def test_what_is_no_id_of_a_token_is_passed_over(number: str, tmp_path: Path) -> None:
    decoder = {number: {"content": "<pad>"}, "2": {"content": "</s>"}}
    place = RepositoryFixture(tmp_path).tokenizer(
        tokenizer_config={"eos_token": "</s>", "pad_token": "<pad>", "added_tokens_decoder": decoder}
    )
    tokenizer = read_tokenizer(str(place))
    assert (tokenizer.end_id, tokenizer.pad_id) == (2, 2)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    place = RepositoryFixture(tmp_path).tokenizer(generation_config={"eos_token_id": 9, "filler": "x" * (1 << 20)})
    assert read_tokenizer(str(place)).stop_ids == (2,)


# -- the LLM API --------------------------------------------------------------------------------------------------


def llmapi(host: RepositoryFixture, **parameters: Any) -> Outcome:
    entry = host.entry(streaming=True, engine_dir=None, parameters={LLM: parameters})
    return host.repository(entry, layout="llmapi", templates=str(host.path / "llmapi-backend")).present()


def test_the_llmapi_repository_says_in_both_files_what_auto_complete_would(host: RepositoryFixture) -> None:
    host.llmapi()
    outcome = llmapi(
        host, tensor_parallel_size=2, kv_cache_config={"free_gpu_memory_fraction": "0.5"}, batch_wait_timeout_ms=1e-7,
        dtype="no", cuda_graph_config={"batch_sizes": [1, 2], "enable_padding": True},
    )  # fmt: skip
    place = Path(outcome.facts["repository_dir"]) / "tensorrt_llm"
    assert yaml.safe_load((place / "1" / "model.yaml").read_text()) == {
        "tensor_parallel_size": 2,
        "kv_cache_config": {"free_gpu_memory_fraction": 0.5},
        "batch_wait_timeout_ms": 1e-7,
        "dtype": "no",
        "cuda_graph_config": {"batch_sizes": [1, 2], "enable_padding": True},
        "model": f"{host.path}/checkpoint",
        "backend": "pytorch",
        "pipeline_parallel_size": 1,
        "triton_config": {"max_batch_size": 0, "decoupled": True},
    }
    assert config(outcome, LLM).model_transaction_policy.decoupled
    assert outcome.facts["entry_models"] == ["tensorrt_llm"] and outcome.facts["end_id"] == 2


def test_fields_of_the_llmapi_template_are_replaced_and_instances_get_their_gpus(host: RepositoryFixture) -> None:
    host.llmapi('name: "tensorrt_llm", max_batch_size: 64,\nmodel_transaction_policy { decoupled: False }\n'
               'instance_group [ { count: 1 } ]\nbackend: "python"\n')  # fmt: skip
    outcome = llmapi(host, gpu_device_ids="0;1", triton_config={"max_batch_size": 4})
    read = config(outcome, LLM)
    assert (read.max_batch_size, read.model_transaction_policy.decoupled) == (4, True)
    assert [group.count for group in read.instance_group] == [2]
    assert read.parameters["gpu_device_ids"].string_value == "0;1"


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"model": "/other"}, "model '/other' (from parameters.tensorrt_llm.model) contradicts"),
        ({"triton_config": {"decoupled": False}}, "decoupled false (from parameters.tensorrt_llm.triton_config"),
        ({"gpu_device_ids": "0,1"}, "contradicts 1 GPUs for each instance"),
        ({"instance_count": 2}, "instance_count 2"),
    ],
)
def test_contradictions_of_the_llmapi_layout_are_refused(
    host: RepositoryFixture, parameters: dict[str, Any], says: str
) -> None:
    host.llmapi()
    with pytest.raises(FleetError) as refusal:
        llmapi(host, **parameters)
    assert says in str(refusal.value)


# -- any parameters -----------------------------------------------------------------------------------------------

RAW = (
    st.integers(-2, 4096) | st.floats(-0.5, 2, allow_nan=False) | st.booleans() | st.none()
    | st.sampled_from(["True", "false", "0.5", "1", "0,1", "TYPE_FP16", "max_utilization", "top_k", "V1", "/models/x",
                       "{0}, {0, 1}", "auto", "xgrammar", "python", "a b", "${x}", "", "\n", 'quo"te\\', "/p\\ath\"x"])
    | st.lists(st.integers(0, 9), max_size=3) | st.text(max_size=6)
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, dict[str, Any]], bool | None]:
    version = draw(st.sampled_from(INFLIGHT))
    parameters: dict[str, dict[str, Any]] = {}
    for model in draw(st.lists(st.sampled_from(MODELS), max_size=2, unique=True)):
        names = st.sampled_from(sorted(parameters_of(model, release(version).key)))
        parameters[model] = draw(st.dictionaries(names, RAW, max_size=3))
    return version, parameters, draw(st.sampled_from([None, True, False]))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RepositoryFixture]:
    """One host per release, shared by all examples."""
    root = tmp_path_factory.mktemp("repositories")
    return {version: RepositoryFixture(root / version).standard(version) for version in INFLIGHT}


@settings(max_examples=150, deadline=None)
@given(request=requests())
def test_any_parameters_are_refused_or_read_back_by_protobuf(
    hosts: dict[str, RepositoryFixture], request: tuple[str, dict[str, dict[str, Any]], bool | None]
) -> None:
    version, parameters, streaming = request
    host = hosts[version]
    repository = host.repository(host.entry(streaming=streaming, parameters=parameters), release=version, name="any")
    try:
        outcome = repository.present()
    except FleetError as refusal:
        assert "\n" not in str(refusal)
        return
    key = release(version).key
    for model in MODELS:
        read = strings(outcome, model)
        for name, raw in parameters.get(model, {}).items():
            parameter = parameters_of(model, key)[name]
            placeholder = KEYS.get(parameter.placeholder(key), parameter.placeholder(key))
            if raw is None or placeholder not in read:
                continue
            wanted = ",".join(str(part) for part in raw) if isinstance(raw, list) else str(raw)
            assert read[placeholder] == wanted, (model, name, parameter.kind)
