# SPDX-License-Identifier: GPL-3.0-or-later
"""A tokenizer goes from a host that serves, through the controller, to one that does not; run by ansible itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: trtllm.fleet.tokenizer, tasks_from: fetch.yml}
      vars: {tokenizer_sources: [{name: m, path: "{{ source }}"}]}
    - ansible.builtin.include_role: {name: trtllm.fleet.tokenizer}
      vars:
        tokenizer_models: [{name: m, files: "{{ tokenizer_found.m.files | combine(announced | default({})) }}"}]
        tokenizer_root: "{{ root }}"
"""


class Run:
    """One host, which is this machine, and a controller with a cache of its own."""

    def __init__(self, repo: Path, tmp: Path) -> None:
        self.repo, self.tmp = repo, tmp
        self.source, self.root, self.cache = tmp / "checkpoint", tmp / "root", tmp / "cache"
        self.source.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            (self.source / name).write_text(json.dumps({"name": name}))
        (self.source / "model.safetensors").write_bytes(b"weights")
        (tmp / "play.yml").write_text(PLAYBOOK)

    def __call__(self, *argv: str, **more: Any) -> tuple[int, str]:
        variables = {"source": str(self.source), "root": str(self.root), "ansible_python_interpreter": sys.executable}
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "h1,", "-c", "local"]
        env = {**os.environ, "ANSIBLE_CONFIG": str(self.repo / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1",
               "TRTLLM_FLEET_CACHE": str(self.cache)}  # fmt: skip
        done = subprocess.run(
            [*command, "-e", json.dumps({**variables, **more}), str(self.tmp / "play.yml"), *argv],
            cwd=self.repo, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def installed(self) -> dict[str, dict[str, str]]:
        """By the directory of each tokenizer its files."""
        homes = [path for path in (self.root / "tokenizers" / "m").glob("?" * 16) if path.is_dir()]
        return {home.name: {path.name: path.read_text() for path in home.iterdir()} for home in homes}


@pytest.fixture
def run(repo_dir: Path, tmp_path: Path) -> Run:
    return Run(repo_dir, tmp_path)


def test_what_a_gateway_reads_arrives_once_and_without_weights(run: Run) -> None:
    status, text = run("--check")
    assert status == 0 and not run.root.exists() and not run.cache.exists(), text
    status, text = run()
    assert status == 0 and "changed=1" in text, text
    (first,) = run.installed()
    assert sorted(run.installed()[first]) == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    status, text = run()
    assert status == 0 and "changed=0" in text, text
    # Another chat template is another tokenizer, and the gateway may still read the old one.
    (run.source / "chat_template.jinja").write_text("{{ messages }}")
    status, text = run()
    assert status == 0 and "changed=1" in text, text
    assert len(run.installed()) == 2 and "chat_template.jinja" not in run.installed()[first]


def test_a_file_of_the_controller_that_was_altered_is_fetched_again(run: Run) -> None:
    run()
    for path in (run.cache / "tokenizers").iterdir():
        path.write_text("altered")
    for path in (run.root / "tokenizers").rglob("tokenizer.json"):
        path.write_text("altered")
    status, text = run()
    assert status == 0 and "changed=1" in text, text
    (files,) = run.installed().values()
    assert files["tokenizer.json"] == json.dumps({"name": "tokenizer.json"})


def test_a_file_that_nobody_has_fetched_is_named(run: Run) -> None:
    status, text = run(announced={"config.json": "0" * 64})
    assert status == 2 and "Traceback" not in text
    assert f"{'0' * 64} is not on the controller; run trtllm_tokenizer_fetch first." in "".join(text.split("\n    "))
    assert run.installed() == {}


def test_a_checkpoint_without_a_tokenizer_is_refused_where_it_is_read(run: Run) -> None:
    (run.source / "tokenizer.json").unlink()
    status, text = run()
    assert status == 2 and "Traceback" not in text
    assert "has no tokenizer.json, which gateways need to count tokens" in " ".join(text.split())
