# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages as they are written: inventories are planned for real, commands exist, and what they print is what is shown."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from unit import pages

REPO = Path(__file__).resolve().parents[2]
COPY = re.compile(r"^cp -r (inventories/\w+) inventories/\w+\b")
CHECK = re.compile(r"^ansible-playbook -i inventories/(\w+) playbooks/check\.yml --check$")
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
WITH_INVENTORIES = [path for path in pages.pages(REPO) if any(block.file for block in pages.blocks(path, REPO))]
# Programs that a page may call; those of a GPU host, of a cluster or of the reader's own are not run here.
PROGRAMS = {
    "$EDITOR", "ansible", "ansible-doc", "ansible-galaxy", "ansible-navigator", "ansible-playbook", "ansible-vault",
    "apt-get", "cat", "cd", "cp", "curl", "docker", "export", "git", "grep", "helm", "install", "journalctl", "kubectl",
    "ls", "make", "mkdir", "nvidia-ctk", "nvidia-smi", "openssl", "pip", "podman", "python3", "rm", "rsync", "scp",
    "sed", "sha256sum", "skopeo", "ssh", "systemctl", "tar",
}  # fmt: skip


def identity(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_INVENTORIES, ids=identity)
def test_inventories_of_a_page_are_planned(page: Path, tmp_path: Path) -> None:
    """The inventory grows as the page goes on, and with another hosts.yml begins anew.

    It is planned where the page checks it, and as it is in the end.
    """
    inventory = tmp_path / "inventory"
    changed = False

    def plan_rest() -> None:
        if changed and (inventory / "hosts.yml").exists():
            text = pages.planned(REPO, inventory)
            assert "failed=0" in text and "failed=1" not in text, f"{page.name}: {text[-2000:]}"

    for block in pages.blocks(page, REPO):
        if block.file == "hosts.yml":
            plan_rest()
            shutil.rmtree(inventory, ignore_errors=True)
        if block.file:
            pages.put(inventory, block, REPO)
            changed = True
        for command, printed in block.commands():
            if copied := COPY.match(command):
                plan_rest()
                shutil.rmtree(inventory, ignore_errors=True)
                shutil.copytree(REPO / copied[1], inventory)
                changed = False
            if not CHECK.match(command) or not (inventory / "hosts.yml").exists():
                continue
            changed = False
            text = pages.planned(REPO, inventory)
            refused = any("[ERROR]" in line for line in printed)
            assert ("failed=1" in text) == refused, f"{block.where}: {text[-2000:]}"
            for line in printed:
                assert pages.says(line, text), f"{block.where}: not said: {line}\n{text[-3000:]}"
    plan_rest()


def test_yaml_of_pages_can_be_read() -> None:
    for page in pages.pages(REPO):
        for block in pages.blocks(page, REPO):
            if block.language == "yaml":
                try:
                    list(yaml.safe_load_all(block.text))
                except yaml.YAMLError as error:
                    pytest.fail(f"{block.where}: {error}")


def test_values_of_variables_are_what_roles_take() -> None:
    """A page's inventory is planned without the roles, which would refuse a word that they do not know."""
    known: dict[str, dict[str, Any]] = {}
    for path in (REPO / "roles").glob("*/meta/argument_specs.yml"):
        known |= yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
    tried, wrong = set(), []
    for page in pages.pages(REPO):
        for block in pages.blocks(page, REPO):
            read = yaml.safe_load_all(block.text) if block.language == "yaml" else []
            for given in (one for one in read if isinstance(one, dict)):
                # Models are judged by the plan, and a page may show a part of one.
                for name in given.keys() & known.keys() - {"trtllm_models"}:
                    if "{{" in str(given[name]):
                        continue
                    tried.add(name)
                    spec = {name: {key: value for key, value in known[name].items() if key != "required"}}
                    found = ArgumentSpecValidator(spec).validate({name: given[name]})
                    wrong += [f"{block.where}: {message}" for message in found.error_messages]
    assert len(tried) > 20
    assert not wrong


def test_commands_of_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.M))
    known = _words("playbooks", "roles", "plugins")
    wrong = []
    for page in pages.pages(REPO):
        for block in pages.blocks(page, REPO):
            for command, _printed in block.commands():
                plain = QUOTED.sub(lambda quoted: re.sub("[|&;#]", "_", quoted[0]), command)
                for part in re.split(r"\s(?:&&|\|\|?)\s|;\s", re.sub(r"\s#\s.*", "", plain)):
                    wrong += [f"{block.where}: {why}" for why in _wrong(pages.words(part), targets, known)]
    assert not wrong


def _words(*folders: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", *folders], cwd=REPO, check=True, capture_output=True, text=True).stdout
    texts = (
        (REPO / name).read_text(encoding="utf-8", errors="ignore") for name in listed.split() if (REPO / name).is_file()
    )
    return {word for text in texts for word in re.findall(r"\w+", text)}


def _wrong(words: list[str], targets: set[str], known: set[str]) -> list[str]:
    """What is wrong with a command: a program, a playbook, a target, a file or a variable that is not there."""
    while words and words[0] in ("{", "}", "!"):  # of the shell itself
        words = words[1:]
    if not words or words[0] in (".", "exit"):
        return []
    program = words[0]
    if "/" in program and not program.startswith((".venv/", "/")):
        return [] if (REPO / program).exists() else [f"{program} is not there"]
    found = [] if program in PROGRAMS or program.startswith((".venv/", "/")) else [f"{program} is not known"]
    if program == "make":
        found += [
            f"there is no target {word}" for word in words[1:] if re.fullmatch(r"[a-z-]+", word) and word not in targets
        ]
    for word in words[1:]:
        if re.match(r"(playbooks|tools|tests|images|roles)/", word) and not (REPO / word).exists():
            found.append(f"{word} is not there")
    if program == "ansible-playbook":
        for given in (words[number + 1] for number, word in enumerate(words[:-1]) if word == "-e"):
            names = re.findall(r'^\{?"?(\w+)', given) if not given.startswith("@") else []
            found += [f"nobody reads the variable {name}" for name in names if name not in known]
    return found
