#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trtllm_artifact_share
short_description: Share an engine or a model repository through a directory that hosts have mounted
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Copies a published artefact out of O(shared_dir) to its place on this host, or, where this host has it and
    O(shared_dir) does not, into it. Where neither has it, one host takes the turn to make it and RV(builds) is true
    there; run the module again when it is made. The other hosts wait.
  - The turn is a lock of the kernel's on a file in O(shared_dir), one for each fingerprint, so it goes with the host or
    the process that holds it; RV(free) is true then on those that wait, and the module can be run again. The file
    system needs such locks (NFS version 4, or Lustre mounted with C(-o flock)).
  - It arrives on both sides as with M(trtllm.fleet.trtllm_artifact_fetch), in verified pieces, beside its place, and is
    put there by one rename. Nothing is served out of O(shared_dir).
  - A host that cannot write to O(shared_dir) only copies out of it, and takes no turn.
  - It runs as a transient systemd unit of low priority, which ends after O(time_limit).
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
  - trtllm.fleet.artifact
attributes:
  check_mode:
    support: full
    details:
      - RV(builds) is false then, as no turn is taken.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  shared_dir:
    description: Directory that the hosts have mounted. In it, artefacts are kept as below O(root).
    type: path
    required: true
  state:
    description:
      - V(shared) does what the description says.
      - With V(received) it is only copied out of O(shared_dir), if it is there; no turn is taken, and nothing is waited
        for.
      - V(absent) gives up the turn, or ends the copy.
    type: str
    choices: [shared, received, absent]
    default: shared
  turn:
    description: Take the turn, if nobody has it when the unit begins. Otherwise it is only waited for who has it.
    type: bool
    default: true
  ranks:
    description:
      - Receive of an engine only the files that these ranks read, and what all ranks do. Such a part is never
        put into O(shared_dir).
      - By default all of it is received.
    type: list
    elements: int
    default: []
  threads:
    description: Pieces that are copied at the same time.
    type: int
    default: 4
  wait:
    description: Wait until the artefact is on both sides, or is to be made here, or nobody makes it. Otherwise it is
      only begun, and a later run waits for it.
    type: bool
    default: true
  poll:
    description: Seconds between two looks at it.
    type: int
    default: 1
seealso:
  - module: trtllm.fleet.trtllm_artifact_fetch
  - module: trtllm.fleet.trtllm_engine
"""

EXAMPLES = r"""
- name: Copy the engine out of the shared directory, or take the turn to make it
  trtllm.fleet.trtllm_artifact_share:
    name: codellama-13b
    fingerprint: "{{ wanted.fingerprint }}"
    shared_dir: /mnt/llm
  register: shared

- name: Make the engine
  trtllm.fleet.trtllm_engine:
    name: codellama-13b
    checkpoint: /srv/CodeLlama-13b-hf
  when: shared.builds

- name: Put it into the shared directory
  trtllm.fleet.trtllm_artifact_share:
    name: codellama-13b
    fingerprint: "{{ wanted.fingerprint }}"
    shared_dir: /mnt/llm
"""

RETURN = r"""
artifact_dir:
  description: The artefact's directory.
  returned: always
  type: str
unit:
  description: The systemd unit.
  returned: always
  type: str
builds:
  description: Whether this host is to make the artefact.
  returned: always
  type: bool
waiting:
  description: Whether it is still waited for or copied, which is only so with O(wait=false).
  returned: always
  type: bool
free:
  description: Whether nobody has the artefact, or the turn to make it.
  returned: always
  type: bool
holder:
  description: Name of the host whose turn it is, where this host waits for it.
  returned: always
  type: str
received:
  description: Bytes that were copied, to either side.
  returned: always
  type: int
kept:
  description: Bytes that an earlier run had copied, and that were right.
  returned: always
  type: int
size:
  description: Bytes of the artefact; 0 where nothing was copied.
  returned: always
  type: int
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.artifact_store import ArtifactStore
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.transfer import KINDS
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.transfer_unit import (
    ARGUMENTS,
    OF_RANKS,
    TransferUnit,
    check_counts,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import show

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    **OF_RANKS,
    "shared_dir": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["shared", "received", "absent"], "default": "shared"},
    "turn": {"type": "bool", "default": True},
    "threads": {"type": "int", "default": 4},
    "wait": {"type": "bool", "default": True},
    "poll": {"type": "int", "default": 1},
}
REPORTED = ("received", "kept", "size")


def refuse(params: dict[str, Any]) -> None:
    """Refuse what cannot be shared, before anything is changed."""
    given = show(params["shared_dir"])
    shared = Path(params["shared_dir"])
    if not shared.is_absolute() or not shared.is_dir():
        raise FleetError(f"shared_dir is {given}, which is no directory of this host; mount it, or give its path.")
    if shared.resolve() == Path(params["root"]).resolve():
        raise FleetError(f"shared_dir is {given}, which is the root of this host; give another directory.")
    check_counts(params)


def run(unit: TransferUnit, params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """What the parameters ask for; raises `FleetError`."""
    result: dict[str, Any] = {"changed": False, "builds": False, "waiting": False, "free": False, "holder": ""}
    result.update(dict.fromkeys(REPORTED, 0))
    if params["state"] == "absent":
        ran = unit.running() if check_mode else unit.stop() is not None
        return {**result, "changed": ran}
    refuse(params)
    turn = params["turn"] and params["state"] == "shared"
    spec = unit.spec(None, params["time_limit"], shared=params["shared_dir"], threads=params["threads"], turn=turn)
    begun = [spec, {**spec, "turn": True}]
    # One that runs has asked for the turn already; it is asked again where nobody has it.
    runs = any(map(unit.runs, begun)) and not (turn and unit.status().get("state") == "free")
    failed = params["wait"] and any(map(unit.failed, begun))
    store = ArtifactStore(Path(params["shared_dir"]) / KINDS[params["kind"]], shared=True)
    given = store.has(unit.name, unit.fingerprint)
    # Where it is here and cannot be put there, all is done.
    done = unit.is_there and (given or not turn or not os.access(params["shared_dir"], os.W_OK))
    if not runs and not failed and (done or (params["state"] == "received" and not given)):
        said = {} if check_mode else (unit.status(), unit.stop())[0]
        found = {key: said.get(key, 0) for key in REPORTED}
        return {**result, **found, "changed": bool(said), "free": not unit.is_there}
    if check_mode:
        return {**result, "changed": True, "waiting": not unit.is_there}
    if not runs and not failed:
        unit.start(spec, None)
    said = unit.waited(params["poll"]) if params["wait"] else unit.status()
    if params["wait"] and runs and turn and said.get("state") == "free":
        unit.start(spec, None)  # who had the turn when it began is gone
        said = unit.waited(params["poll"])
    state = said.get("state")
    if state == "published" or (state == "free" and params["wait"]):
        unit.stop()
    builds = state == "holding" and not unit.is_there
    return {
        **result,
        **{key: said.get(key, 0) for key in REPORTED},
        "changed": True,
        "builds": builds,
        "waiting": not builds and state not in ("published", "free"),
        "free": state == "free",
        "holder": said.get("holder", ""),
    }


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    with one_sentence(module):
        params = module.params
        unit = TransferUnit.of(params)
        module.exit_json(artifact_dir=str(unit.path), unit=unit.unit, **run(unit, params, module.check_mode))


if __name__ == "__main__":
    main()
