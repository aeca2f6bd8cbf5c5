#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Type what tutorials tell a reader to type, and see that it says what they say: as_written.py DIRECTORY [PAGE...]

A copy of the checkout is made in DIRECTORY, and pages.yml beside this file says which pages, and what is replaced in
them; without PAGE those of the scenario `tutorials`, on its one host. The first command that fails, or does not say
what its page says, ends it, with all that it said. DIRECTORY has `typed.json` then, by page each command with its
seconds, and `typed.log`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[3]
TABLE = Path(__file__).with_name("pages.yml")
sys.path.insert(0, str(REPO / "tests" / "unit"))

import pages

LIMIT = 900  # seconds for a command
END = "typed and ended with"
NAMED = re.compile(r"(?:-i |cp -r inventories/\w+ )(inventories/\w+)")
# What machines of a page would have: packages, images, and nothing that serves. As nobody asks, none is waited for.
NOTHING = """
set -eu
systemctl stop --no-block 'triton-*' 'openai-gateway*'
podman kill --all --signal KILL >/dev/null 2>&1 || true # one may have ended
systemctl stop 'triton-*' 'openai-gateway*'
rm -rf /etc/containers/systemd/* /etc/trtllm /var/lib/trtllm /etc/systemd/system/openai-gateway.socket
systemctl daemon-reload
systemctl reset-failed
"""
# And what those without a connection have: no image, and a way to their own network alone, without the registry in it.
CLOSED = """
set -eu
podman rmi --all --force >/dev/null
ip route replace blackhole default
ip route replace blackhole 10.200.0.2
if timeout 5 bash -c '</dev/tcp/10.200.0.2/5000' 2>/dev/null; then echo 'the registry is still reached' >&2; exit 1; fi
"""


@dataclass(frozen=True)
class Step:
    """A file to be written, a change of the checkout's own files, or a command with what it prints."""

    where: str
    file: str = ""
    text: str = ""
    change: str = ""
    command: str = ""
    printed: tuple[str, ...] = ()


class Table:
    """What is replaced."""

    def __init__(self, text: str, directory: Path = REPO / "tests" / "output") -> None:
        self.given: dict[str, Any] = yaml.safe_load(text)
        self.directory = directory

    def here(self, page: str, text: str) -> str:
        """Text of a page as it is on the test host; each line ends with a newline."""
        for row in self.given["replaced"]:
            if page in row.get("only", [page]):
                text = text.replace(row["page"], row["here"].replace("DIRECTORY", str(self.directory)))
        left_out = tuple(self.given["left_out"])
        return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip(" {").startswith(left_out))

    def steps(self, page: str) -> list[Step]:
        """What is done for a page, in its order."""
        found: list[Step] = []
        for block in pages.blocks(REPO / "docs" / "tutorials" / f"{page}.md", REPO):
            if block.file:
                found.append(Step(block.where, file=block.file, text=self.here(page, block.text)))
            if block.language == "diff":
                found.append(Step(block.where, change=block.text))
            for command, printed in block.commands():
                said = self.here(page, "".join(f"{line}\n" for line in printed)).splitlines()
                found.append(Step(block.where, command=self.here(page, f"{command}\n").strip(), printed=tuple(said)))
            if not block.language and found and found[-1].command:  # what the command before it prints, by itself
                last = found.pop()
                said = self.here(page, block.text).splitlines()
                found.append(Step(last.where, command=last.command, printed=(*last.printed, *said)))
        return found


def readers(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a reader's shell, without what molecule and the checkout's own environment add."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_", "VIRTUAL"))}
    path = [place for place in kept["PATH"].split(os.pathsep) if not place.endswith("/.venv/bin")]
    return {**kept, "PATH": os.pathsep.join(path), "ANSIBLE_NOCOLOR": "true", "PYTHONUNBUFFERED": "1"}


class Shell:
    """One shell, as a reader has one; what it says is kept."""

    def __init__(self, directory: Path, log: Path) -> None:
        self.log = log
        log.write_bytes(b"")
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                ["bash"], cwd=directory, env=readers(os.environ), stdin=subprocess.PIPE, stdout=out, stderr=out
            )

    def type(self, command: str) -> tuple[int, str]:
        """The exit status of a command, and all that it said."""
        begin, stdin = self.log.stat().st_size, self.process.stdin
        # Else ssh would read what is typed next.
        typed = f"{{ {command}\n}} </dev/null\nended=$?; echo; echo '{END}' $ended\n"
        if stdin:
            stdin.write(typed.encode())
            stdin.flush()
        deadline = time.monotonic() + LIMIT
        while True:
            said = self.log.read_bytes()[begin:].decode(errors="replace")
            if found := re.search(rf"\n{END} (\d+)\n$", said):
                return int(found[1]), said[: found.start()]
            if time.monotonic() > deadline or self.process.poll() is not None:
                return 124, f"{said}\nIt did not end within {LIMIT} s, or the shell did."
            time.sleep(0.2)

    def end(self) -> None:
        """Let it end by itself."""
        self.process.communicate()


