# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows text as it is: see the documentation of the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()


class ActionModule(ActionBase):
    """Print a table on the operator's terminal; callbacks would fold its lines."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        table = self._task.args.get("table")
        if isinstance(table, str):
            table = table.splitlines()
        if not isinstance(table, list):
            raise AnsibleActionFail("table is missing; give the lines to show.")
        display.display("\n" + "\n".join(str(line) for line in table) + "\n")
        result["changed"] = False
        return result
