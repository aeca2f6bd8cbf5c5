# SPDX-License-Identifier: GPL-3.0-or-later
"""The description of a fleet, judged by ansible itself on the controller, without any host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._release.options import ENGINE_OPTIONS
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST

pytestmark = pytest.mark.slow

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: trtllm.fleet.fleet, tasks_from: describe.yml, rolespec_validate: false}
      vars: {__fleet_held_ports: {a-0: {http_port: 8050, grpc_port: 8051, metrics_port: 8052}}}
    - ansible.builtin.debug: {msg: "PLAN {{ fleet_description.plan | to_json }}"}
"""


def run(repo: Path, tmp: Path, models: Any, inventory: str = "nowhere,") -> subprocess.CompletedProcess[str]:
    playbook, variables = tmp / "play.yml", tmp / "vars.json"
    playbook.write_text(PLAYBOOK)
    variables.write_text(json.dumps({"trtllm_models": models, "trtllm_release": LAST}))
    argv = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        inventory,
        "-e",
        f"@{variables}",
        str(playbook),
    ]
    env = {**os.environ, "ANSIBLE_CONFIG": str(repo / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(argv, cwd=repo, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The least that is a checkpoint."""
    directory = tmp_path / "llama"
    directory.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_attention_heads": 2,
              "num_hidden_layers": 1, "vocab_size": 16, "intermediate_size": 16}  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    return directory


def test_defaults_are_filled_in_at_every_depth(repo_dir: Path, tmp_path: Path, checkpoint: Path) -> None:
    done = run(repo_dir, tmp_path, [{"name": "a", "checkpoint": {"path": str(checkpoint)}}])
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"streaming": true' in done.stdout.replace("\\", "")
    assert '"root": "/var/lib/trtllm"' in done.stdout.replace("\\", "")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"engine": {"tp_sise": 2}}, "trtllm_models[0].engine.tp_sise is not an option; did you mean 'tp_size'?"),
        ({"servin": {}}, "trtllm_models[0].servin is not an option; did you mean 'serving'?"),
        (
            {"serving": {"replicas": [{"gpu": [0]}]}},
            "trtllm_models[0].serving.replicas[0].gpu is not an option; did you mean 'gpus'?",
        ),
        ({"engine": {"tp_size": 2}, "serving": {"replicas": [{"gpus": [0]}]}}, "the engine has 2 ranks"),
        ({"engine": {"max_batch_size": "many"}}, "max_batch_size"),
        ({"engine": {"max_batch_size": 0}}, "a: engine.max_batch_size is 0; give a number from 1 to 65,536."),
        ({"engine": {"max_input_len": 5, "max_seq_len": 4}}, "a: engine.max_seq_len is 4 but max_input_len is 5"),
        ({"engine": {"tp_size": 10**8}}, "a: engine.tp_size is 100000000; give a number from 1 to 64."),
        (
            {"engine": {"xyzzy": 1}},
            f"engine.xyzzy is not an option; known there: the {len(ENGINE_OPTIONS)} keys that "
            "`ansible-doc trtllm.fleet.trtllm_engine` lists.",
        ),
        ({"repository": {"parameters": {"tensorrt_llm": {"max_beam_wdth": 1}}}}, "did you mean 'max_beam_width'"),
        ({"checkpoint": {"path": "/nonexistent/llama"}}, "/nonexistent/llama"),
    ],
)
def test_bad_descriptions_never_reach_a_host(
    repo_dir: Path, tmp_path: Path, checkpoint: Path, change: dict[str, Any], sentence: str
) -> None:
    # The host does not exist: anything but a refusal on the controller would be "unreachable".
    done = run(repo_dir, tmp_path, [{"name": "a", "checkpoint": {"path": str(checkpoint)}, **change}])
    text = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0
    assert sentence in text
    assert "Traceback" not in text
    assert "UNREACHABLE" not in text


def test_ports_that_the_host_holds_reach_the_plan(repo_dir: Path, tmp_path: Path, checkpoint: Path) -> None:
    done = run(repo_dir, tmp_path, [{"name": name, "checkpoint": {"path": str(checkpoint)}} for name in ("new", "a")])
    assert "http://127.0.0.1:8050" in done.stdout, done.stdout + done.stderr
    assert "http://127.0.0.1:8000" in done.stdout


def test_checkpoints_of_the_controller_are_looked_at_first(repo_dir: Path, tmp_path: Path, checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    done = run(repo_dir, tmp_path, [{"name": "a", "checkpoint": {"path": str(checkpoint)}}])
    assert done.returncode != 0
    assert "config.json" in done.stdout + done.stderr


def test_a_fleet_wide_value_arrives_with_each_inventory(repo_dir: Path) -> None:
    for inventory in ("demo", "example"):
        argv = [str(Path(sys.executable).parent / "ansible-inventory"), "-i", f"inventories/{inventory}", "--list"]
        env = {**os.environ, "ANSIBLE_CONFIG": str(repo_dir / "ansible.cfg")}
        done = subprocess.run(argv, cwd=repo_dir, env=env, capture_output=True, text=True, check=True)
        hosts = json.loads(done.stdout)["_meta"]["hostvars"]
        assert hosts
        assert all(values["trtllm_release"] for values in hosts.values())
