# SPDX-License-Identifier: GPL-3.0-or-later
"""What a page shows for a reader to type: files of an inventory, and consoles with commands and what they print."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# A block whose first line names a file of an inventory is that file.
FILE = re.compile(r"^# ((?:hosts|group_vars/\w+/\w+|host_vars/[\w.-]+)\.yml)\b")
# The description alone: the hosts of a page are not there. What is printed is what check.yml prints of fresh hosts.
PLANNED = """
- hosts: gpu_hosts:gateway_hosts:slurm_login
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: trtllm.fleet.fleet, tasks_from: describe.yml, rolespec_validate: false}
    - ansible.builtin.include_role: {name: trtllm.fleet.fleet, tasks_from: map.yml, rolespec_validate: false}
    - trtllm.fleet.fleet_table: {table: "{{ dict(ansible_play_hosts | zip(plans)) | trtllm.fleet.plan_table }}"}
      run_once: true
      vars:
        described: "{{ ansible_play_hosts | map('extract', hostvars, 'fleet_description') }}"
        plans: "{{ described | map(attribute='plan') | list }}"
    - trtllm.fleet.fleet_table: {table: "{{ fleet_map | trtllm.fleet.map_table }}"}
      run_once: true
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        """For a message."""
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        """The file of an inventory that it is, or nothing."""
        found = FILE.match(self.text)
        return found[1] if found and self.language == "yaml" else ""

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each command with the lines that it prints; of a block without prompts, each line that is no remark."""
        if self.language == "console":
            command, printed = "", list[str]()
            for line in [*self.text.splitlines(), "$ "]:
                if command.endswith("\\"):
                    command = command[:-1] + line.strip()
                elif line.startswith("$ "):
                    if command:
                        yield command, printed
                    command, printed = line[2:], []
                elif line.strip():
                    printed.append(line)
        elif self.language in ("sh", "bash"):
            said: dict[str, str] = {}  # what a block says once, in a variable of the shell
            for line in re.sub(r"\\\n\s*", "", self.text).splitlines():
                if given := re.match(r"^(\w+)=(\S+|\"[^\"]*\")$", line):
                    said[given[1]] = given[2].strip('"')
                elif line.strip() and not line.startswith(("#", " ")):
                    yield re.sub(r"^\$(\w+)", lambda found: said.get(found[1], found[0]), line), []


def blocks(path: Path, root: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found: list[Block] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    begin, language = 0, ""
    for number, line in enumerate(lines, 1):
        fence = re.match(r"^```(\w*)", line)
        if fence and not begin:
            begin, language = number, fence[1]
        elif fence:
            text = "\n".join(lines[begin : number - 1]) + "\n"
            found.append(Block(path.relative_to(root).as_posix(), begin, language, text))
            begin = 0
    assert not begin, f"{path.name}: the block that begins in line {begin} has no end"
    return found


def pages(root: Path) -> list[Path]:
    """README and all pages of docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def planned(repo: Path, inventory: Path) -> str:
    """What check.yml says of the inventory, as far as no host is asked, on single blanks."""
    book = inventory.parent / "planned.yml"
    book.write_text(PLANNED)
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), str(book)]
    env = {
        **os.environ,
        "ANSIBLE_CONFIG": str(repo / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "TRTLLM_FLEET_CACHE": str(inventory.parent / "cache"),
    }
    done = subprocess.run(argv, cwd=repo, env=env, capture_output=True, text=True, check=False)
    return " ".join((done.stdout + done.stderr).split())


def put(inventory: Path, block: Block, repo: Path) -> None:
    """Write the file that *block* is into the inventory."""
    common = inventory / "group_vars" / "all" / "00_fleet.yml"
    if not common.exists():
        common.parent.mkdir(parents=True, exist_ok=True)
        common.symlink_to(repo / "group_vars" / "all.yml")
    path = inventory / block.file
    path.parent.mkdir(parents=True, exist_ok=True)
    # Directories of the controller that a page speaks of have to be there.
    carried = inventory.parent / "carried"
    for name in re.findall(r"path: /srv/carried/([\w.-]+)", block.text):
        _checkpoint(repo, carried / name)
    if "demo_cache" in block.text:
        _checkpoint(repo, inventory.parent / "cache" / "demo" / "tiny-llama")  # as `make demo` leaves it there
    path.write_text(block.text.replace("/srv/carried", str(carried)))
    if block.file == "hosts.yml":
        # Names of examples mean nothing here, and gateways want to know where replicas are.
        bare = sorted(set(_without_address(yaml.safe_load(block.text))))
        addresses = {name: {"ansible_host": f"192.0.2.{number}"} for number, name in enumerate(bare, 1)}
        (inventory / "addresses.yml").write_text(yaml.safe_dump({"all": {"hosts": addresses}}))


def _checkpoint(repo: Path, where: Path) -> None:
    """A small one, of the project's own tool."""
    if not where.exists():
        subprocess.run([sys.executable, str(repo / "tools" / "tiny_checkpoint.py"), str(where)], cwd=repo, check=True)


def _without_address(groups: Any) -> Iterator[str]:
    for group in groups.values():
        hosts = (group or {}).get("hosts") or {}
        yield from (name for name, given in hosts.items() if "ansible_host" not in (given or {}))
        yield from _without_address((group or {}).get("children") or {})


def says(line: str, text: str) -> bool:
    """Whether *text*, on single blanks, has a printed line; `...` in it stands for anything."""
    parts = [re.escape(" ".join(part.split())) for part in line.split("...")]
    return re.search(".*?".join(parts), text) is not None


def words(command: str) -> list[str]:
    """The words of a command, without what is set before it and without a remark."""
    found = shlex.split(command, comments=True)
    while found and re.match(r"^\w+=", found[0]):
        found.pop(0)
    return found
