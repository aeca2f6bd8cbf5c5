# SPDX-License-Identifier: GPL-3.0-or-later
"""All labels of ours have one namespace, and what the first versions wrote is still understood."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from ansible_collections.trtllm.fleet.plugins.module_utils._base import labels


def test_the_former_name_is_read_and_the_present_one_wins() -> None:
    assert labels.INPUTS == "trtllm.fleet.inputs"
    assert labels.read({"org.trtllm.fleet.inputs": "a"}, "inputs") == "a"
    assert labels.read({"org.trtllm.fleet.inputs": "a", "trtllm.fleet.inputs": "b"}, "inputs") == "b"
    assert labels.read({"other.inputs": "a"}, "inputs") is None and labels.read(None, "inputs") is None


def test_nobody_writes_another_namespace(repo_dir: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "plugins", "roles", "playbooks", "images", "molecule", "tools"],
        cwd=repo_dir, capture_output=True, text=True, check=True,
    )  # fmt: skip
    texts = {name: (repo_dir / name).read_text("utf-8", "replace") for name in listed.stdout.split()}
    other = {name for name, text in texts.items() if re.search(r"\borg\.trtllm\b", text)}
    assert other == {"plugins/module_utils/_base/labels.py"}


def test_containers_are_labelled_in_it(repo_dir: Path) -> None:
    gateway = (repo_dir / "roles" / "openai_gateway" / "vars" / "main.yml").read_text()
    written = re.findall(r"Label:\n((?:      \S.*\n)+)", gateway)
    assert written and all(line.strip().startswith(f"{labels.NAMESPACE}.") for line in written[0].splitlines())
