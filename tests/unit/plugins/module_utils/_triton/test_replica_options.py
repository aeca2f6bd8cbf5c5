# SPDX-License-Identifier: GPL-3.0-or-later
"""An option of a replica is described once, in a table; the role's files repeat it by ``make docs``."""

from __future__ import annotations

import difflib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.options import DEFAULTS
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.replica import served

TABLE = "plugins/module_utils/_triton/options.py"
ROW = """    ReplicaOption(
        "nap", "int", "Seconds between O(triton_stop_timeout) and: the end.", variable=True, default=7
    ),
]
"""


@pytest.fixture(scope="module")
def grown(repo_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree with one more row in the table, after ``make docs``."""
    root = tmp_path_factory.mktemp("grown") / "fleet"
    for name in ("plugins", "roles", "docs", "tools", "meta", "collections"):
        shutil.copytree(
            repo_dir / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*_cache")
        )
    table = root / TABLE
    table.write_text(table.read_text().replace("\n]\n", f"\n{ROW}", 1))
    subprocess.run([sys.executable, "tools/docs.py"], cwd=root, check=True, capture_output=True)
    subprocess.run([sys.executable, "tools/docs.py", "--check"], cwd=root, check=True, capture_output=True)
    return root / "roles" / "triton"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_a_row_is_all_that_an_option_needs(grown: Path) -> None:
    assert read(grown / "defaults/main.yml")["triton_nap"] == 7
    assert (
        "# Seconds between triton_stop_timeout and: the end.\ntriton_nap: 7\n"
        in (grown / "defaults/main.yml").read_text()
    )
    assert read(grown / "vars/main.yml")["__triton_settings"]["nap"] == "{{ triton_nap }}"
    specs = read(grown / "meta/argument_specs.yml")["argument_specs"]
    assert specs["main"]["options"]["triton_nap"] == {
        "type": "int", "default": 7, "description": "Seconds between O(triton_stop_timeout) and: the end.",
    }  # fmt: skip
    for entry in ("main", "preflight"):
        replica = specs[entry]["options"]["triton_replicas"]["options"]["nap"]
        assert replica == {"type": "int", "description": "Instead of O(triton_nap)."}


def test_the_rest_of_the_role_stays_as_it_is_written(grown: Path, repo_dir: Path) -> None:
    for name in ("defaults/main.yml", "vars/main.yml", "meta/argument_specs.yml"):
        before = (repo_dir / "roles" / "triton" / name).read_text().splitlines()
        after = (grown / name).read_text().splitlines()
        assert not [line for line in difflib.ndiff(before, after) if line.startswith("- ")], name


def test_a_replica_is_served_as_the_table_has_it_where_nothing_else_is_said() -> None:
    (replica,) = served([{"name": "a", "model": "m", "stop_timeout": 5}], {"shm_size": "4g"})
    assert (replica["stop_timeout"], replica["shm_size"]) == (5, "4g")
    assert (replica["mode"], replica["world_size"], replica["address"]) == ("leader", 1, "127.0.0.1")
    assert {name: replica[name] for name in DEFAULTS if name not in ("stop_timeout", "shm_size")} == {
        name: value for name, value in DEFAULTS.items() if name not in ("stop_timeout", "shm_size")
    }
