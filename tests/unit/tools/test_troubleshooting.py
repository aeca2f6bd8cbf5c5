# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/troubleshooting.md and the code: a sentence that does not tell what to do has an entry, and nothing else has."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(name="messages")
def messages_(repo_dir: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repo_dir / "tools"))
    return importlib.import_module("messages")


def test_what_is_said_is_explained_and_what_is_explained_is_said(messages: ModuleType) -> None:
    said = messages.messages()
    assert len(said) > 500, "the tool finds what modules, action plugins, filters, roles and playbooks say"
    assert {each.path.split("/")[0] for each in said} == {"plugins", "roles", "playbooks"}
    assert not messages.problems(said, messages.entries(messages.PAGE.read_text(encoding="utf-8")))


def test_both_directions_are_looked_at(messages: ModuleType) -> None:
    said = [messages.Message("… is broken.", "plugins/x.py", 3)]
    assert messages.problems(said, []) == ["plugins/x.py:3: no entry for: … is broken."]
    assert messages.problems(said, ["… is broken."]) == []
    assert messages.problems(said, ["… is broken.", "… was."]) == [
        "docs/troubleshooting.md: nothing says any more: … was."
    ]
    assert "explained twice" in messages.problems(said, ["… is broken.", "… is broken."])[0]


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("path is …; give the directory of the checkpoint.", False),
        ("… has no room for …. Make room there.", False),
        ("… is …; it takes a mapping.", False),
        ("Name the replicas to roll back.", False),
        ("…: …", False),
        ("… cannot be read: ….", True),
        ("podman cannot … (exit code …): …", True),
        ("the giver of … is gone.", True),
    ],
)
def test_what_says_what_to_do_needs_no_entry(messages: ModuleType, text: str, needed: bool) -> None:
    assert messages.Message(text, "", 0).needs_entry is needed


def test_texts_are_found_wherever_they_are_put_together(
    messages: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(messages, "REPO", tmp_path)
    code = tmp_path / "x.py"
    code.write_text(
        'def f(a):\n    raise FleetError(f"{a} is " "bad" + f" for {a!r}.")\n'
        '    raise FleetError("one" if a else "two")\n    raise ValueError("not ours")\n'
        '    module.fail_json(msg="three " + a)\n'
    )
    assert [each.text for each in messages.said_in_python(code)] == ["… is bad for ….", "one", "two", "three …"]
    tasks = tmp_path / "x.yml"
    tasks.write_text(
        "- block:\n    - ansible.builtin.assert:\n        that: false\n"
        "        fail_msg: >-\n          {{ a }} is really\n          bad.\n"
        '  rescue:\n    - ansible.builtin.fail:\n        msg: "{{ b }}"\n'
    )
    assert [(each.text, each.line) for each in messages.said_in_tasks(tasks)] == [("… is really bad.", 5), ("…", 1)]


# What begins like a variable of ours and is one of something else.
OTHERS = {"history_llama3", "history_template_llama3"}
OURS = (
    "trtllm|triton|openai_gateway|gpu_driver|gpu_host|container_toolkit|podman|checkpoint|engine|kubernetes|slurm|rollout"
    "|preflight|rollback|prune|history|status|verify|model_repository|tokenizer|fleet"
)


def test_variables_that_pages_name_exist(repo_dir: Path) -> None:
    """A variable that was renamed is renamed in the pages too."""
    listed = subprocess.run(
        ["git", "ls-files", "roles", "playbooks", "plugins", "inventories", "images", "molecule", "tests", "tools"],
        cwd=repo_dir, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    words: set[str] = set()
    for name in listed:
        if (repo_dir / name).is_file():
            words |= set(re.findall(r"\w+", (repo_dir / name).read_text(encoding="utf-8", errors="ignore")))
    unknown = {
        f"{path.name}: {name}"
        for path in [repo_dir / "README.md", *(repo_dir / "docs").rglob("*.md")]
        for name in re.findall(rf"\b(?:{OURS})_[a-z0-9_]*[a-z0-9]\b", path.read_text(encoding="utf-8"))
        if name not in words | OTHERS
    }
    assert not unknown
