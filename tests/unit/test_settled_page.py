# SPDX-License-Identifier: GPL-3.0-or-later
"""The page says for each file of a role's tasks which parts of the record stand for it, and there is no other part."""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.trtllm.fleet.plugins.module_utils._settled.parts import PARTS

# Roles that site.yml does not run.
ELSEWHERE = {"kubernetes", "monitoring", "slurm"}


def test_every_file_of_tasks_has_a_part_that_stands_for_it(repo_dir: Path) -> None:
    text = (repo_dir / "docs" / "settled.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_]+/[a-z_]+)` \| ([^|]+) \|$", text, re.MULTILINE))
    tasks = {
        f"{path.parents[1].name}/{path.stem}"
        for path in (repo_dir / "roles").glob("*/tasks/*.yml")
        if path.parents[1].name not in ELSEWHERE
    }
    assert set(rows) == tasks
    for file, parts in rows.items():
        assert set(parts.split(", ")) <= {*PARTS, "given"}, file


def test_every_part_is_explained_and_named_by_a_file(repo_dir: Path) -> None:
    text = (repo_dir / "docs" / "settled.md").read_text()
    rows = re.findall(r"^\| `[a-z_]+/[a-z_]+` \| ([^|]+) \|$", text, re.MULTILINE)
    explained = set(re.findall(r"^\| ([a-zA-Z' ]+) \| .+ \|$", text, re.MULTILINE))
    assert set(PARTS) <= explained
    assert set(PARTS) <= {part for row in rows for part in row.split(", ")}
