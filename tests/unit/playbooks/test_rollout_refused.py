# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollout that is refused says why in a sentence that stands alone, as ansible itself prints it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST

pytestmark = pytest.mark.slow

# The plan, without what has to ask hosts.
PLANNED = ("Record the rollout that would keep to its options", "Refuse what cannot be kept", "Record the rollout")
NO_HOST = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}


def run(repo: Path, tmp: Path, playbook: str, hosts: dict[str, Any], *argv: str) -> tuple[int, str]:
    """The exit status and what was printed, with line breaks and blanks as one blank."""
    (tmp / "hosts.json").write_text(json.dumps({"gpu_hosts": {"hosts": hosts}}))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(tmp / "hosts.json"), playbook, *argv],
        cwd=repo, env={**os.environ, "ANSIBLE_CONFIG": str(repo / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def alone(text: str, sentence: str) -> bool:
    """Whether what failed said this and nothing else."""
    found = re.findall(r"\[ERROR\]: (.*?) Origin: ", text)
    return bool(found) and all(re.sub("^Task failed: (Action failed: )?", "", one) == sentence for one in found)


def test_an_option_that_is_none_is_refused_before_any_host_is_asked(repo_dir: Path, tmp_path: Path) -> None:
    """By site.yml too, which does other things before it rolls out."""
    hosts = {"h1": {**NO_HOST, "trtllm_release": LAST, "trtllm_models": []}}
    site = str(repo_dir / "playbooks" / "site.yml")
    status, text = run(repo_dir, tmp_path, site, hosts, "-e", "rollout_max_failed=many")
    assert status == 2 and "UNREACHABLE" not in text
    assert alone(text, "rollout_max_failed is 'many'; give a number of hosts, 0 or more."), text


def test_who_takes_no_plan_is_refused_before_the_host_is_asked(repo_dir: Path, tmp_path: Path) -> None:
    """As a rollback, and as an inventory that gives an option by a template."""
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump([{
            "hosts": "gpu_hosts", "gather_facts": False,
            "tasks": [{"trtllm.fleet.rollout_lock": {"root": str(tmp_path / "root"), "id": "r1"}}],
        }])
    )  # fmt: skip
    hosts = {"h1": {**NO_HOST, "rollout_drain_timeout": "{{ 'lo' ~ 'ng' }}"}}
    status, text = run(repo_dir, tmp_path, str(tmp_path / "play.yml"), hosts)
    assert status == 2 and "UNREACHABLE" not in text
    assert alone(text, "rollout_drain_timeout is 'long'; give whole seconds, 0 or more."), text


def test_what_cannot_be_kept_is_told_as_it_is(repo_dir: Path, tmp_path: Path) -> None:
    playbooks = repo_dir / "playbooks"
    plan = yaml.safe_load((playbooks / "rollout.yml").read_text())[0]
    plan["tasks"] = [task for task in plan["tasks"] if task["name"] in PLANNED]
    assert [task["name"] for task in plan["tasks"]] == list(PLANNED)
    refusal = plan["tasks"][1]["block"]
    assert refusal[0]["ansible.builtin.import_tasks"] == "tasks/rollout_end.yml"
    refusal[0] = {"name": "Show", "ansible.builtin.debug": {"msg": "ENDED"}, "run_once": True}
    plan["tasks"].append({"name": "Show", "ansible.builtin.debug": {"msg": "PLANNED {{ rollout.switched }}"}})
    (tmp_path / "play.yml").write_text(yaml.safe_dump([plan]))
    serves = {
        "service": "triton-llama-0", "model": "llama", "http_url": "http://h:8000", "active": "active",
        "action": "restarted", "reason": "why",
    }  # fmt: skip
    found = {"replicas": {"llama-0": serves}, "unsettled": {}, "reasons": [], "builds": False}
    one = {"ansible_connection": "local", "fleet_plan": {"serves": True}, "rollout_found": found}
    hosts = {"h1": one, "h2": one}
    status, text = run(repo_dir, tmp_path, str(tmp_path / "play.yml"), hosts, "-e", "rollout_min_available=2")
    assert status == 2 and "ENDED" in text and "PLANNED" not in text
    assert alone(
        text,
        "llama would have 1 of 2 replicas in service while h1 is switched, and rollout_min_available asks for 2; "
        "serve it on more hosts, or allow less.",
    ), text
    status, text = run(repo_dir, tmp_path, str(tmp_path / "play.yml"), hosts)
    assert status == 0 and "ENDED" not in text
    assert text.count("PLANNED ['h1', 'h2']") == 2
