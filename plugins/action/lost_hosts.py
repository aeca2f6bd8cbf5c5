# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the controller, once for the play: see the documentation of the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.plugin_utils._lost import MAX_LOST, too_many, unreachable

display = Display()


class ActionModule(ActionBase):
    """Name the hosts that the play has no more, and fail where they are too many."""

    BYPASS_HOST_LOOP = True
    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables, args = task_vars or {}, self._task.args
        known_of = variables["hostvars"].raw_get
        # A member of a batch that is no host (rollout.yml) is neither lost nor left.
        everyone = [host for host in variables["ansible_play_hosts_all"] if not known_of(host).get("fleet_placeholder")]
        left = {host for host in everyone if host in variables["ansible_play_hosts"]}
        leaving = boolean(args.get("leaving", False))
        if leaving:
            left -= {host for host in left if known_of(host).get("fleet_lost")}
        # What was found out once is handed on: the plays that follow know less, and those of site.yml that have only
        # the hosts that differ count with the whole fleet all the same.
        before = variables.get("fleet_lost_hosts") or {}
        known = dict(before.get("lost") or {})
        beside = [host for host in before.get("everyone") or [] if host not in everyone and "site_hosts" in variables]
        gone = [host for host in everyone if host not in left] + [host for host in beside if host in known]
        everyone += beside
        lost = {host: known.get(host) or self._why(known_of(host)) for host in gone}
        try:
            refusal = None if leaving else too_many(lost, args.get("max_lost", MAX_LOST), len(everyone))
        except FleetError as error:
            raise AnsibleActionFail(str(error)) from error
        if lost and (not left if leaving else refusal or boolean(args.get("show", True))):
            lines = [f"{host} is lost: {why}" for host, why in sorted(lost.items())]
            display.display("\n" + "\n".join(lines) + "\n", color=C.COLOR_ERROR)
        if refusal:
            raise AnsibleActionFail(refusal)
        result.update(changed=False, lost=lost, everyone=everyone)
        return result

    def _why(self, variables: dict[str, Any]) -> str:
        """Why a host is lost, from what its tasks left behind."""
        unsaid = f"did not get through '{self._task.args.get('stage') or self._task.play.name}'; its message is above"
        return str(variables.get("fleet_lost") or unreachable(variables) or unsaid)
