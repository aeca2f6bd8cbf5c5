# SPDX-License-Identifier: GPL-3.0-or-later
"""A release: one version everywhere, and an archive that knows where it comes from and holds the collection alone."""

from __future__ import annotations

import importlib
import json
import re
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml


@pytest.fixture(name="release")
def release_(repo_dir: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repo_dir / "tools"))
    return importlib.import_module("release")


def test_version_changelog_and_tag_fit(release: ModuleType) -> None:
    assert release.check() == release.version()
    assert release.check(f"v{release.version()}") == release.version()


@pytest.mark.parametrize("given", ["1.0", "v1.0.0", "1.0.0.1", "01.0.0", "1.0.0-"])
def test_what_is_no_semantic_version_is_refused(
    release: ModuleType, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setattr(release, "version", lambda: given)
    with pytest.raises(release.StageError, match="give a semantic one"):
        release.check()


def test_a_version_without_changes_and_a_wrong_tag_are_refused(
    release: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(release.StageError, match=r"the tag is v9\.9\.9"):
        release.check("v9.9.9")
    monkeypatch.setattr(release, "version", lambda: "9.9.9")
    with pytest.raises(release.StageError, match=r"nothing of 9\.9\.9; run `make changelog`"):
        release.check()


@pytest.mark.slow
def test_the_archive_names_its_repository_and_holds_the_collection_alone(release: ModuleType, tmp_path: Path) -> None:
    archive = release.build("https://forge.example.com/me/fleet", tmp_path)
    with tarfile.open(archive) as held:
        names = held.getnames()
        told = json.load(held.extractfile("MANIFEST.json"))["collection_info"]  # type: ignore[arg-type]
    assert told["repository"] == "https://forge.example.com/me/fleet"
    assert {"meta/runtime.yml", "README.md", "CHANGELOG.md", "docs/pictures/demo.svg"} <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert not tops & {"tests", "tools", "molecule", "site", ".github", "inventories", "execution-environment.yml"}
    with pytest.raises(release.StageError, match="give its address"):
        release.build("fleet", tmp_path)


def test_the_environment_for_execution_takes_the_collection_and_its_core(repo_dir: Path) -> None:
    described = yaml.safe_load((repo_dir / "execution-environment.yml").read_text())
    assert described["version"] == 3
    assert described["dependencies"]["ansible_core"]["package_pip"] in (repo_dir / "requirements.txt").read_text()


def test_the_forge_runs_what_everybody_runs_and_no_action_of_others(repo_dir: Path) -> None:
    for path in (repo_dir / ".github" / "workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
        assert all("run" in step and "uses" not in step for step in steps), path.name
        # What a pull request names (a branch, a title) is never put into a command.
        assert not [step for step in steps if "${{" in step["run"]], path.name
        assert workflow["permissions"]["contents"] in ("read", "write")
    text = (repo_dir / ".github" / "workflows" / "ci.yml").read_text()
    assert re.search(r"run: sudo .*\.ci/run$", text, re.M)
