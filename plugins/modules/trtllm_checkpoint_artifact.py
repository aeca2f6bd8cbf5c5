#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trtllm_checkpoint_artifact
short_description: Make an artefact of a checkpoint, so that it goes from host to host, or a checkpoint of one that came
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - M(trtllm.fleet.trtllm_artifact_serve) and M(trtllm.fleet.trtllm_artifact_fetch) with C(kind=checkpoint) move what
    this module makes. The artefact is links to the checkpoint's files, so it takes no room.
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
  name:
    description: Names the checkpoint on the host.
    type: str
    required: true
  state:
    description:
      - With V(offered), the checkpoint becomes an artefact.
      - With V(adopted), an artefact that has arrived becomes the checkpoint, by a rename. Where the checkpoint with
        O(digest) is there already, it only counts as come from O(origin) then.
      - V(absent) removes the artefact, and what is left of others of this name. The checkpoint stays.
    type: str
    choices: [offered, adopted, absent]
    default: offered
  digest:
    description: With O(state=adopted), the RV(digest) of the host that offers it.
    type: str
  origin:
    description: With O(state=adopted), the RV(origin) of the host that offers it.
    type: dict
    default: {}
  keep:
    description:
      - With O(state=adopted), leave the artefact where it is, for hosts that still receive it from this one.
    type: bool
    default: false
seealso:
  - module: trtllm.fleet.trtllm_artifact_serve
  - module: trtllm.fleet.trtllm_artifact_fetch
"""

EXAMPLES = r"""
- name: Make an artefact of a checkpoint
  trtllm.fleet.trtllm_checkpoint_artifact:
    name: codellama-13b
  register: offered

- name: Hand it out
  trtllm.fleet.trtllm_artifact_serve:
    kind: checkpoint
    name: codellama-13b
    fingerprint: "{{ offered.digest }}"
    address: 10.20.0.7
    token: "{{ transfer_token }}"
"""

RETURN = r"""
path:
  description: Where the checkpoint is on the host.
  returned: success
  type: str
digest:
  description: The sha256 over the paths and digests of its files, which is the fingerprint of the artefact. Empty where
    the checkpoint is not there.
  returned: success
  type: str
origin:
  description: Where the checkpoint was downloaded from; empty where it was not.
  returned: success
  type: dict
there:
  description: Whether the checkpoint is there. With O(state=adopted), whether it is the one with O(digest).
  returned: success
  type: bool
"""

from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT, check_path
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.handed import Handed

ARGUMENT_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["offered", "adopted", "absent"], "default": "offered"},
    "digest": {"type": "str"},
    "origin": {"type": "dict", "default": {}},
    "keep": {"type": "bool", "default": False},
    "root": {"type": "path", "default": DEFAULT_ROOT},
}


def run(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """What the parameters ask for; raises `FleetError`."""
    handed = Handed(Path(check_path(params["root"], "root")), params["name"])
    wanted = params["digest"] or ""
    if params["state"] == "adopted":
        handed.artifacts.path(handed.name, wanted)  # refuses what is no fingerprint
    before, offered = (handed.digest(not check), handed.source()), handed.offered()
    if params["state"] == "adopted":
        changed = (before != (wanted, params["origin"])) and (before[0] == wanted or handed.arrived(wanted))
    else:
        changed = offered != ({before[0]} if params["state"] == "offered" else set())
    if not check:
        if params["state"] == "offered":
            handed.offer()
        elif params["state"] == "absent":
            handed.clear()
        else:
            handed.adopt(wanted, params["origin"], params["keep"])
    digest = handed.digest(not check)
    there = digest == wanted if params["state"] == "adopted" else bool(digest)
    return {
        "changed": changed, "path": str(handed.path), "digest": digest, "origin": handed.source(), "there": there,
    }  # fmt: skip


def main() -> NoReturn:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    with one_sentence(module):
        module.exit_json(**run(module.params, module.check_mode))


if __name__ == "__main__":
    main()
