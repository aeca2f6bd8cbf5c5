# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the controller alone: see the documentation of the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError, sentence
from ansible_collections.trtllm.fleet.plugins.plugin_utils._description import described, nodes_told
from ansible_collections.trtllm.fleet.plugins.plugin_utils._read_once import read_filters
from ansible_collections.trtllm.fleet.plugins.plugin_utils._role_values import check_given, options_of, roles

# As this file is read, before there are workers: every playbook begins with this action.
read_filters()
for _role in roles():
    options_of(_role)


class ActionModule(ActionBase):
    """Validate the description of the fleet and return the plan of this host."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            args = dict(self._task.args)
            if "held_ports" not in args:  # the first time, when no host has been asked
                check_given(task_vars or {})
            nodes = nodes_told(args.get("trtllm_models"), (task_vars or {}).get("hostvars") or {})
            result["plan"] = described(args, nodes)
        except (FleetError, OSError) as error:
            raise AnsibleActionFail(sentence(error)) from error
        result["changed"] = False
        return result
