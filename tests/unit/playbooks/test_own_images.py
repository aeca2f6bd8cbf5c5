# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts bring the images of all their models: the playbooks' own tasks, with a podman that only tells ids."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST

pytestmark = pytest.mark.slow

PODMAN = f"""#!{sys.executable}
import hashlib, json, sys
words = sys.argv[1:]
if words[:2] == ["image", "inspect"]:
    identity = hashlib.sha256(words[-1].encode()).hexdigest()
    print(identity if "--format" in words else json.dumps([{{"Id": identity, "Size": 5, "Architecture": "amd64"}}]))
else:
    print("podman version 5.4.2" if words[0] == "--version" else "{LAST}")
"""
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: trtllm.fleet.fleet, tasks_from: describe.yml, rolespec_validate: false}
    - ansible.builtin.set_fact: {fleet_plan: "{{ fleet_description.plan }}"}
    - ansible.builtin.include_tasks: %s/playbooks/tasks/prepare.yml
    - ansible.builtin.debug: {msg: "TOLD {{ inventory_hostname }} {{ told | to_json | b64encode }}"}
      vars:
        told:
          shared: "{{ fleet_image }}"
          engines: "{{ fleet_plan.engines | trtllm.fleet.image_inputs(fleet_images) }}"
"""
OLD = {"release": "0.8.0", "image": {"name": "r.example.com/triton:old", "source": "present"}}


def run(repo: Path, tmp: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Two hosts: one serves a model of another release beside one of the fleet's, the other only the latter."""
    podman = tmp / "bin" / "podman"
    podman.parent.mkdir()
    podman.write_text(PODMAN)
    podman.chmod(0o755)
    checkpoint = tmp / "checkpoint"
    checkpoint.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_attention_heads": 2,
              "num_hidden_layers": 1, "vocab_size": 16, "intermediate_size": 16}  # fmt: skip
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "tokenizer.json").write_text("{}")
    (checkpoint / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    model = {"checkpoint": {"path": str(checkpoint), "location": "host", "in_place": True}}
    new = {"name": "new", **model}
    hosts = {"h1": {"trtllm_models": [{"name": "old", **model, **OLD}, new]}, "h2": {"trtllm_models": [new]}}
    common = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "trtllm_root": str(tmp / "root"),
        "trtllm_release": LAST, "triton_image_name": "r.example.com/triton:new", "triton_image_source": "present",
    }  # fmt: skip
    (tmp / "hosts.yml").write_text(json.dumps({"all": {"vars": common, "children": {"gpu_hosts": {"hosts": hosts}}}}))
    (tmp / "play.yml").write_text(PLAY % repo)
    env = {**os.environ, "ANSIBLE_CONFIG": str(repo / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1",
           "ANSIBLE_STDOUT_CALLBACK": "default", "PATH": f"{podman.parent}:{os.environ['PATH']}"}  # fmt: skip
    ansible = str(Path(sys.executable).parent / "ansible-playbook")
    return subprocess.run(
        [ansible, "-i", str(tmp / "hosts.yml"), *arguments, str(tmp / "play.yml")],
        cwd=repo, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def told(text: str, host: str) -> dict[str, object]:
    word = text.split(f"TOLD {host} ", 1)[1].split()[0].rstrip("'\"")
    found: dict[str, object] = json.loads(base64.b64decode(word))
    return found


def test_each_host_gets_the_images_of_its_models(repo_dir: Path, tmp_path: Path) -> None:
    done = run(repo_dir, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = told(done.stdout, "h1"), told(done.stdout, "h2")
    old, new = first["engines"]  # type: ignore[misc]
    assert old["release"] == "0.8.0"
    assert old["image"].startswith("sha256:")
    assert old["image"] != first["shared"] == second["shared"]
    assert "image" not in new


def test_an_image_of_the_command_line_would_take_the_place_of_all(repo_dir: Path, tmp_path: Path) -> None:
    done = run(repo_dir, tmp_path, "-e", "triton_image_name=r.example.com/x:1", "--limit", "h1")
    assert done.returncode != 0
    text = " ".join(done.stdout.split())
    assert "triton_image_name is given on the command line as r.example.com/x:1, which would take the place of" in text
