# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine's own config.json says is believed only where an engine can say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import RELEASES, release
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.engine import read_engine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from unit.model_repo_fixture import RepositoryFixture

INFLIGHT = [version for version, row in RELEASES.items() if row.flow != "llmapi"]
BUILD_PY = {
    "builder_config": {"max_batch_size": 8, "max_input_len": 1000, "max_output_len": 24, "tensor_parallel": 1},
    "plugin_config": {"paged_kv_cache": True, "tokens_per_block": 128},
}


@pytest.fixture
def host(tmp_path: Path) -> RepositoryFixture:
    return RepositoryFixture(tmp_path).standard()


def refusal_of(host: RepositoryFixture, **options: Any) -> str:
    """The one sentence that the repository is refused with."""
    with pytest.raises(FleetError) as refusal:
        host.repository(**options).present()
    text = str(refusal.value)
    assert "\n" not in text and text[-1] == "."
    return text


# -- the release that built it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", INFLIGHT)
def test_an_engine_of_build_py_is_of_the_one_release_that_has_build_py(version: str, tmp_path: Path) -> None:
    host = RepositoryFixture(tmp_path).standard(version)
    (tmp_path / "engine" / "config.json").write_text(json.dumps(BUILD_PY))
    if version == "0.7.1":
        assert host.repository(release=version).present().facts["max_seq_len"] == 1024
        return
    text = refusal_of(host, release=version)
    assert "was built by build.py of TensorRT-LLM 0.7 or older, which writes no version" in text
    assert f"but release is {version}; build it again" in text


@pytest.mark.parametrize(
    ("version", "built_by", "serves"),
    [
        ("0.15.0", "0.15.0", True),
        ("0.17.0", "0.17.0.post1", True),
        ("1.0.3", "1.0.3.2510", True),
        (LAST, f"{LAST}+cu13", True),
        ("0.7.1", "0.7.2", True),
        ("0.15.0", "0.15.0rc1", False),
        ("0.15.0", "0.15.0.dev2024110500", False),
        ("0.15.0", "0.15.1", False),
        ("0.15.0", "0.15", False),
        ("0.7.1", "0.8.0", False),
        ("0.8.0", None, False),
    ],
)
def test_the_engines_version_is_judged_as_the_images_is(
    version: str, built_by: str | None, serves: bool, tmp_path: Path
) -> None:
    host = RepositoryFixture(tmp_path).standard(version)
    config = json.loads((tmp_path / "engine" / "config.json").read_text())
    (tmp_path / "engine" / "config.json").write_text(json.dumps({**config, "version": built_by}))
    if serves:
        assert host.repository(release=version).present().changed
    else:
        text = refusal_of(host, release=version)
        assert f"but release is {release(version).version}; build it again with that release" in text
        assert built_by is None or f"was built by TensorRT-LLM {built_by} (" in text


# -- numbers that no engine has -----------------------------------------------------------------------------------

NUMBERS = [
    ("pretrained_config.mapping.world_size", 0),
    ("pretrained_config.mapping.world_size", -1),
    ("pretrained_config.mapping.world_size", 1.5),
    ("pretrained_config.mapping.world_size", "1"),
    ("pretrained_config.mapping.world_size", True),
    ("pretrained_config.mapping.world_size", 10**12),
    ("pretrained_config.mapping.world_size", [1]),
    ("pretrained_config.mapping.tp_size", 0),
    ("pretrained_config.mapping.pp_size", -2),
    ("build_config.max_batch_size", -4),
    ("build_config.max_batch_size", 0),
    ("build_config.max_batch_size", 10**25),
    ("build_config.max_input_len", 0),
    ("build_config.max_seq_len", float("inf")),
    ("build_config.max_seq_len", float("nan")),
    ("build_config.max_beam_width", 0),
    ("build_config.plugin_config.tokens_per_block", -64),
]


def written(host: RepositoryFixture, where: str, value: Any) -> None:
    """The standard engine, with *value* at the dotted path *where*."""
    path = host.path / "engine" / "config.json"
    config = json.loads(path.read_text())
    *parents, name = where.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[name] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(("where", "value"), NUMBERS)
def test_a_number_that_no_engine_has_is_refused_with_its_place(where: str, value: Any, host: RepositoryFixture) -> None:
    written(host, where, value)
    text = refusal_of(host)
    assert text.startswith(f"{host.path}/engine/config.json says {where} is ")
    assert text.endswith("to 2147483647; build the engine again.")


