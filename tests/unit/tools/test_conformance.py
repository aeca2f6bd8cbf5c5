# SPDX-License-Identifier: GPL-3.0-or-later
"""What two servers pass of the conformance suite is one table."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]


def test_the_table_has_a_row_for_each_subject_and_one_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO / "tools"))
    conformance = importlib.import_module("conformance")
    table = conformance.comparison(
        {
            "ours": {"chat": Counter(passed=3, skipped=1), "tools": Counter(passed=1, failed=1)},
            "theirs": {"chat": Counter(failed=3), "new": Counter(passed=1)},
        }
    ).splitlines()
    assert table[:2] == ["| checks passed of | ours | theirs |", "| --- | --- | --- |"]
    assert "| chat | 3 of 3 | 0 of 3 |" in table and "| tools | 1 of 2 | 0 of 0 |" in table
    assert "| new | 0 of 0 | 1 of 1 |" in table and "| all | 4 of 5 | 1 of 4 |" in table
    assert table[-1] == "Not asked, as not said to be offered: 1 of ours, 0 of theirs."


def test_every_file_of_the_suite_has_a_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO / "tools"))
    conformance = importlib.import_module("conformance")
    files = {path.stem.removeprefix("test_") for path in (REPO / "tests" / "conformance").glob("test_*.py")}
    assert files == set(conformance.SUBJECTS)
