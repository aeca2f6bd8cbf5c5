# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges what the rollout was told, and tells the module of the same name who asks.

Takes over what a dead process of this controller holds.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.options import OPTIONS, check_options
from ansible_collections.trtllm.fleet.plugins.plugin_utils._controller import operator


def identity(pid: int) -> str:
    """A process as nobody after it is called: its number and, where the system tells, when it began."""
    try:
        # the command's name, in brackets, may hold blanks
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{pid}:{after[19]}"
    except (OSError, IndexError):
        return str(pid)


def runs(process: str) -> bool:
    """Whether the process of an `identity` still runs."""
    pid = process.partition(":")[0]
    if not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return identity(int(pid)) == process


class ActionModule(ActionBase):
    """See the module's documentation."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        if self._task.args.get("state", "present") == "present":
            self._judge(task_vars or {})
        here = socket.gethostname()
        # Tasks run in children of the playbook's process.
        asks = {"owner": operator(), "controller": here, "process": identity(os.getppid())}
        result = self._ask({**asks, **self._task.args}, task_vars)
        holder = result.get("holder") or {}
        if result.get("failed") and holder.get("controller") == here and not runs(str(holder.get("process", ""))):
            dead = [*(self._task.args.get("take_over") or []), holder["id"]]
            result = self._ask({**asks, **self._task.args, "take_over": dead}, task_vars)
        return result

    def _judge(self, variables: dict[str, Any]) -> None:
        """Refuse to begin with options that are none."""
        given = {name: variables[name] for name in OPTIONS if name in variables}
        try:
            check_options(self._templar.template(given))
        except FleetError as error:
            raise AnsibleActionFail(str(error)) from error

    def _ask(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        found: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        return found
