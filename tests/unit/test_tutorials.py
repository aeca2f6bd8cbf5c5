# SPDX-License-Identifier: GPL-3.0-or-later
"""Every tutorial is run as it is written, by what the table says; and the table has nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "molecule" / "tutorials" / "files"))

import as_written

TABLE = as_written.Table(as_written.TABLE.read_text(encoding="utf-8"))
RUN, WITHOUT_HOST = TABLE.given["run"], TABLE.given["without_host"]


def page(name: str) -> Path:
    return REPO / "docs" / "tutorials" / f"{name}.md"


def test_each_tutorial_is_run() -> None:
    there = sorted(path.stem for path in (REPO / "docs" / "tutorials").glob("*.md"))
    assert sorted([*RUN, *WITHOUT_HOST]) == there


def test_what_closes_a_host_is_the_last_on_it() -> None:
    on_it = [how for how in RUN.values() if "hosts" not in how]
    assert [how.get("closed", False) for how in on_it] == [False] * (len(on_it) - 1) + [True]


@pytest.mark.parametrize("name", RUN)
def test_the_files_of_a_tutorial_that_is_run_belong_to_an_inventory(name: str) -> None:
    steps = TABLE.steps(name)
    for number, step in enumerate(steps):
        if step.file:
            inventory = as_written.inventory_of(steps, number)
            assert any(f"cp -r inventories/{word} {inventory}" in one.command for one in steps[:number]
                       for word in ("demo", "example"))  # fmt: skip
    assert sum(bool(step.command) for step in steps) >= 3


@pytest.mark.parametrize("name", [name for name, how in RUN.items() if "hosts" in how])
def test_a_scenario_types_a_tutorial_on_its_hosts(name: str) -> None:
    given = {path.parent: yaml.safe_load(path.read_text(encoding="utf-8"))["platforms"]
             for path in (REPO / "molecule").glob("*/molecule.yml")}  # fmt: skip
    found = [(where, {row["name"]: row["ip"] for row in rows}) for where, rows in given.items()
             if {*RUN[name]["hosts"]} <= {row["name"] for row in rows}]  # fmt: skip
    assert len(found) == 1
    where, addresses = found[0]
    hosts = next(step for step in TABLE.steps(name) if step.file == "hosts.yml")
    described = yaml.safe_load(hosts.text)["all"]["children"]["gpu_hosts"]["hosts"]
    assert [TABLE.given["addresses"][one] for one in described] == [addresses[one] for one in RUN[name]["hosts"]]
    prepared = (where / "prepare.yml").read_text(encoding="utf-8")
    assert "as_written.py" in prepared and f"- {name}\n" in prepared
    assert f"hosts: {':'.join(RUN[name]['hosts'])}\n" in prepared


def test_what_is_replaced_stands_in_a_page_that_is_run() -> None:
    texts = {name: page(name).read_text(encoding="utf-8") for name in RUN}
    for row in TABLE.given["replaced"]:
        assert any(row["page"] in texts[name] for name in row.get("only", RUN)), row
    for name in (*TABLE.given["left_out"], *TABLE.given["addresses"]):
        assert any(name in text for text in texts.values()), name
    for row in TABLE.given["copy"]:
        assert row["page"] in (REPO / row["file"]).read_text(encoding="utf-8"), row


def test_what_is_not_typed_is_run_by_a_scenario() -> None:
    commands = [step.command for name in RUN for step in TABLE.steps(name) if step.command]
    left = [row for row in TABLE.given["not_typed"] if any(row["page"] in command for command in commands)]
    assert left == TABLE.given["not_typed"] and len(left) < len(commands) / 8
    for row in left:
        assert row["has"] in (REPO / row["file"]).read_text(encoding="utf-8"), row


def test_what_is_replaced_leaves_nothing_that_no_test_host_has() -> None:
    for name in RUN:
        for step in TABLE.steps(name):
            for word in ("registry.example.com", "gpu-02.example", "gw-01", "10.1.0.", "10.200.0.21 "):
                assert word not in f"{step.text} {step.command} ", f"{step.where}: {word}"


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_HOST)
def test_a_tutorial_that_needs_no_host_is_followed(name: str, tmp_path: Path) -> None:
    clone = as_written.copy(tmp_path, TABLE)
    subprocess.run(["make", "setup"], cwd=clone, env=as_written.readers(os.environ), check=True)
    shell = as_written.Shell(clone, tmp_path / "typed.log")
    typed = as_written.follow(name, shell, clone, TABLE)
    shell.end()
    assert [command for command, _seconds in typed] == [step.command for step in TABLE.steps(name) if step.command]


def test_a_change_that_does_not_fit_any_more_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one\nthree\n")
    text = "--- a/file\n+++ b/file\n@@ -7,2 +7,3 @@\n one\n+two\n three\n"
    as_written.change(tmp_path, as_written.Step("page:1", change=text))
    assert (tmp_path / "file").read_text() == "one\ntwo\nthree\n"
    with pytest.raises(SystemExit, match="page:1: git apply does not take it: error: patch failed"):
        as_written.change(tmp_path, as_written.Step("page:1", change=text))


def test_a_line_that_was_not_said_is_told() -> None:
    assert as_written.missing(["demo : ok=... changed=0 ...", "a  b"], "demo  :\nok=7  changed=0 failed=0 a\nb") == []
    assert as_written.missing(["demo : ok=... changed=0 ..."], "demo : ok=7 changed=1") == [
        "demo : ok=... changed=0 ..."
    ]


def test_a_command_that_fails_ends_it_with_what_it_said(tmp_path: Path) -> None:
    shell = as_written.Shell(tmp_path, tmp_path / "log")
    assert shell.type("cd / && export WORD=kept") == (0, "")
    assert shell.type('echo "größer $WORD"; pwd') == (0, "größer kept\n/\n")
    assert shell.type("cat; false") == (1, "")  # nothing that is typed next is read
    shell.end()


def test_the_readers_shell_has_nothing_of_molecule() -> None:
    given = {"PATH": "/x/.venv/bin:/usr/bin", "MOLECULE_FILE": "m", "ANSIBLE_CONFIG": "c", "HOME": "/root"}
    kept = as_written.readers(given)
    assert (
        kept["PATH"] == "/usr/bin" and not {"MOLECULE_FILE", "ANSIBLE_CONFIG"} & set(kept) and kept["HOME"] == "/root"
    )
