# SPDX-License-Identifier: GPL-3.0-or-later
"""Task names begin with one of a few verbs, so that a run reads the same whichever role it is in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted(path.name for path in (Path(__file__).resolve().parents[3] / "roles").iterdir())
VERBS = {
    "Ensure": "a state of the host, whether it has to be changed or not",
    "Install": "packages or images",
    "Configure": "files and settings",
    "Remove": "what is there no more afterwards",
    "Reboot": "the host",
    "Verify": "that what was done works, or that it can be done",
    "Refuse": "to go on, with a sentence",
    "Gather": "what is on the host, which changes nothing",
    "Record": "a fact for later tasks or runs",
    "Report": "what a dry run would do",
}


def tasks(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for item in items:
        yield item
        for part in ("block", "rescue", "always"):
            yield from tasks(item.get(part, []))


@pytest.mark.parametrize("role", ROLES)
def test_tasks_begin_with_a_verb_of_the_list(role: str, repo_dir: Path) -> None:
    files = sorted((repo_dir / "roles" / role).glob("tasks/*.yml")) + sorted(
        (repo_dir / "roles" / role).glob("handlers/*")
    )
    assert files
    for path in files:
        for task in tasks(yaml.safe_load(path.read_text())):
            assert task["name"].split()[0] in VERBS, f"{path.name}: {task['name']}"


def test_tasks_of_playbooks_begin_so_too(repo_dir: Path) -> None:
    """A play has the name of the journey."""
    for path in sorted((repo_dir / "playbooks").rglob("*.yml")):
        for item in yaml.safe_load(path.read_text()):
            for task in tasks(item.get("tasks", []) if "hosts" in item else [item] if "name" in item else []):
                if "ansible.builtin.import_playbook" not in task and not task["name"].startswith("{{"):
                    assert task["name"].split()[0] in VERBS, f"{path.name}: {task['name']}"