def missing(printed: Sequence[str], said: str) -> list[str]:
    """The lines that were not said, whatever blanks and line ends are between their words."""
    words = " ".join(said.split())
    return [line for line in printed if not pages.says(line, words)]


def copy(directory: Path, table: Table) -> Path:
    """The checkout's files, those that are not committed yet too, without what a reader's clone does not have."""
    clone = directory / "fleet"
    shutil.rmtree(clone, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=REPO, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (REPO / name).is_symlink() or (REPO / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, clone / name, follow_symlinks=False)
    for row in table.given["copy"]:
        path = clone / row["file"]
        text = path.read_text(encoding="utf-8")
        if row["page"] not in text:
            sys.exit(f"{row['file']} does not have {row['page']!r}; mend {TABLE.name}.")
        path.write_text(text.replace(row["page"], row["here"]), encoding="utf-8")
    return clone


def inventory_of(steps: Sequence[Step], number: int) -> str:
    """The inventory that the commands from here on name, which is the one that a file belongs to."""
    named = [found[1] for step in steps[number:] if (found := NAMED.search(step.command))]
    if not named:
        sys.exit(f"{steps[number].where}: no command after it names the inventory of {steps[number].file}.")
    return named[0]


def put(clone: Path, inventory: str, step: Step, table: Table, variables: Mapping[str, Any]) -> None:
    """Write a file of an inventory, and with hosts.yml what is to be known of its test hosts."""
    path = clone / inventory / step.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(step.text, encoding="utf-8")
    if step.file == "hosts.yml":
        addresses = {name: {"ansible_host": address} for name, address in table.given["addresses"].items()
                     if re.search(rf"[^\w.-]{re.escape(name)}:", step.text)}  # fmt: skip
        more = {"all": {"hosts": addresses, "vars": {**table.given["variables"], **variables}}}
        # What ansible-playbook reads of an inventory is read in the order of the names.
        (clone / inventory / "test_host.yml").write_text(yaml.safe_dump(more), encoding="utf-8")


def change(clone: Path, step: Step) -> None:
    """Give git a change that a page shows. The copy may lie in a checkout, which git is not to look for."""
    env = {**readers(os.environ), "GIT_CEILING_DIRECTORIES": str(clone.parent)}
    done = subprocess.run(
        ["git", "apply", "-"], cwd=clone, env=env, input=step.change, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{step.where}: git apply does not take it: {done.stderr}")


def follow(page: str, shell: Shell, clone: Path, table: Table) -> list[tuple[str, float]]:
    """Do what a page says. Its commands, each with its seconds."""
    steps, typed = table.steps(page), list[tuple[str, float]]()
    variables = table.given["run"].get(page, {}).get("variables", {})
    shutil.rmtree(clone / "inventories" / "mysite", ignore_errors=True)
    for number, step in enumerate(steps):
        if any(row["page"] in step.command for row in table.given["not_typed"]):
            continue
        if step.file:
            put(clone, inventory_of(steps, number), step, table, variables)
        if step.change:
            change(clone, step)
        if not step.command:
            continue
        begin = time.monotonic()
        status, said = shell.type(step.command)
        typed.append((step.command, round(time.monotonic() - begin, 1)))
        print(f"{typed[-1][1]:7.1f} s  {page}: {step.command}", flush=True)
        refused = any(line.startswith("[ERROR]") for line in step.printed)
        wrong = [f"it ended with {status}"] if (status != 0) != refused else []
        wrong += [f"it did not say: {line}" for line in missing(step.printed, said)]
        if wrong:
            sys.exit(f"{said}\n{step.where}: {step.command}\n{'; '.join(wrong)}")
    return typed


def empty(hosts: Sequence[str], script: str = NOTHING) -> None:
    """Have nothing serve on test hosts."""
    for host in hosts:
        subprocess.run([REPO / "tests" / "testbed" / "testbed", "exec", host, "--", "sh", "-c", script], check=True)


def main(directory: str, *asked: str) -> None:
    where = Path(directory)
    table = Table(TABLE.read_text(encoding="utf-8"), where)
    clone = copy(where, table)
    if asked:  # else the first page does, as a reader would
        subprocess.run(["make", "setup"], cwd=clone, env=readers(os.environ), check=True)
    shell, typed = Shell(clone, where / "typed.log"), dict[str, list[tuple[str, float]]]()
    host = next(row["here"] for row in table.given["replaced"] if row["page"].startswith("exec ")).split()[1]
    for page, how in table.given["run"].items():
        if page not in asked if asked else "hosts" in how:
            continue
        if how["fresh"]:
            empty(how.get("hosts", [host]), NOTHING + (CLOSED if how.get("closed") else ""))
        typed[page] = follow(page, shell, clone, table)
        empty(how.get("hosts", []))
        print(f"{sum(seconds for _command, seconds in typed[page]):7.1f} s  {page}, all of it", flush=True)
    shell.end()
    (where / "typed.json").write_text(json.dumps(typed, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
