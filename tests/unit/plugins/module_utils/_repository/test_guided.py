# SPDX-License-Identifier: GPL-3.0-or-later
"""Guided decoding is one parameter: the file that it needs of the tokenizer is made with the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.xgrammar import INFO_FILE
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.entry import OWN_DIRECTORY, EntryRequest
from unit.model_repo_fixture import RepositoryFixture

LLM = "tensorrt_llm"
GUIDED = {LLM: {"guided_decoding_backend": "xgrammar"}}
BPE = {
    "model": {"type": "BPE", "vocab": {"<unk>": 0, "b": 4, "a": 3, "ü": 1}, "merges": []},
    "added_tokens": [{"id": 2, "content": "</s>"}, {"id": 0, "content": "<unk>"}],
}
UNIGRAM = {"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["ü", -1.5], ["</s>", -2]]}, "added_tokens": None}


@pytest.fixture
def host(tmp_path: Path) -> RepositoryFixture:
    made = RepositoryFixture(tmp_path).standard()
    made.tokenizer(tokenizer=BPE)
    return made


def info_of(repository: Path, model: str = LLM) -> Any:
    return json.loads((repository / model / INFO_FILE).read_text(encoding="utf-8"))


def test_one_parameter_brings_the_file_and_its_path(host: RepositoryFixture) -> None:
    outcome = host.present(**GUIDED)
    repository = Path(outcome.facts["repository_dir"])
    path = str(repository / LLM / INFO_FILE)
    assert f'string_value: "{path}"' in (repository / LLM / "config.pbtxt").read_text()
    assert OWN_DIRECTORY not in "".join(path.read_text() for path in repository.glob("*/config.pbtxt"))
    derived = outcome.facts["derived"][LLM]["xgrammar_tokenizer_info_path"]
    assert derived["value"] == path and "guided_decoding_backend" in derived["source"]
    info = info_of(repository)
    assert info["encoded_vocab"] == ["<unk>", "ü", "</s>", "a", "b"]
    assert json.loads(info["tokenizer_str"]) == BPE
    assert info["stop_token_ids"] == [2]
    assert not host.present(**GUIDED).changed, "the same again is the same repository"


def test_another_vocabulary_is_another_repository(host: RepositoryFixture) -> None:
    before = host.present(**GUIDED)
    host.tokenizer(tokenizer=UNIGRAM)
    after = host.present(**GUIDED)
    assert after.changed and after.facts["fingerprint"] != before.facts["fingerprint"]
    assert info_of(Path(after.facts["repository_dir"]))["encoded_vocab"] == ["<unk>", "ü", "</s>"]


def test_off_makes_no_file(host: RepositoryFixture) -> None:
    repository = Path(host.present().facts["repository_dir"])
    assert not list(repository.glob(f"*/{INFO_FILE}"))
    assert "${xgrammar_tokenizer_info_path}" in (repository / LLM / "config.pbtxt").read_text()


def test_a_file_of_the_users_own_and_the_python_backend_need_none(host: RepositoryFixture) -> None:
    own = {LLM: {**GUIDED[LLM], "xgrammar_tokenizer_info_path": "/data/info.json"}}
    python = {LLM: {**GUIDED[LLM], "triton_backend": "python"}}
    for parameters, written in ((own, "/data/info.json"), (python, str(host.path / "checkpoint"))):
        repository = Path(host.present(**parameters).facts["repository_dir"])
        assert not list(repository.glob(f"*/{INFO_FILE}"))
        assert f'string_value: "{written}"' in (repository / LLM / "config.pbtxt").read_text()


def test_each_set_of_models_has_its_own(host: RepositoryFixture) -> None:
    host.engine("other")
    host.tokenizer("code", tokenizer=UNIGRAM)
    entries = [
        host.entry(parameters=GUIDED),
        host.entry(prefix="x_", engine_dir=str(host.path / "other"), tokenizer_dir=str(host.path / "code"),
                   parameters=GUIDED),
    ]  # fmt: skip
    repository = Path(host.repository(*entries).present().facts["repository_dir"])
    assert len(info_of(repository)["encoded_vocab"]) == 5
    assert len(info_of(repository, "x_tensorrt_llm")["encoded_vocab"]) == 3
    assert f"{repository}/x_tensorrt_llm/{INFO_FILE}" in (repository / "x_tensorrt_llm/config.pbtxt").read_text()


def test_in_check_mode_without_a_tokenizer_nothing_is_refused(tmp_path: Path) -> None:
    entry = EntryRequest(engine_dir="/e", tokenizer_dir="/t", parameters=GUIDED)
    host = RepositoryFixture(tmp_path)
    host.templates()
    outcome = host.repository(entry, check_mode=True).present()
    assert outcome.changed and outcome.facts["repository_dir"].endswith("/pending")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"tokenizer": None},
            "holds no tokenizer.json, which guided decoding reads; make xgrammar_tokenizer_info.json",
        ),
        ({"tokenizer": "{"}, "tokenizer.json cannot be read as a tokenizer"),
        ({"tokenizer": {"model": {"type": "BPE"}}}, "tokenizer.json cannot be read as a tokenizer (KeyError: 'vocab')"),
        ({"tokenizer": [1]}, "tokenizer.json cannot be read as a tokenizer"),
        ({"tokenizer": {"model": {"vocab": {"a": "b"}}}}, "tokenizer.json cannot be read as a tokenizer"),
        ({"tokenizer_config": {"tokenizer_class": "X"}}, "names no token that ends an answer"),
    ],
)
def test_a_tokenizer_that_cannot_guide_is_refused(host: RepositoryFixture, files: dict[str, Any], says: str) -> None:
    place = host.tokenizer(tokenizer=BPE, **{k: v for k, v in files.items() if k != "tokenizer"})
    if "tokenizer" in files:
        (place / "tokenizer.json").unlink()
        (place / "tokenizer.model").write_text("")
        if files["tokenizer"] is not None:
            (place / "tokenizer.json").write_text(
                files["tokenizer"] if isinstance(files["tokenizer"], str) else json.dumps(files["tokenizer"])
            )
    with pytest.raises(FleetError) as refusal:
        host.present(**GUIDED)
    assert says in str(refusal.value)
    assert not list(host.root.glob("repositories/*/*")), "nothing may be left on the host"
