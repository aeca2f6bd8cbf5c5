# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the controller, once for the play: see the documentation of the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.plugin_utils._lost import MAX_LOST, too_many

display = Display()


class ActionModule(ActionBase):
    """Name the hosts that the play has no more, and fail where they are too many."""

    BYPASS_HOST_LOOP = True
    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        everyone, left = list(variables["ansible_play_hosts_all"]), set(variables["ansible_play_hosts"])
        # Ansible tells nobody why a host became unreachable, so what was found out once is handed on.
        known = dict(variables.get("ansible_facts", {}).get("fleet_lost_hosts") or {})
        unsaid = f"did not get through '{self._task.args.get('stage') or self._task.play.name}'; its message is above"
        lost = {
            host: str(variables["hostvars"][host].get("fleet_lost") or known.get(host) or unsaid)
            for host in everyone
            if host not in left
        }
        if lost:
            lines = [f"{host} is lost: {why}" for host, why in sorted(lost.items())]
            display.display("\n" + "\n".join(lines) + "\n", color=C.COLOR_ERROR)
        try:
            refusal = too_many(lost, self._task.args.get("max_lost", MAX_LOST), len(everyone))
        except FleetError as error:
            raise AnsibleActionFail(str(error)) from error
        if refusal:
            raise AnsibleActionFail(refusal)
        result.update(changed=False, lost=lost, ansible_facts={"fleet_lost_hosts": lost})
        return result
