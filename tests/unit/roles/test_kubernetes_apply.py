# SPDX-License-Identifier: GPL-3.0-or-later
"""How the role kubernetes applies what it has rendered: stage by stage, each after the Jobs of the one before.

The collection that asks the API server is played by one with its options that writes down what it was asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from unit.kubernetes_fakes import LEAST, MODELS

# The options of kubernetes.core's modules that are used, by their documentation.
OPTIONS = {
    "k8s": ["state", "definition", "apply", "server_side_apply", "kubeconfig", "context"],
    "k8s_info": ["api_version", "kind", "name", "namespace", "kubeconfig", "context"],
}
MODULE = """#!/usr/bin/python
import json, os
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(argument_spec={option: {"type": "raw"} for option in OPTIONS}, supports_check_mode=True)
said = os.environ["FAKE_CLUSTER"]
with open(said, "a") as log:
    log.write(json.dumps([NAME, module.params]) + "\\n")
looks = sum(json.loads(line)[1].get("name") == module.params.get("name") for line in open(said))
ended = "Failed" if os.environ["FAKE_FAILS"] in str(module.params.get("name")) else "Complete"
status = {} if looks < 2 else {"conditions": [{"type": ended, "status": "True"}], "succeeded": int(ended == "Complete")}
module.exit_json(changed=NAME == "k8s", resources=[{"metadata": {"name": module.params.get("name")}, "status": status}])
"""


def applied(
    repo_dir: Path, tmp_path: Path, fails: str = "none of them"
) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    """The run of the role, and what the cluster was asked."""
    modules = tmp_path / "collections/ansible_collections/kubernetes/core/plugins/modules"
    modules.mkdir(parents=True)
    for name, options in OPTIONS.items():
        (modules / f"{name}.py").write_text(MODULE.replace("OPTIONS", repr(options)).replace("NAME", repr(name)))
    variables = {
        "trtllm_release": LAST, "trtllm_models": MODELS[:1], "kubernetes_apply": True, "kubernetes_apply_delay": 1,
        "kubernetes_apply_timeout": 5, "kubernetes_namespace": LEAST["namespace"], "kubernetes_gpu_product": "X",
        "kubernetes_triton_image": "reg.example/t:1", "kubernetes_gateway_image": "reg.example/g:1",
        "kubernetes_fetch_image": "reg.example/f:1", "kubernetes_output": str(tmp_path / "out"),
        "ansible_python_interpreter": sys.executable,
    }  # fmt: skip
    play = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": ["trtllm.fleet.kubernetes"]}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    (tmp_path / "vars.json").write_text(json.dumps(variables))
    log = tmp_path / "log"
    log.touch()
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "play.yml", "-i", "localhost,", "-e", "@vars.json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": f"{repo_dir / 'collections'}:{tmp_path / 'collections'}",
             "FAKE_CLUSTER": str(log), "FAKE_FAILS": fails},
    )  # fmt: skip
    return done, [json.loads(line) for line in log.read_text().splitlines()]


def in_order(asked: list[Any]) -> list[str]:
    """What was asked, one word each, the same only once in a row."""
    words: list[str] = []
    for module, given in asked:
        kinds = {one["kind"] for one in given.get("definition") or []}
        word = (
            f"{module} {given['name'].split('-')[0] if module == 'k8s_info' else 'Job' if 'Job' in kinds else 'pods'}"
        )
        words += [word] if words[-1:] != [word] else []
    return words


@pytest.mark.slow
def test_a_stage_follows_when_the_jobs_of_the_one_before_are_done(repo_dir: Path, tmp_path: Path) -> None:
    done, asked = applied(repo_dir, tmp_path)
    assert done.returncode == 0, done.stdout
    assert in_order(asked) == ["k8s Job", "k8s_info fetch", "k8s Job", "k8s_info build", "k8s pods"]
    assert all(given["apply"] and given["server_side_apply"] for module, given in asked if module == "k8s")
    # Each Job was looked at again until it had ended.
    assert len([given for module, given in asked if module == "k8s_info"]) == 4


@pytest.mark.slow
def test_after_a_job_that_failed_nothing_more_is_applied(repo_dir: Path, tmp_path: Path) -> None:
    done, asked = applied(repo_dir, tmp_path, "build-")
    assert done.returncode != 0
    assert in_order(asked) == ["k8s Job", "k8s_info fetch", "k8s Job", "k8s_info build"]
    said = " ".join(done.stdout.split())
    assert "The stage build is not done: build-small-" in said and "The next stage was not applied" in said
