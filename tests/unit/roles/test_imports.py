# SPDX-License-Identifier: GPL-3.0-or-later
"""A role imports its own files, also where the playbook of a user has a file of that name among its tasks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted(path.name for path in (Path(__file__).resolve().parents[3] / "roles").iterdir())
IMPORT = "ansible.builtin.import_tasks"
# A name alone is looked for in the playbook's directory first, where a file that was included dynamically imports it.
OWN = re.compile(r"\{\{ role_path \}\}/tasks/(\w+\.yml)")


def imports(items: list[dict[str, Any]]) -> Iterator[str]:
    """What a file of tasks imports."""
    for item in items:
        assert "import_tasks" not in item
        if IMPORT in item:
            yield item[IMPORT] if isinstance(item[IMPORT], str) else item[IMPORT]["file"]
        for part in ("block", "rescue", "always"):
            yield from imports(item.get(part, []))


@pytest.mark.parametrize("role", ROLES)
def test_imported_files_are_named_by_the_path_of_the_role(role: str, repo_dir: Path) -> None:
    for path in sorted((repo_dir / "roles" / role / "tasks").glob("*.yml")):
        for imported in imports(yaml.safe_load(path.read_text())):
            own = OWN.fullmatch(imported)
            assert own, f"{role}/tasks/{path.name} imports {imported}: write {{{{ role_path }}}}/tasks/ before it"
            assert (path.parent / own[1]).is_file(), f"{role}/tasks/{path.name} imports {imported}"


@pytest.mark.slow
@pytest.mark.parametrize(("imported", "found"), [("build.yml", "USER"), ("{{ role_path }}/tasks/build.yml", "ROLE")])
def test_ansible_takes_a_name_alone_for_the_users(imported: str, found: str, repo_dir: Path, tmp_path: Path) -> None:
    """Why the rule is there; once both are ROLE, it may go."""
    tasks = tmp_path / "roles" / "made" / "tasks"
    tasks.mkdir(parents=True)
    (tmp_path / "tasks").mkdir()
    files = {
        tmp_path / "tasks" / "build.yml": [{"ansible.builtin.debug": {"msg": "USER builds"}}],
        tasks / "build.yml": [{"ansible.builtin.debug": {"msg": "ROLE builds"}}],
        tasks / "main.yml": [{"ansible.builtin.include_tasks": "share.yml"}],
        tasks / "share.yml": [{IMPORT: imported}],
        tmp_path / "play.yml": [{"hosts": "localhost", "gather_facts": False, "roles": ["made"]}],
    }
    for path, content in files.items():
        path.write_text(yaml.safe_dump(content))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(tmp_path / "play.yml")],
        cwd=tmp_path, env={**os.environ, "ANSIBLE_CONFIG": str(repo_dir / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"(ROLE|USER) builds", done.stdout) == [found]
