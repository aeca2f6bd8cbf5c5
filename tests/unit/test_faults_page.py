# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/faults.md has every row of the matrix of faults, and no other, as it was found."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPO / "tests"))

from faults import matrix, page, run
from faults.rows import FAILS, STAGES, Row
from faults.words import WORDS

PAGE = (REPO / "docs" / "faults.md").read_text(encoding="utf-8")


ON_THE_PAGE = page.known(PAGE)
RUN = [row for row in matrix.ROWS if (row.stage, *map(page.cell, (row.fault, row.when, row.expected))) in ON_THE_PAGE]


def test_the_page_has_no_row_that_is_not_there() -> None:
    assert len(RUN) == len(ON_THE_PAGE)


def test_the_page_names_every_row_that_was_not_run() -> None:
    waiting = [f"- {page.cell(row.name)}" for row in matrix.ROWS if row not in RUN]
    assert PAGE.partition(page.WAITING)[2].splitlines() == waiting


def test_what_was_found_as_expected_is_written_and_what_was_not_run_stays() -> None:
    first, second, third = matrix.ROWS[:3]
    written = page.text({row.name: {"ok": True, "found": "old", "seconds": 1} for row in (first, second, third)})
    found = {first.name: {"ok": True, "found": "new", "seconds": 2}, second.name: {"ok": False, "found": "bad"}}
    rows = page.known(page.text(found, written=written))
    assert {key[1:3] for key in rows} == {tuple(map(page.cell, (row.fault, row.when))) for row in (first, third)}
    assert [row.split(" | ")[-2:] for row in rows.values()] == [["“new”", "2 |"], ["“old”", "1 |"]]


def test_a_page_on_which_nothing_was_found_anew_stays_as_it_is() -> None:
    assert page.text({}, written=PAGE) == PAGE


def test_there_are_as_many_as_were_promised_in_every_stage() -> None:
    assert len(RUN) >= 80
    assert {row.stage for row in RUN} == set(STAGES)
    assert len({row.name for row in matrix.ROWS}) == len(matrix.ROWS)


@pytest.mark.parametrize("row", RUN, ids=lambda row: row.name)
def test_a_run_that_fails_says_what_is_held(row: Row) -> None:
    assert len(row.says) > 8 or row.ends != FAILS


def test_words_are_of_rows_that_are_there() -> None:
    assert set(WORDS) <= {row.name for row in matrix.ROWS}


def test_the_page_tells_nothing_of_a_machine() -> None:
    assert not re.search(r"10\.200\.0\.|/(root|home|work)/|brk[1-5]|20\d\d-\d\d-\d\d", PAGE)


def test_what_is_of_the_moment_is_not_told() -> None:
    said = "brk1 at 10.200.0.11: 10.200.0.2:5000/x@sha256:" + "ab" * 32 + " since 2026-01-02 03:04:05"
    assert run.cleaned(said) == "gpu-01 at 192.0.2.11: registry/x@sha256:… since TIME"


def test_what_a_lost_host_says_is_told_whole() -> None:
    said = "brk1 is lost: podman cannot pull 'a': EOF (at 'Install the image') PLAY RECAP"
    assert run.sentence(said, "cannot pull") == "podman cannot pull 'a': EOF"


def names_of_tasks() -> list[str]:
    """The headings that a run shows: of plays, of tasks of playbooks, and of tasks of roles."""
    found = ["PLAY RECAP "]
    for path in sorted([*(REPO / "playbooks").rglob("*.yml"), *(REPO / "roles").glob("*/tasks/*.yml")]):
        role = f"trtllm.fleet.{path.parent.parent.name} : " if path.parent.parent.parent.name == "roles" else ""
        for name in re.findall(r"^ *- name: \"?(.+?)\"?$", path.read_text(encoding="utf-8"), re.M):
            found += [f"TASK [{role}{name}]", f"PLAY [{name}]"]
    return found


@pytest.mark.parametrize("row", [row for row in matrix.ROWS if row.strikes], ids=lambda row: row.name)
def test_what_a_strike_waits_for_is_shown_by_a_run(row: Row) -> None:
    shown = names_of_tasks()
    for strike in row.strikes:
        assert any(re.search(strike.line, line) for line in shown), strike.line
