# SPDX-License-Identifier: GPL-3.0-or-later
"""A stage that failed says why in a few lines: of a run elsewhere often only the end is to be had."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[3] / "tools"

MOLECULE = """
  \x1b[2m│\x1b[0m TASK [Look for the image] *******
  \x1b[2m│\x1b[0m ok: [image-1] =>
  \x1b[2m│\x1b[0m     msg: nothing wrong
  \x1b[2m│\x1b[0m TASK [Pull the image] *******
  \x1b[2m│\x1b[0m \x1b[0;31mfatal: [image-1]: FAILED! =>\x1b[0m
  \x1b[2m│\x1b[0m     changed: false
  \x1b[2m│\x1b[0m     msg: The registry does not answer.
  \x1b[2m│\x1b[0m TASK [Never reached] *******
"""


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """tools/test.py, whose stages keep their logs in a directory of the test's own."""
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location("stage_runner", TOOLS / "test.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "stage_runner", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "OUTPUT", tmp_path)
    return module


def reasons(runner: ModuleType, log: str) -> list[str]:
    stage = runner.Stage("molecule image", ["true"])
    stage.log.write_text(log, encoding="utf-8")
    found: list[str] = stage.reasons()
    return found


def test_a_failed_task_of_molecule_is_told_with_its_name_and_message(runner: ModuleType) -> None:
    assert reasons(runner, MOLECULE) == [
        "TASK [Pull the image]",
        "fatal: [image-1]: FAILED! =>",
        "    msg: The registry does not answer.",
    ]


def test_a_failed_test_of_pytest_is_told(runner: ModuleType) -> None:
    log = "1 passed\nE   assert 1 == 2\nFAILED tests/unit/test_a.py::test_b - assert 1 == 2\n"
    assert reasons(runner, log) == ["E   assert 1 == 2", "FAILED tests/unit/test_a.py::test_b - assert 1 == 2"]


def test_what_is_told_is_bounded(runner: ModuleType) -> None:
    found = reasons(runner, f"FAILED {'x' * 100_000}\n" * 1000)
    assert len(found) == runner.REASONS_SHOWN
    assert all(len(line) < runner.REASON_LENGTH + 10 for line in found)
