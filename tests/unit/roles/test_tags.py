# SPDX-License-Identifier: GPL-3.0-or-later
"""Tags select steps of roles: ROLE and ROLE_STEP on every task, down to the files that a step includes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._host import facts
from fake_host import FakeHost
from recorder import record
from unit.roles.test_gpu_recorded import VARIABLES, VERSION, driver_packages, looks

pytestmark = pytest.mark.slow

STEPS = {"preflight", "install", "configure", "run", "reboot", "verify"}
ROLES = sorted(path.name for path in (Path(__file__).resolve().parents[3] / "roles").iterdir())


def tasks(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for item in items:
        if "block" in item:
            yield from tasks(item["block"])
        else:
            yield item


@pytest.mark.parametrize("role", ROLES)
def test_every_task_has_its_roles_tag_and_its_step(role: str, repo_dir: Path) -> None:
    main = yaml.safe_load((repo_dir / "roles" / role / "tasks" / "main.yml").read_text())
    changing = set()
    for task in tasks(main):
        tags = [tag for tag in task["tags"] if tag != "always"]
        assert tags[0] == role, task["name"]
        steps = [tag.removeprefix(f"{role}_") for tag in tags[1:]]
        assert set(steps) <= STEPS, task["name"]
        if steps[:1] != ["preflight"]:
            assert len(steps) <= 1, task["name"]
            changing |= set(steps) - {"verify"}
        included = task.get("ansible.builtin.include_tasks")
        if included is not None:
            assert included["apply"] == {"tags": task["tags"]}, f"{task['name']}: what it includes has other tags"
    checked = [set(task["tags"]) for task in tasks(main) if f"{role}_preflight" in task["tags"]]
    assert all(tags >= {f"{role}_{step}" for step in changing} for tags in checked), "preflight goes with every change"


def test_roles_leave_privileges_to_the_inventory(repo_dir: Path) -> None:
    for path in (repo_dir / "roles").rglob("*.yml"):
        assert not re.search(r"^\s*become\w*:", path.read_text(), re.MULTILINE), path


@pytest.fixture
def host(tmp_path: Path) -> dict[str, Any]:
    """A fresh host on which every step has something to do."""
    answer = f"nvidia-kernel-open-dkms | {VERSION}-1\n"
    system = "debian-13"
    return {"looks": looks(tmp_path / system, system, driver_packages(system)), "answers": {"apt-cache": answer}}


@pytest.mark.parametrize(
    ("tags", "used", "unused"),
    [
        ("podman_install", {"apt"}, {"repository_key", "template", "systemd_service"}),
        ("podman_preflight", set(), {"apt", "repository_key", "systemd_service"}),
        ("gpu_driver_install", {"apt", "repository_key", "command"}, {"systemd_service"}),
        ("podman,gpu_driver_configure", {"apt", "copy"}, {"repository_key", "systemd_service"}),
    ],
)
def test_a_tag_runs_its_step_with_all_that_it_includes(
    tmp_path: Path, host: dict[str, Any], tags: str, used: set[str], unused: set[str]
) -> None:
    roles = ["trtllm.fleet.podman", "trtllm.fleet.gpu_driver", "trtllm.fleet.container_toolkit"]
    recorded = record(tmp_path, {"h": host}, roles, {**VARIABLES, "podman_packages": None}, ["--tags", tags])
    assert recorded.returncode == 0, recorded.output
    called = {call.module for call in recorded.calls["h"]}
    assert "gpu_host_info" in called, "preflight goes with every step"
    assert used <= called and not unused & called, called


def test_a_step_can_be_skipped(tmp_path: Path) -> None:
    fresh = FakeHost(tmp_path / "host", "debian-13").packages({"python3-apt": "2.7"})
    host = {"looks": [facts.gather(fresh.system)]}
    recorded = record(tmp_path, {"h": host}, ["trtllm.fleet.podman"], {}, ["--skip-tags", "podman_install"])
    assert recorded.returncode == 0, recorded.output
    assert [call.module for call in recorded.calls["h"]] == ["gpu_host_info"]
