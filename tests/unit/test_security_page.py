# SPDX-License-Identifier: GPL-3.0-or-later
"""Each line of the threat model names the test that shows it, and the test is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
TEXT = (REPO / "docs" / "security.md").read_text()
LINES = [line for line in TEXT.splitlines() if line.startswith("|") and not line.startswith(("|---", "| who |"))]


def shown_by(line: str) -> list[str]:
    return re.findall(r"`((?:tests|molecule|images)/[^`]+)`", line.split("|")[-2])


def test_there_is_a_threat_model() -> None:
    assert len(LINES) > 20


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:60])
def test_each_line_is_shown_by_a_test(line: str) -> None:
    assert line.count("|") == 5, "who, could, but, shown by"
    found = shown_by(line)
    assert found, line
    for one in found:
        path, _colons, name = one.partition("::")
        assert (REPO / path).is_file(), one
        assert not name or f"def {name}(" in (REPO / path).read_text(), one
