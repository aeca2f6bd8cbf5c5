# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/faults.md: the matrix, and what was found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import matrix
from .rows import STAGES, Row

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "faults.md"
HEAD = """# What happens when something breaks

`make faults` breaks it in {count} ways, on test hosts with real systemd, podman and Triton; GPUs alone are made up. Of
each fault it holds four things: the run that is struck says what happened, nothing is half made, nothing that was
published is lost, and the next run, after what an operator has to do if anything, repairs it, so that a token comes
through the gateway again. This page is written by it, from what was found.

```sh
make faults                              # all rows that are not known yet; what was found is kept, so it goes on
make faults ARGUMENTS='--only engine'    # the rows that have this in their name
make faults ARGUMENTS='--list'
```

Seconds are of the whole row, on two cores with other work on them: the fault, the run that is struck, and the one that
repairs. Where nothing is said, the run was killed, or had nothing to tell as it made all right.
"""
WAITING = """## Not run yet

These are written, and have not been run to their end since; nothing is claimed of them.

"""


def cell(text: str) -> str:
    """A text that stands in one cell."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").strip()


def line(row: Row, found: Mapping[str, Any]) -> str:
    """One row of the table."""
    said = found.get("found", "")
    cells = [row.fault, row.when, row.expected, f"“{said}”" if said else row.ends, str(found.get("seconds", ""))]
    return f"| {' | '.join(cell(text) for text in cells)} |"


def known(written: str) -> dict[tuple[str, ...], str]:
    """The rows of a page, by stage, fault, when and expected."""
    rows, stage = {}, ""
    for row in written.splitlines():
        if row.startswith("## "):
            stage = row[3:]
        elif row.startswith("| ") and not row.startswith("| fault "):
            rows[(stage, *re.split(r" ?(?<!\\)\| ?", row)[1:4])] = row
    return rows


def text(found: Mapping[str, Mapping[str, Any]], rows: Sequence[Row] = matrix.ROWS, written: str = "") -> str:
    """The whole page, with what was found as expected; a row that was not run here stays as it was *written*."""
    before = known(written)
    shown: dict[str, dict[str, str]] = {stage: {} for stage in STAGES}
    for row in rows:
        one = found.get(row.name) or {}
        kept = before.get((row.stage, *map(cell, (row.fault, row.when, row.expected))))
        if one.get("ok"):
            shown[row.stage][row.name] = line(row, one)
        elif "ok" not in one and kept:
            shown[row.stage][row.name] = kept
    parts = [HEAD.format(count=sum(map(len, shown.values())))]
    for stage, lines in shown.items():
        if lines:
            table = ["| fault | when | expected | found | seconds |", "|---|---|---|---|---|"]
            parts.append(f"## {stage}\n\n" + "\n".join([*table, *lines.values()]) + "\n")
    told = {name for names in shown.values() for name in names}
    waiting = [f"- {cell(row.name)}" for row in rows if row.name not in told]
    if waiting:
        parts.append(WAITING + "\n".join(waiting) + "\n")
    return "\n".join(parts)


def write(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Write it."""
    PAGE.write_text(text(found, written=PAGE.read_text(encoding="utf-8")), encoding="utf-8")
