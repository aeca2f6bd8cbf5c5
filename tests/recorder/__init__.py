# SPDX-License-Identifier: GPL-3.0-or-later
"""Run playbooks for hosts that do not exist, and see which modules they would get with which arguments.

ansible-playbook runs as ever: variables, conditions, loops, templates and handlers are its own. What would go to a
host is written down instead, and answered from what was recorded of such a host.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]


@dataclass(frozen=True)
class Call:
    """One module that a host would run. *content* is the file that a template or copy would bring along."""

    module: str
    args: dict[str, Any]
    content: str | None = None
    check_mode: bool = False


@dataclass(frozen=True)
class Recording:
    """What every host got, in order, and what ansible-playbook said."""

    calls: dict[str, list[Call]]
    output: str
    returncode: int

    def of(self, host: str, module: str) -> list[Call]:
        """The calls of one module on one host, by its short name."""
        return [call for call in self.calls.get(host, []) if call.module == module]

    def files(self, host: str) -> dict[str, str]:
        """What each file that is written would hold."""
        return {
            call.args["dest"]: call.content
            for call in self.calls.get(host, [])
            if call.module == "copy" and call.content is not None
        }


def record(
    directory: Path,
    hosts: Mapping[str, Mapping[str, Any]],
    roles: Sequence[str | Mapping[str, Any]],
    variables: Mapping[str, Any],
    arguments: Sequence[str] = (),
) -> Recording:
    """Run *roles*, names or entries of a play's C(roles), on *hosts*, with *arguments* of ansible-playbook.

    A host is a mapping with C(looks), the facts that gpu_host_info gives one after the other (the last one for good),
    C(modules), from other modules to their results, likewise, C(answers), from the first word of a command to its
    standard output, and C(vars), its own variables.
    """
    log = directory / "calls"
    log.mkdir()
    (directory / "hosts.json").write_text(json.dumps(hosts))
    inventory = {
        "all": {
            "hosts": {name: {"ansible_connection": "local", **host.get("vars", {})} for name, host in hosts.items()},
            "vars": dict(variables),
        }
    }
    (directory / "inventory.json").write_text(json.dumps(inventory))
    play = [
        {
            "hosts": "all",
            "gather_facts": False,
            "roles": [{"role": role} if isinstance(role, str) else dict(role) for role in roles],
        }
    ]
    (directory / "play.json").write_text(json.dumps(play))
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(REPO / "collections"),
        "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "recorder",
        "ANSIBLE_NOCOLOR": "1",
        "TRTLLM_RECORDER": str(directory),
    }
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            str(directory / "inventory.json"),
            str(directory / "play.json"),
            *arguments,
        ],
        cwd=REPO,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    calls = {path.name: [Call(**json.loads(line)) for line in path.read_text().splitlines()] for path in log.iterdir()}
    return Recording(calls, done.stdout, done.returncode)
