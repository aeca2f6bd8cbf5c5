# SPDX-License-Identifier: GPL-3.0-or-later
"""The releases of ansible-core that are tried are those that the collection says it runs on."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPO / "tools"))

import controllers
from _stages import StageError


def test_what_is_tried_is_what_the_collection_says_it_runs_on() -> None:
    line = re.search(r"^ansible-core>=2\.(\d+),<2\.(\d+)$", (REPO / "requirements.txt").read_text(), re.M)
    assert line is not None
    first, beyond = (int(number) for number in line.groups())
    assert list(controllers.matrix()) == [f"2.{number}" for number in range(first, beyond)]
    assert yaml.safe_load((REPO / "meta" / "runtime.yml").read_text())["requires_ansible"] == f">=2.{first}.0"
    assert f"ansible-core 2.{first} to 2.{beyond - 1}" in (REPO / "README.md").read_text()


def test_every_release_but_the_one_at_hand_gets_an_environment_of_its_own() -> None:
    assert len(controllers.others()) == len(controllers.matrix()) - 1
    for release in controllers.others():
        wanted = controllers.packages(release)
        assert (
            wanted[0] == f"ansible-core=={release}.*" and len([line for line in wanted if "ansible-core" in line]) == 1
        )
        assert len([line for line in wanted if line.startswith("tritonclient")]) == 1


def test_a_machine_without_such_a_python_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(controllers, "pythons", lambda: iter(["/nowhere/python3", sys.executable]))
    monkeypatch.setattr(controllers, "matrix", lambda: {"2.99": "3.99"})
    assert controllers.tried("2.99") == 0
    assert capsys.readouterr().out.startswith("SKIPPED [1] ansible-core 2.99: it needs Python 3.99 or newer")
    with pytest.raises(StageError, match=r"ansible-core 1\.9 is not one of"):
        controllers.tried("1.9")
