# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the controller, once for the play: see the documentation of the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.election import elect

display = Display()


class ActionModule(ActionBase):
    """Elect a builder for each engine, from what the hosts have told in this run."""

    BYPASS_HOST_LOOP = True
    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        hostvars, groups = variables["hostvars"], variables["groups"]
        alive = set(variables["ansible_play_hosts"])
        batch = [host for host in variables["ansible_play_batch"] if host in alive]
        offers = {}
        for host in groups["all"]:
            known = hostvars.raw_get(host)
            gone = known.get("fleet_lost") or (host in variables["ansible_play_hosts_all"] and host not in alive)
            if known.get("engine_offer") and not gone:
                offers[host] = known["engine_offer"]
        builders = self._task.args.get("builders") or []
        result.update(elect(offers, [host for host in batch if host in offers], set(builders)), changed=False)
        # ansible_check_mode is that of the command line, and a play may set another one.
        result["check_mode"] = bool(self._task.check_mode)
        for line in result["table"]:
            display.display(line)
        return result
