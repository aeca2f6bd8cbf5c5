# SPDX-License-Identifier: GPL-3.0-or-later
"""A release of a distribution is one row: every role, its metadata and the docs follow from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROW = """  ubuntu-26.04:
    {name: Ubuntu 26.04, galaxy: [Ubuntu, resolute], manager: apt,
     podman: "5.7.0", podman_packages: *packages, podman_remedy: *repository,
     nvidia: ubuntu2604, nvidia_key: 3bf863cc}
"""
HOST_ROLES = ("gpu_host", "podman", "gpu_driver", "container_toolkit")


def rows(root: Path) -> dict[str, dict[str, object]]:
    table = yaml.safe_load((root / "roles" / "gpu_host" / "vars" / "main.yml").read_text())
    found: dict[str, dict[str, object]] = table["__gpu_host_platforms"]
    return found


def test_rows_say_all_that_roles_need(repo_dir: Path) -> None:
    needed = {"name", "galaxy", "manager", "podman", "podman_packages", "podman_remedy", "nvidia", "nvidia_key"}
    for system, row in rows(repo_dir).items():
        assert needed <= set(row) <= needed | {"driver_branches", "module_streams"}, system


def test_no_other_file_of_a_role_names_a_release(repo_dir: Path) -> None:
    for role in HOST_ROLES:
        for path in (repo_dir / "roles" / role).rglob("*.yml"):
            if path.parent.name in ("vars", "tasks", "defaults") and role != "gpu_host":
                text = path.read_text()
                assert not [system for system in rows(repo_dir) if system in text], path


@pytest.fixture
def with_a_new_release(repo_dir: Path, tmp_path: Path) -> Path:
    for part in ("roles", "docs", "tools"):
        shutil.copytree(repo_dir / part, tmp_path / part)
    table = tmp_path / "roles" / "gpu_host" / "vars" / "main.yml"
    table.write_text(table.read_text().replace("  el-8:\n", f"{ROW}  el-8:\n"))
    return tmp_path


def test_a_new_release_is_one_row_and_make_docs(with_a_new_release: Path) -> None:
    docs = [sys.executable, str(with_a_new_release / "tools" / "docs.py")]
    assert subprocess.run([*docs, "--check"], capture_output=True, check=False).returncode == 1
    subprocess.run(docs, check=True, capture_output=True)
    for role in HOST_ROLES:
        meta = yaml.safe_load((with_a_new_release / "roles" / role / "meta" / "main.yml").read_text())
        ubuntu = next(entry for entry in meta["galaxy_info"]["platforms"] if entry["name"] == "Ubuntu")
        assert ubuntu["versions"] == ["jammy", "noble", "resolute"]
    assert "| Ubuntu 26.04 | apt |" in (with_a_new_release / "docs" / "reference.md").read_text()
