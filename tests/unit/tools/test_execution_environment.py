# SPDX-License-Identifier: GPL-3.0-or-later
"""The execution environment: its definition, and that what does not work in it is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import execution_environment as environment
from _stages import StageError

# Tells what it was called with; answers `images` with what the last build left, and `run` as the test has it.
PODMAN = """#!/bin/sh
echo "$*" >>"$FAKE/calls"
case $1 in
  images) ! test -e "$FAKE/identity" || cat "$FAKE/identity" ;;
  build) echo sha256:new >"$FAKE/identity" ;;
  run) case "$*" in *"$(cat "$FAKE/broken" 2>/dev/null || echo nothing)"*) echo "it is not there" >&2; exit 2 ;; esac
       echo "0.1.0 site.yml openai OpenSSH failed=0"; printf '"%s": ' "$@" ;;
esac
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "podman").write_text(PODMAN)
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("PODMAN", str(tmp_path / "podman"))

    def archive(_address: str, out: Path) -> Path:
        (out / "trtllm-fleet-0.1.0.tar.gz").write_text("an archive")
        return out / "trtllm-fleet-0.1.0.tar.gz"

    def create(directory: Path) -> None:
        assert {path.name for path in directory.iterdir()} == {"trtllm-fleet.tar.gz", "execution-environment.yml"}

    monkeypatch.setattr(environment.release, "build", archive)
    monkeypatch.setattr(environment.release, "create", create)
    return tmp_path


def calls(fake: Path) -> list[str]:
    return (fake / "calls").read_text().splitlines()


def test_it_is_built_on_the_debian_that_its_definition_names() -> None:
    described = yaml.safe_load(environment.DEFINITION.read_text(encoding="utf-8"))
    assert described["images"]["base_image"]["name"] == f"docker.io/library/debian:{environment.SUITE}-slim"


def test_one_that_lost_its_name_goes(fake: Path) -> None:
    environment.build("localhost/base", fake / "log")
    assert "--build-arg=EE_BASE_IMAGE=localhost/base" in next(call for call in calls(fake) if call.startswith("build "))
    assert not any(call.startswith("rmi") for call in calls(fake))
    (fake / "identity").write_text("sha256:old\n")
    environment.build("localhost/base", fake / "log")
    assert calls(fake)[-1] == "rmi sha256:old"


def test_each_playbook_and_module_is_tried(fake: Path, repo_dir: Path) -> None:
    environment.look()
    tried = " ".join(calls(fake))
    for path in (*(repo_dir / "playbooks").glob("*.yml"), *(repo_dir / "plugins" / "modules").glob("[!_]*.py")):
        assert f"trtllm.fleet.{path.stem}" in tried
    assert all(" --network=none " in call for call in calls(fake))


def test_what_does_not_work_in_it_is_said(fake: Path) -> None:
    (fake / "broken").write_text("ssh -V")
    with pytest.raises(StageError, match="'ssh -V' failed: it is not there"):
        environment.look()


def test_what_says_something_else_is_said(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "look_at", lambda: [(["ssh", "-V"], ["OpenSSH", "Dropbear"])])
    with pytest.raises(StageError, match="'ssh -V' does not say Dropbear; it says: 0.1.0"):
        environment.look()