def test_a_missing_rank_of_many_is_found_without_counting_them_all(host: RepositoryFixture) -> None:
    written(host, "pretrained_config.mapping.world_size", 2**31 - 1)
    assert "is of an engine with 2147483647 ranks, but rank1.engine is missing" in refusal_of(host)


def test_what_is_no_number_of_the_models_shape_is_a_number_not_given(host: RepositoryFixture) -> None:
    for name in ("num_key_value_heads", "hidden_size", "vocab_size"):
        written(host, f"pretrained_config.{name}", [8, 8, 4])
    engine = read_engine(str(host.path / "engine"))
    assert (engine.kv_bytes, engine.vocab_size) == (None, None)
    assert host.present().changed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read as JSON"),
        ("[]", "holds no JSON object"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"build_config": null}', "has neither build_config nor builder_config"),
        ('{"build_config": []}', "has neither build_config nor builder_config"),
        ('{"build_config": {}, "version": 1.2}', "says version is 1.2, which no release of TensorRT-LLM has"),
        ('{"build_config": {}, "version": "main"}', "says version is 'main', which no release"),
        ('{"build_config": {"speculative": NaN}}', "does not describe an engine (A value has no JSON form"),
        ('{"build_config": {}, "filler": "' + "x" * (1 << 20) + '"}', "is larger than any engine's configuration"),
    ],
    ids=lambda value: value[:40],
)
def test_a_file_that_describes_no_engine_is_refused(text: str, says: str, host: RepositoryFixture) -> None:
    (host.path / "engine" / "config.json").write_text(text)
    refusal = refusal_of(host)
    assert says in refusal and f"{host.path}/engine" in refusal


def test_a_rank_that_is_a_dangling_link_is_missing(host: RepositoryFixture) -> None:
    rank = host.path / "engine" / "rank0.engine"
    rank.unlink()
    rank.symlink_to(host.path / "gone")
    assert "rank0.engine is missing; build the engine again" in refusal_of(host)


def test_a_rank_on_another_host_counts_with_the_size_that_the_manifest_says(host: RepositoryFixture) -> None:
    """Nodes of one replica have different files of the engine, and render the same repository."""
    directory = host.path / "engine"
    size = (directory / "rank0.engine").stat().st_size
    manifest = {"fingerprint": "f", "files": {"rank0.engine": {"size": size, "sha256": "0"}}}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    here = read_engine(str(directory))
    (directory / "rank0.engine").unlink()
    assert "rank0.engine is missing" in refusal_of(host)
    (host.path / "engine.left_out.json").write_text('{"files": ["rank0.engine"]}')
    assert read_engine(str(directory)) == here


# -- any configuration --------------------------------------------------------------------------------------------

ODD = st.sampled_from(
    [0, 1, -1, 7, 2**31, 10**25, 0.5, float("inf"), LAST, "float16", "fp8", "enable", "DecoderModel", "\ud800", None]
)
VALUES = ODD | st.recursive(
    ODD | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def paths(value: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The place of every value in nested mappings."""
    if not isinstance(value, dict):
        return [prefix]
    return [*([prefix] if prefix else []), *(path for key in value for path in paths(value[key], (*prefix, key)))]


def merged(value: Any, path: tuple[str, ...], new: Any) -> Any:
    return new if not path else {**value, path[0]: merged(value[path[0]], path[1:], new)} if path[0] in value else value


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> RepositoryFixture:
    """One host for all examples, which are judged in check mode."""
    return RepositoryFixture(tmp_path_factory.mktemp("engines")).standard()


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 200), VALUES), min_size=1, max_size=4), build_py=st.booleans())
@example(changes=[(0, LAST)], build_py=True)
def test_any_configuration_is_read_or_refused_in_one_sentence(
    shared: RepositoryFixture, changes: list[tuple[int, Any]], build_py: bool
) -> None:
    shared.engine()
    path = shared.path / "engine" / "config.json"
    config = json.loads(path.read_text()) if not build_py else {"version": LAST, **BUILD_PY}
    for index, value in changes:
        known = paths(config)
        config = merged(config, known[index % len(known)], value)
    path.write_text(json.dumps(config))
    try:
        shared.repository(check_mode=True).present()
    except FleetError as refusal:
        assert "\n" not in str(refusal) and str(refusal)[-1] == "."


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=64) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_read_or_refused_in_one_sentence(shared: RepositoryFixture, content: bytes) -> None:
    shared.engine()
    (shared.path / "engine" / "config.json").write_bytes(content)
    with pytest.raises(FleetError) as refusal:
        shared.repository(check_mode=True).present()
    assert "\n" not in str(refusal.value)
