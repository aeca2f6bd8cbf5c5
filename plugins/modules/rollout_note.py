#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A line in the journal of rollouts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_note
short_description: Add a line to the journal of rollouts, on the host and on the controller
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Adds one JSON object as a line to C(rollouts/journal.jsonl) below O(root) on the host, on disk when it returns.
  - With O(journal), adds the same line with the name of the host to a file of the controller.
  - The line says C(who) rolls out, as C(user@controller).
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
attributes:
  check_mode:
    support: full
    details:
      - Nothing is written.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Every call adds a line.
options:
  rollout:
    description: The rollout that the line belongs to.
    type: str
    required: true
  step:
    description:
      - What was done. V(switching) is said before services are changed, V(passed) or V(rolled back) when they are known
        to be good. Of others any words may be used.
    type: str
    required: true
  services:
    description: The services that it was done to.
    type: list
    elements: str
    default: []
  details:
    description: What else is worth knowing, such as C(from), C(to), C(why) and C(seconds). Never a secret.
    type: dict
    default: {}
  journal:
    description: The file of the controller.
    type: str
"""

EXAMPLES = r"""
- name: Record that a host is about to be switched
  trtllm.fleet.rollout_note:
    rollout: 20260114T093000Z-4711
    step: switching
    services: [triton-codellama-13b-0]
    details: {why: "engine: max_batch_size 8 -> 16"}
"""

RETURN = r"""
line:
  description: What was added.
  returned: success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT, check_name, check_path
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.state import RolloutState

ARGUMENT_SPEC = {
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "rollout": {"type": "str", "required": True},
    "step": {"type": "str", "required": True},
    "services": {"type": "list", "elements": "str", "default": []},
    "details": {"type": "dict", "default": {}},
    "journal": {"type": "str"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    given = module.params
    with one_sentence(module):
        check_path(given["root"], "root")
        check_name(given["rollout"], "rollout")
        own = {name: given[name] for name in ("rollout", "step", "services")}
        line = {**given["details"], **own}
        if not module.check_mode:
            line = RolloutState(Path(given["root"])).note(line)
        module.exit_json(changed=False, line=line)


if __name__ == "__main__":
    main()
