# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Adds the line of the module of the same name to the controller's journal too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import sentence
from ansible_collections.trtllm.fleet.plugins.plugin_utils._controller import operator


class ActionModule(ActionBase):
    """See the module's documentation."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        journal = arguments.pop("journal", None)
        arguments["details"] = {"who": operator(), **(arguments.get("details") or {})}
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        if journal and result.get("line") and not self._task.check_mode:
            host = self._task.delegate_to or (task_vars or {}).get("inventory_hostname")
            try:
                add_line(Path(os.path.expanduser(str(journal))), {"host": host, **result["line"]})
            except OSError as error:
                raise AnsibleActionFail(sentence(error, "The controller")) from error
        return result


def add_line(path: Path, line: dict[str, Any]) -> None:
    """Add a line in one write, as tasks for several hosts do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, (json.dumps(line, sort_keys=True) + "\n").encode())
    finally:
        os.close(descriptor)
