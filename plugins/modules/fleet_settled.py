#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether anything differs on a host since a whole run found nothing to change."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_settled
short_description: Tell whether anything differs on a host since a whole run found nothing to change
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Looks, in one remote call and without reading what is large, at everything that the roles of the collection look at,
    and compares it, and what the run is given, with the record that such a run has left.
  - With O(state=looked), which is how a run begins, what was found is noted below C(/run). With O(state=settled),
    which is how a whole run ends, the host has a record if it is still as the look had found it, and none otherwise.
  - O(state=told) compares the host with its record alone, and notes nothing. Of what a run would be given it takes only
    the collection.
  - O(state=seen) does as V(told), and tells beside it what M(trtllm.fleet.triton_held_info) tells, which asks for it. A
    look that is then given it with O(seen) judges on the controller what the run is given, and asks a host on which
    nothing differs no second time.
  - Of a settled host it tells with RV(found) and RV(prunes) what the run would ask it for in further calls, from the
    record, as the answers are the same where nothing differs.
  - What a run is given (the plan, the variables, the collection, files of the controller) the controller adds itself.
  - The record is kept as C(settled.json) below O(root), readable by root alone. It holds no value of a variable.
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
  state:
    description:
      - Whether the run begins with the host, or ends with it; or V(told) or V(seen), where nothing is to be run.
    type: str
    choices: [looked, settled, told, seen]
    default: looked
  at:
    description: The look, as RV(at) has it, with O(state=settled).
    type: int
  paths:
    description: What else the description names on the host, such as a checkpoint that is used in its place.
    type: list
    elements: path
    default: []
  seen:
    description: RV(seen) of the same run, with O(state=looked).
    type: dict
    default: {}
  skip:
    description: Whether a settled host is told as settled. Where not, the look is noted all the same.
    type: bool
    default: true
  host_options:
    description: What the verdict on the host is judged by, as the filter C(host_verdict) takes it.
    type: dict
    default: {}
  served:
    description: What M(trtllm.fleet.triton_replica_info) has told since the look, for RV(found); with O(state=settled).
    type: dict
    default: {}
  quiet_until:
    description:
      - Until when nothing goes from the host, as M(trtllm.fleet.trtllm_prune) has told it since the look, for
        RV(prunes); with O(state=settled). By default that is not known.
    type: int
    default: 0
  inputs:
    description: Digests of what the run is given. The controller says so itself.
    type: dict
    default: {}
  whole:
    description: Whether the run is a whole one, which alone can settle the host. The controller says so itself.
    type: bool
    default: true
  unsettled:
    description: Why the host cannot be settled, whatever its record says. The controller adds to it.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Look whether anything differs
  trtllm.fleet.fleet_settled:
  register: looked

- name: Tell since when the host is settled, or why it no longer is
  trtllm.fleet.fleet_settled:
    state: told

- name: Let the next run see whether anything differs from now on
  trtllm.fleet.fleet_settled:
    state: settled
    at: "{{ looked.at }}"
    served: "{{ found_on_the_host }}"
    quiet_until: "{{ pruned.quiet_until }}"
"""

RETURN = r"""
settled:
  description: Whether nothing differs.
  returned: success
  type: bool
since:
  description: Since when, where it is settled; with O(state=told) since when it was, where it no longer is.
  returned: success
  type: str
  sample: "2026-01-14T09:30:00Z"
why:
  description: What differs, or why the host cannot be settled.
  returned: success
  type: list
  elements: str
  sample: ["units: /etc/containers/systemd/triton-codellama-13b-0.container differs in size"]
at:
  description: Names the look, for O(at); V(0) where it was not noted, as the run can settle nothing.
  returned: success
  type: int
  sample: 1768383000000000000
found:
  description:
    - Of a settled host what O(served) had told, without the configurations of gateways; empty where that is not known,
      or the host is not settled.
  returned: success
  type: dict
prunes:
  description: Whether M(trtllm.fleet.trtllm_prune) may remove something of a settled host, such as what an interrupted
    run left.
  returned: success
  type: bool
seen:
  description: The other values, and of a host on which nothing differs in C(compare) what the run has to compare by
    itself.
  returned: with O(state=seen), in their place
  type: dict
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT, check_path
from ansible_collections.trtllm.fleet.plugins.module_utils._settled.parts import Ground
from ansible_collections.trtllm.fleet.plugins.module_utils._settled.record import Settled
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.held import held

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "state": {"type": "str", "choices": ["looked", "settled", "told", "seen"], "default": "looked"},
    "at": {"type": "int"},
    "paths": {"type": "list", "elements": "path", "default": []},
    "seen": {"type": "dict", "default": {}},
    "skip": {"type": "bool", "default": True},
    "host_options": {"type": "dict", "default": {}},
    "served": {"type": "dict", "default": {}},
    "quiet_until": {"type": "int", "default": 0},
    "inputs": {"type": "dict", "default": {}},
    "whole": {"type": "bool", "default": True},
    "unsettled": {"type": "list", "elements": "str", "default": []},
}
REQUIRED_IF = [("state", "settled", ["at"])]
ASKED = "the run was asked to skip no host"


def seen(ground: Ground, found: dict[str, Any]) -> dict[str, Any]:
    """What the host has, and whether it differs; of one that does not, what it is judged by too."""
    if found["compare"]:
        found["compare"]["host"] = ground.facts
    return {"seen": found, **held(ground.host)}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_if=REQUIRED_IF, supports_check_mode=True)
    given: dict[str, Any] = module.params
    with one_sentence(module):
        check_path(given["root"], "root")
        ground = Ground(given["root"], given["paths"])
        record = Settled(ground)
        if given["state"] == "settled":
            found = record.settle(given["at"], module.check_mode, given["served"], given["quiet_until"])
        elif given["state"] == "told":
            found = record.told(given["inputs"])
        elif given["state"] == "seen":
            module.exit_json(changed=False, **seen(ground, record.seen(given["inputs"])))
        else:
            asked = [] if given["skip"] else [ASKED]
            refused = ground.cannot_serve("the host", given["host_options"]) if given["host_options"] else []
            why = [*given["unsettled"], *asked, *refused]
            found = record.look(given["inputs"], why, module.check_mode, given["whole"])
    module.exit_json(changed=False, **asdict(found))


if __name__ == "__main__":
    main()
