# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that trtllm-serve is started with, as an artefact like a model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release
from ansible_collections.trtllm.fleet.plugins.module_utils._release.serve import serve_config
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.info import describe
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.repository import Outcome, Repository
from unit.model_repo_fixture import RepositoryFixture

VERSION = "1.3.0"


@pytest.fixture
def host(tmp_path: Path) -> RepositoryFixture:
    fixture = RepositoryFixture(tmp_path)
    fixture.tokenizer()
    (tmp_path / "checkpoint" / "model.safetensors").write_bytes(b"weights")
    return fixture


def repository(host: RepositoryFixture, check_mode: bool = False, **keys: Any) -> Repository:
    entry = host.entry(engine_dir=None, parameters={"tensorrt_llm": keys})
    options = {"layout": "trtllm-serve", "release": VERSION, "templates": None}
    return host.repository(entry, check_mode=check_mode, **options)


def present(host: RepositoryFixture, **keys: Any) -> Outcome:
    return repository(host, **keys).present()


def test_the_file_is_published_once_and_read_back_as_it_was_meant(host: RepositoryFixture) -> None:
    config = serve_config(release(VERSION), {"tp_size": 2, "max_batch_size": 8, "max_seq_len": 512}, {}, {})
    config["cuda_graph_config"] = None
    outcome = present(host, **config)
    place = Path(outcome.facts["repository_dir"])
    assert outcome.changed and [path.name for path in place.iterdir() if path.suffix == ".yaml"] == ["llm_args.yaml"]
    assert yaml.safe_load((place / "llm_args.yaml").read_text()) == config
    assert outcome.facts | {} == {**outcome.facts, "mode": "trtllm-serve", "entry_models": ["llama"], "world_size": 1,
                                  "max_seq_len": 512, "worker_models": [], "end_id": 2}  # fmt: skip
    again = present(host, **config)
    assert not again.changed and again.facts["fingerprint"] == outcome.facts["fingerprint"]
    assert describe(place)["fingerprint"] == outcome.facts["fingerprint"]


def test_another_checkpoint_at_the_same_place_is_another_one(host: RepositoryFixture) -> None:
    first = present(host)
    (host.path / "checkpoint" / "README.md").write_text("a card that nothing reads")
    assert not present(host).changed
    (host.path / "checkpoint" / "model.safetensors").write_bytes(b"others")
    second = present(host)
    assert second.changed and second.facts["fingerprint"] != first.facts["fingerprint"]


def test_check_mode_says_what_would_be_and_what_it_waits_for(host: RepositoryFixture, tmp_path: Path) -> None:
    outcome = repository(host, check_mode=True, max_batch_size=4).present()
    assert outcome.changed and not list((tmp_path / "var").rglob("llm_args.yaml"))
    assert any("max_batch_size: 4" in after for _path, _before, after in outcome.diffs)
    (tmp_path / "checkpoint").rename(tmp_path / "elsewhere")
    outcome = repository(host, check_mode=True).present()
    assert outcome.changed and "bring the checkpoint onto the host first" in outcome.reasons[0]
    assert (outcome.facts["mode"], outcome.facts["entry_models"]) == ("trtllm-serve", ["llama"])
    with pytest.raises(FleetError):
        present(host)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"max_batch": 3}, "parameters.tensorrt_llm.max_batch needs the key max_batch of the LLM API"),
        ({"max_batch_size": "many"}, "parameters.tensorrt_llm.max_batch_size"),
        ({"kv_cache_config": {"free_gpu_memory_fraction": 2}}, "kv_cache_config.free_gpu_memory_fraction"),
        ({"model": "/x"}, "the checkpoint of the model is served; leave it out."),
    ],
)
def test_what_would_end_the_server_is_refused(host: RepositoryFixture, keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FleetError) as refused:
        present(host, **keys)
    assert sentence in str(refused.value)


def test_a_release_without_it_names_those_that_have_it(host: RepositoryFixture) -> None:
    with pytest.raises(FleetError) as refused:
        host.repository(host.entry(engine_dir=None), layout="trtllm-serve", release="0.20.0", templates=None).present()
    assert "1.0.0 to 1.3.0 have it" in str(refused.value)
