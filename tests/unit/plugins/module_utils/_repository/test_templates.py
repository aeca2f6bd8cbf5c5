# SPDX-License-Identifier: GPL-3.0-or-later
"""Templates are those of the release, or they are refused: nothing that the release needs is lost without a word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import (
    LAST_ENGINE_RELEASE,
    RELEASES,
    release,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.schema import MODELS, MULTIMODAL, parameters_of
from unit.model_repo_fixture import RepositoryFixture

LLM, BLS, PRE = "tensorrt_llm", "tensorrt_llm_bls", "preprocessing"
INFLIGHT = [version for version, row in RELEASES.items() if row.flow != "llmapi"]
WRONG_TAG = re.compile(
    r"/\S+/config\.pbtxt (asks for \$\{\w+\}|has no \$\{\w+\}|has the input \w+), which release \S+ "
    r"(does not have|must have for \w+|calls \w+); give the templates of (that release|release \S+)\."
)
MANDATORY = [
    (model, parameter.name)
    for model in MODELS
    for parameter in parameters_of(model, release(LAST).key).values()
    if parameter.written is not None
]


def places(version: str, model: str, mandatory: bool = False) -> set[str]:
    """The placeholders of one model's template of *version*, or those that its release cannot do without."""
    key = release(version).key
    return {
        parameter.placeholder(key)
        for parameter in parameters_of(model, key).values()
        if not parameter.documented
        and (not mandatory or (parameter.written is not None and not parameter.may_lack_place(key)))
    }


def comments(version: str, model: str) -> set[str]:
    """Those that stand in a comment only, which asks for nothing."""
    return {"enable_trt_overlap"} if model == LLM and release(version).key >= (0, 10) else set()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RepositoryFixture]:
    """One host per release, shared by all tests of pairs, which write nothing."""
    root = tmp_path_factory.mktemp("hosts")
    return {version: RepositoryFixture(root / version).standard(version) for version in INFLIGHT}


@pytest.mark.parametrize("version", INFLIGHT)
def test_templates_of_another_release_are_refused(version: str, hosts: dict[str, RepositoryFixture]) -> None:
    host = hosts[version]
    taken = []
    for other in INFLIGHT:
        repository = host.repository(
            release=version, templates=str(hosts[other].path / f"backend-{other}"), check_mode=True
        )
        try:
            repository.present()
        except FleetError as refusal:
            assert WRONG_TAG.fullmatch(str(refusal)) and f"release {version} " in str(refusal)
        else:
            taken.append(other)
    fitting = [
        other
        for other in INFLIGHT
        if (release(other).key < (0, 20)) == (release(version).key < (0, 20))  # seed was random_seed before
        and all(
            places(version, model, mandatory=True) <= places(other, model)
            and places(other, model) - comments(other, model) <= places(version, model)
            for model in MODELS
        )
    ]
    assert version in taken and taken == fitting
    others = [
        other for other in taken if RELEASES[other].template_schema != RELEASES[LAST_ENGINE_RELEASE].template_schema
    ]
    assert len(others) <= 8, "the releases of the newest schema share their templates, and so do few others"


def edit(host: RepositoryFixture, model: str, old: str, new: str, version: str = LAST) -> None:
    path = host.path / f"backend-{version}" / "all_models" / "inflight_batcher_llm" / model / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(("model", "name"), MANDATORY)
def test_a_mandatory_parameter_without_a_place_is_refused_by_name(model: str, name: str, tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path).standard()
    fixed = "TYPE_FP32" if name.endswith("type") else "tensorrtllm" if name == "triton_backend" else "0"
    edit(host, model, f"${{{name}}}", fixed)
    with pytest.raises(FleetError) as refusal:
        host.present()
    assert str(refusal.value) == (
        f"{host.path}/backend-{LAST}/all_models/inflight_batcher_llm/{model}/config.pbtxt has no ${{{name}}}, which "
        f"release {LAST} must have for {name}; give the templates of release {LAST}."
    )


def test_a_mandatory_parameter_in_a_comment_has_no_place(tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path).standard()
    edit(host, LLM, "default_queue_policy: { max_queue_size: ${max_queue_size} }", "")
    edit(host, LLM, 'name: "tensorrt_llm"', '# max_queue_size: ${max_queue_size}\nname: "tensorrt_llm"')
    for given in ({}, {"max_queue_size": 0}):
        with pytest.raises(FleetError, match=rf"has no \$\{{max_queue_size\}}, which release {re.escape(LAST)} must"):
            host.present(tensorrt_llm=given)


