# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are kept on a host is said once: by ``DEFAULT_ROOT``, and in a play by one default for all modules."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT

BIN = Path(sys.executable).parent
CONSTANT = "plugins/module_utils/_base/names.py"
# What `make docs` writes.
GENERATED = [
    "plugins/doc_fragments/root.py", "plugins/modules/fleet_plan.py", "plugins/modules/gpu_host_info.py",
    "roles/checkpoint/defaults/main.yml", "roles/checkpoint/meta/argument_specs.yml",
    "roles/container_toolkit/vars/main.yml",
    "roles/engine/defaults/main.yml", "roles/engine/meta/argument_specs.yml",
    "roles/fleet/meta/argument_specs.yml",
    "roles/model_repository/defaults/main.yml", "roles/model_repository/meta/argument_specs.yml",
    "roles/openai_gateway/defaults/main.yml", "roles/openai_gateway/meta/argument_specs.yml",
    "roles/tokenizer/defaults/main.yml", "roles/tokenizer/meta/argument_specs.yml",
    "roles/triton/defaults/main.yml", "roles/triton/meta/argument_specs.yml",
    "roles/triton_image/defaults/main.yml", "roles/triton_image/meta/argument_specs.yml",
]  # fmt: skip


def examples_of(path: Path, text: str) -> str:
    """What a module's EXAMPLES and RETURN hold, or a role's README: a reader's own paths begin somewhere."""
    if path.name == "README.md":
        return text
    if path.parent.name != "modules" or path.suffix != ".py":
        return ""
    values = [node.value for node in ast.parse(text).body if isinstance(node, ast.Assign)
              and getattr(node.targets[0], "id", "") in ("EXAMPLES", "RETURN")]  # fmt: skip
    return "".join(ast.literal_eval(value) for value in values)


def spelled(root: Path) -> list[str]:
    """Files that write the default out, apart from examples."""
    found = []
    for path in sorted(path for part in ("plugins", "roles", "playbooks") for path in (root / part).rglob("*")):
        if not path.is_file() or path.suffix == ".pyc":
            continue
        text = path.read_text()
        if text.count(DEFAULT_ROOT) > examples_of(path, text).count(DEFAULT_ROOT):
            found.append(str(path.relative_to(root)))
    return found


def test_the_default_stands_in_one_place_and_where_it_is_generated(repo_dir: Path) -> None:
    assert spelled(repo_dir) == sorted([CONSTANT, *GENERATED])


def test_another_default_is_one_line_and_make_docs(repo_dir: Path, tmp_path: Path) -> None:
    root = tmp_path / "fleet"
    for name in ("plugins", "roles", "docs", "tools", "meta", "collections", "playbooks"):
        shutil.copytree(
            repo_dir / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*_cache")
        )
    constant = root / CONSTANT
    constant.write_text(constant.read_text().replace(f'"{DEFAULT_ROOT}"', '"/srv/llm"'))
    subprocess.run([sys.executable, "tools/docs.py"], cwd=root, check=True, capture_output=True)
    assert spelled(root) == []
    assert yaml.safe_load((root / "roles/engine/defaults/main.yml").read_text())["engine_root"] == "/srv/llm"
    assert "default: /srv/llm/releases" in (root / "plugins/doc_fragments/root.py").read_text()


def documented(repo_dir: Path) -> dict[str, dict[str, Any]]:
    names = [f"trtllm.fleet.{path.stem}" for path in sorted((repo_dir / "plugins/modules").glob("[a-z]*.py"))]
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(repo_dir / "collections")}
    done = subprocess.run(
        [str(BIN / "ansible-doc"), "--json", *names], cwd=repo_dir, env=env, capture_output=True, text=True, check=True
    )
    return {name: page["doc"] for name, page in json.loads(done.stdout).items()}


def test_modules_say_of_themselves_in_the_same_words_how_they_behave(repo_dir: Path) -> None:
    pages = documented(repo_dir)
    for attribute in ("check_mode", "diff_mode", "idempotent"):
        assert len({json.dumps(page["attributes"][attribute]["description"]) for page in pages.values()}) == 1
        assert all(page["attributes"][attribute]["support"] in ("full", "none", "N/A") for page in pages.values())


def test_the_group_has_every_module_that_takes_root(repo_dir: Path) -> None:
    group = yaml.safe_load((repo_dir / "meta/runtime.yml").read_text())["action_groups"]["fleet"]
    pages = documented(repo_dir)
    assert group == sorted(name.rpartition(".")[2] for name, page in pages.items() if "root" in page["options"])
    for name in group:
        page = pages[f"trtllm.fleet.{name}"]
        assert page["attributes"]["action_group"]["membership"] == ["trtllm.fleet.fleet"]
        assert page["options"]["root"]["default"] == DEFAULT_ROOT


PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  module_defaults:
    group/trtllm.fleet.fleet:
      root: "{{ lookup('ansible.builtin.env', 'A_ROOT') }}"
  tasks:
    - trtllm.fleet.trtllm_checkpoint: {name: old, state: absent}
      register: checkpoint
    - trtllm.fleet.triton_model_repo: {name: old, state: absent}
      register: repository
    - trtllm.fleet.trtllm_engine_info:
      register: engines
    - ansible.builtin.assert:
        that:
          - checkpoint is changed
          - repository is changed
          - engines.engines | map(attribute='name') | list == ['old']
"""


def test_a_play_sets_root_once(repo_dir: Path, tmp_path: Path) -> None:
    root = tmp_path / "llm"
    kept = [root / "checkpoints" / "old", *(root / kind / "old" / ("0" * 64) for kind in ("repositories", "engines"))]
    for place in kept:
        place.mkdir(parents=True)
        (place / "manifest.json").write_text("{}")
    play = tmp_path / "play.yml"
    play.write_text(PLAY)
    env = {
        **os.environ, "ANSIBLE_COLLECTIONS_PATH": str(repo_dir / "collections"), "ANSIBLE_NOCOLOR": "1",
        "A_ROOT": str(root), "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp"), "ANSIBLE_REMOTE_TEMP": str(tmp_path / "tmp"),
    }  # fmt: skip
    env.pop("ANSIBLE_CONFIG", None)
    done = subprocess.run(
        [str(BIN / "ansible-playbook"), "-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}",
         "--check", str(play)],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(place.is_dir() for place in kept), "check mode changes nothing"
