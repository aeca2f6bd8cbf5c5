#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One rollout at a time on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_lock
short_description: Let one rollout at a time work on a host
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Notes on the host which rollout works on it, for a limited time. Another rollout is refused meanwhile, and told who
    works there.
  - The lock of a rollout whose process on the same controller has ended is taken over. That of another controller is
    only taken over where O(take_over) names it, or when its time is over.
  - A rollout whose variables (C(rollout_serial), C(rollout_max_failed) and the like) are not what they take is refused
    before it holds a host.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  id:
    description: The rollout. It is its own to hold on to and to end.
    type: str
    required: true
  state:
    description: Whether the rollout works on the host, or has ended there.
    type: str
    choices: [present, absent]
    default: present
  lease:
    description: After so many seconds without a word of the rollout the host is free again.
    type: int
    default: 14400
  take_over:
    description: Rollouts that are known to be dead.
    type: list
    elements: str
    default: []
  owner:
    description: Who rolls out, as others are told. The controller says so itself.
    type: str
    default: unknown
  controller:
    description: From where. The controller says so itself.
    type: str
    default: ""
  process:
    description: The process there. The controller says so itself.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Let nobody else work on the host
  trtllm.fleet.rollout_lock:
    id: 20260114T093000Z-4711

- name: Let others work on the host again
  trtllm.fleet.rollout_lock:
    id: 20260114T093000Z-4711
    state: absent
"""

RETURN = r"""
holder:
  description: Who works on the host; empty where nobody does. Also returned where the module refuses.
  returned: always
  type: dict
  sample:
    id: 20260114T093000Z-4711
    owner: alice@deploy-01
    controller: deploy-01
    process: "3122:88213"
    since: 1768383000
    until: 1768397400
unsettled:
  description:
    - Services that a rollout switched without seeing them pass their gate, as it ended before. By service the sha256 of
      the unit that served before, empty where there was none.
  returned: success
  type: dict
  sample: {triton-codellama-13b-0: 90ab...}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT, check_name, check_path
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.state import RolloutState

ARGUMENT_SPEC = {
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "id": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "lease": {"type": "int", "default": 14400},
    "take_over": {"type": "list", "elements": "str", "default": []},
    "owner": {"type": "str", "default": "unknown"},
    "controller": {"type": "str", "default": ""},
    "process": {"type": "str", "default": ""},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    given = module.params
    with one_sentence(module):
        check_path(given["root"], "root")
        check_name(given["id"], "id")
        state = RolloutState(Path(given["root"]))
        if given["state"] == "absent":
            changed = state.release(given["id"], module.check_mode)
        else:
            wanted = {name: given[name] for name in ("id", "owner", "controller", "process")}
            changed = state.acquire(wanted, given["lease"], given["take_over"], module.check_mode)
        module.exit_json(changed=changed, holder=state.holder() or {}, unsettled=state.unsettled())


if __name__ == "__main__":
    main()