@pytest.mark.parametrize(("text", "refused"), [('"${tokenizer_type}"', True), ('"" # ${tokenizer_type}\n', False)])
def test_what_the_release_does_not_have_may_be_asked_for_in_a_comment_only(
    text: str, refused: bool, tmp_path: Path
) -> None:
    host = RepositoryFixture(tmp_path).standard()
    edit(host, PRE, '"${add_special_tokens}"', text)
    if not refused:
        assert host.present().changed
        return
    with pytest.raises(FleetError, match=rf"asks for \$\{{tokenizer_type\}}, which release {re.escape(LAST)} does not"):
        host.present()


def test_a_value_written_into_a_template_by_hand_stands_with_a_note(tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path).standard()
    edit(host, PRE, "${preprocessing_instance_count}", "3")
    outcome = host.present()
    [note] = outcome.facts["notes"]
    assert note.endswith("so what it says of preprocessing_instance_count stands instead of '5'")
    assert "preprocessing_instance_count" not in outcome.facts["derived"][PRE]
    with pytest.raises(FleetError, match=r"preprocessing_instance_count is '2', but .* has no \$\{preprocess"):
        host.present(preprocessing={"preprocessing_instance_count": 2})


@pytest.mark.parametrize("name", ["encoder_engine_dir", "cross_kv_cache_fraction"])
def test_what_a_pair_of_engines_needs_has_to_have_a_place(name: str, tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path).standard()
    for part, architecture in (("encoder", "EncoderModel"), ("decoder", "DecoderModel")):
        host.engine(f"t5/{part}", pretrained={"architecture": architecture})
    edit(host, LLM, f'"${{{name}}}"', '""')
    assert host.present().changed, "an engine of its own does not need it"
    with pytest.raises(FleetError, match=rf"has no \$\{{{name}\}}, which .* {re.escape(LAST)} must have for {name}"):
        host.repository(host.entry(engine_dir=str(tmp_path / "t5"))).present()


@pytest.mark.parametrize(("version", "may_lack"), [("0.20.0", True), ("1.0.3", True), ("1.1.0", False)])
def test_templates_from_before_the_prompt_tables_type_became_a_parameter(
    version: str, may_lack: bool, tmp_path: Path
) -> None:
    host = RepositoryFixture(tmp_path).standard(version)
    for model in (LLM, BLS):
        edit(host, model, "${prompt_embedding_table_data_type}", "TYPE_FP16", version)
    if not may_lack:
        with pytest.raises(FleetError, match=r"has no \$\{prompt_embedding_table_data_type\}, which release 1\.1\.0"):
            host.repository(release=version).present()
        return
    outcome = host.repository(release=version).present()
    assert outcome.facts["notes"] == []
    assert "prompt_embedding_table_data_type" not in outcome.facts["derived"][LLM]
    given = {LLM: {"prompt_embedding_table_data_type": "TYPE_BF16"}}
    with pytest.raises(FleetError, match=r"is 'TYPE_BF16', but .* has no \$\{prompt_embedding_table_data_type\}"):
        host.repository(host.entry(parameters=given), release=version).present()


def test_the_encoders_of_a_multimodal_model_pass_on_the_models_own_type(tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path).standard()
    place = host.path / f"backend-{LAST}" / "all_models" / "multimodal" / MULTIMODAL
    place.mkdir(parents=True)
    (place / "config.pbtxt").write_text(
        f'name: "{MULTIMODAL}" backend: "python" max_batch_size: ${{triton_max_batch_size}}\n'
        "dynamic_batching { max_queue_delay_microseconds: ${max_queue_delay_microseconds}\n"
        "default_queue_policy: { max_queue_size: ${max_queue_size} } }\n"
        'output { name: "OUT_PROMPT_EMBEDDING_TABLE" data_type: ${prompt_embedding_table_data_type} dims: [ -1 ] }\n'
        'output { name: "ENCODER_INPUT_FEATURES" data_type: ${encoder_input_features_data_type} dims: [ -1 ] }\n'
        'parameters { key: "multimodal_model_path" value: { string_value: "${multimodal_model_path}" } }\n'
    )
    given = {LLM: {"prompt_embedding_table_data_type": "TYPE_BF16"}}
    outcome = host.repository(host.entry(models=(*MODELS, MULTIMODAL), parameters=given)).present()
    text = (Path(outcome.facts["repository_dir"]) / MULTIMODAL / "config.pbtxt").read_text()
    assert 'name: "OUT_PROMPT_EMBEDDING_TABLE" data_type: TYPE_BF16' in text
