# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An election among the hosts of a run, from a fact that each of them has told."""

from __future__ import annotations

from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.election import Goods, elect

display = Display()


class Election(ActionBase):
    """Elect who makes what, once for the play: *fact* is what hosts tell, *preferred* the option of who rather does."""

    BYPASS_HOST_LOOP = True
    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    goods: ClassVar[Goods]
    fact: ClassVar[str]
    preferred: ClassVar[str]

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
            if known.get(self.fact) and not gone:
                offers[host] = known[self.fact]
        args = self._task.args
        batch = [host for host in batch if host in offers]
        preferred, failed = set(args.get(self.preferred) or []), set(args.get("failed") or [])
        result.update(elect(offers, batch, preferred, self.goods, failed), changed=False)
        # ansible_check_mode is that of the command line, and a play may set another one.
        result["check_mode"] = bool(self._task.check_mode)
        for line in result["table"]:
            display.display(line)
        return result
