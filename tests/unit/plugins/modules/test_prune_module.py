# SPDX-License-Identifier: GPL-3.0-or-later
"""trtllm_prune, asked four ways: in check mode, for real, in check mode again, and again."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.artifact_store import ArtifactStore
from ansible_collections.trtllm.fleet.plugins.module_utils._base import files
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import cli
from unit import modules


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cli, "executable", lambda: None)
    store = ArtifactStore(tmp_path / "engines")
    for number in "123":
        (store.staging("m", number * 64) / "rank0.engine").write_bytes(bytes(5000))
        store.publish("m", number * 64, {})
    return tmp_path


def test_what_nothing_names_goes_once(root: Path) -> None:
    options = {"root": str(root), "models": []}
    results = [modules.call("trtllm_prune", options, check=check) for check in (True, False, True, False)]
    assert [result["changed"] for result in results] == [True, True, False, False]
    assert results[0]["removed"] == results[1]["removed"]
    assert results[0]["diff"]["before"].splitlines() == [str(root / "engines/m" / (number * 64)) for number in "123"]
    assert results[1]["freed"] >= 15000
    assert [path.name for path in (root / "engines/m").iterdir()] == [".lock"]


def test_a_virgin_host_stays_one(tmp_path: Path) -> None:
    for check in (True, False):
        result = modules.call("trtllm_prune", {"root": str(tmp_path / "none"), "models": ["m"]}, check=check)
        assert result["changed"] is False
    assert not list(tmp_path.iterdir())


def test_0_is_refused_and_all_removes_nothing(root: Path) -> None:
    options = {"root": str(root), "models": []}
    assert modules.call("trtllm_prune", {**options, "keep": 0})["msg"].startswith("trtllm_keep is 0; give how many")
    assert modules.call("trtllm_prune", {**options, "keep": "all"})["reason"] == "trtllm_keep is 'all'"
    assert len(list((root / "engines/m").glob("[123]*[!n]"))) == 3  # beside their digests


def test_what_went_is_told_where_the_host_refuses_the_rest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.remove

    def refuse(path: Path) -> None:
        if path.name.startswith("2") and path.is_dir():
            raise PermissionError(1, "Operation not permitted", str(path))
        real(path)

    monkeypatch.setattr(files, "remove", refuse)
    result = modules.call("trtllm_prune", {"root": str(root), "models": []})
    assert result["msg"].endswith("Operation not permitted; run with become, as root.")
    assert [thing["name"] for thing in result["removed"]] == ["m/111111111111"]
    monkeypatch.setattr(files, "remove", real)
    assert len(modules.call("trtllm_prune", {"root": str(root), "models": []})["removed"]) == 2
