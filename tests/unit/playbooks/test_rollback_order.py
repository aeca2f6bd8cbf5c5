# SPDX-License-Identifier: GPL-3.0-or-later
"""The batches of a rollback, as ansible itself makes them of the playbook's own tasks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ORDER = ("Record the order in which hosts are rolled back", "Record the hosts that are rolled back")


def batches(repo: Path, tmp: Path, hosts: dict[str, dict[str, Any]], *argv: str) -> list[list[str]]:
    """What is in each batch of hosts that have the given replicas and workers."""
    before, after = yaml.safe_load((repo / "playbooks" / "rollback.yml").read_text())[:2]
    before["tasks"] = [task for task in before["tasks"] if task["name"] in ORDER]
    assert len(before["tasks"]) == len(ORDER)
    after["tasks"] = [
        {
            "name": "Show",
            "ansible.builtin.debug": {"msg": "BATCH {{ ansible_play_batch | join(',') }} END"},
            "run_once": True,
        }
    ]
    (tmp / "play.yml").write_text(yaml.safe_dump([before, after]))
    settled = {"rollback_services": ["triton-r"], "rollout_lock": {"unsettled": {}}}
    known = {
        name: {
            **settled,
            "rollback_found": {"replicas": has.pop("replicas", []), "workers": has.pop("workers", [])},
            **has,
        }
        for name, has in hosts.items()
    }
    (tmp / "hosts.json").write_text(json.dumps({"gpu_hosts": {"hosts": known}}))
    env = {**os.environ, "ANSIBLE_CONFIG": str(repo / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    ansible = str(Path(sys.executable).parent / "ansible-playbook")
    done = subprocess.run(
        [ansible, "-i", str(tmp / "hosts.json"), str(tmp / "play.yml"), *argv],
        cwd=repo, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [found.split(",") for found in re.findall(r"BATCH (\S+) END", done.stdout)]


def replica(*nodes: str) -> list[dict[str, Any]]:
    return [{"replica": "r", "service": "triton-r", "nodes": list(nodes)}]


def test_hosts_go_back_one_by_one_and_nodes_of_a_replica_together(repo_dir: Path, tmp_path: Path) -> None:
    def hosts() -> dict[str, dict[str, Any]]:
        return {
            "a": {"replicas": replica()},
            "b": {"replicas": replica("b", "c")},
            "c": {"workers": replica("b", "c")},
            "d": {"replicas": replica(), "rollout_lock": {"unsettled": {"triton-r": ""}}},
        }

    # That whose gate is due comes first.
    assert batches(repo_dir, tmp_path, hosts()) == [["d"], ["a"], ["c", "b"]]
    assert batches(repo_dir, tmp_path, hosts(), "-e", "rollback_serial=3") == [["d", "a"], ["c", "b"]]


def test_nothing_to_roll_back_is_no_failure(repo_dir: Path, tmp_path: Path) -> None:
    assert batches(repo_dir, tmp_path, {"a": {"replicas": replica(), "rollback_services": []}}) == []
