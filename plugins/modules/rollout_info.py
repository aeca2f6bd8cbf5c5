#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host knows of rollouts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_info
short_description: What a host knows of rollouts
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Reads who works on the host now, the journal of all rollouts, and the services that were switched without being seen
    to pass their gate.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
options:
  rollout:
    description: Only the lines of this rollout, and RV(point) of it. One that changed nothing here has no lines.
    type: str
  limit:
    description: The last so many lines.
    type: int
    default: 1000
"""

EXAMPLES = r"""
- name: Record what was rolled out here
  trtllm.fleet.rollout_info:
    limit: 20
  register: rollouts
"""

RETURN = r"""
holder:
  description: Who works on the host; empty where nobody does.
  returned: success
  type: dict
unsettled:
  description:
    - Services that a rollout switched without seeing them pass their gate. By service the sha256 of the unit that
      served before, empty where there was none.
  returned: success
  type: dict
point:
  description:
    - With O(rollout), what served when it had ended. By service the sha256 of its unit, empty where there was none.
      Only services that a later rollout changed are in it.
  returned: success, with O(rollout)
  type: dict
lines:
  description: The journal, oldest first.
  returned: success
  type: list
  elements: dict
  sample:
    - time: "2026-01-14T09:31:07Z"
      rollout: 20260114T093000Z-4711
      step: passed
      services: [triton-codellama-13b-0]
      seconds: 41.2
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.state import RolloutState

ARGUMENT_SPEC = {
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "rollout": {"type": "str"},
    "limit": {"type": "int", "default": 1000},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    given = module.params
    with one_sentence(module):
        state = RolloutState(Path(given["root"]))
        lines = [line for line in state.lines() if given["rollout"] in (None, line.get("rollout"))]
        point = {"point": state.point(given["rollout"])} if given["rollout"] else {}
        module.exit_json(
            changed=False,
            **point,
            holder=state.holder() or {},
            unsettled=state.unsettled(),
            lines=lines[-given["limit"] :] if given["limit"] > 0 else [],
        )


if __name__ == "__main__":
    main()
