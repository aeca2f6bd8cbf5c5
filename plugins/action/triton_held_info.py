# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets another module tell the same where the host is looked at anyway: one call on the host instead of two."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.trtllm.fleet.plugins.plugin_utils._settled import collection_digest


class ActionModule(ActionBase):
    """See the module's documentation."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        name, args = self._task.resolved_action, dict(self._task.args)
        if boolean(args.get("settled", False), strict=False):
            name = "trtllm.fleet.fleet_settled"
            args = {"state": "seen", "inputs": {"the collection": collection_digest()}, **args}
            del args["settled"]
        result: dict[str, Any] = self._execute_module(module_name=name, module_args=args, task_vars=task_vars)
        return result
