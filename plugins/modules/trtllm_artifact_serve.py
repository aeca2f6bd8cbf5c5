#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trtllm_artifact_serve
short_description: Hand out an engine or a model repository to other hosts, for a while
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Starts a transient systemd unit that hands out one published artefact, and nothing else, over HTTP to who has the
    token. M(trtllm.fleet.trtllm_artifact_fetch) receives it.
  - The artefact is read once, to compute the sha256 of its pieces of 8 MiB; they are kept beside it. One that was
    altered since it was published is not handed out.
  - The unit has a low priority for processor and disk, and systemd ends it after O(time_limit), whatever became of the
    controller.
  - Nothing is encrypted. That the bytes are the right ones is proved by their digests, but who can listen on the
    network can read them, so give an address of a network that you trust. A firewall has to let O(port) in.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
  - trtllm.fleet.artifact
  - trtllm.fleet.artifact.network
attributes:
  check_mode:
    support: full
    details:
      - An artefact that is not there yet is no error then; RV(pieces) is empty.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  state:
    description:
      - V(started) hands it out.
      - V(stopped) ends that, and a reception of the same artefact on this host as well.
    type: str
    choices: [started, stopped]
    default: started
  address:
    description: Address of this host to listen on. Required with O(state=started).
    type: str
  token:
    description: Secret that receivers have to know. It stands in no command line, log or unit. Required with
      O(state=started).
    type: str
seealso:
  - module: trtllm.fleet.trtllm_artifact_fetch
  - module: trtllm.fleet.trtllm_engine
"""

EXAMPLES = r"""
- name: Hand out an engine on the storage network, with at most 500 MB a second
  trtllm.fleet.trtllm_artifact_serve:
    name: codellama-13b
    fingerprint: "{{ engine_results['codellama-13b'].fingerprint }}"
    address: 10.20.0.7
    token: "{{ transfer_token }}"
    rate: 500
  register: served

- name: End that
  trtllm.fleet.trtllm_artifact_serve:
    name: codellama-13b
    fingerprint: "{{ engine_results['codellama-13b'].fingerprint }}"
    state: stopped
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
pieces:
  description: sha256 over the list of the artefact's pieces, by which a receiver knows it. Empty in check mode, where
    the list was not made yet.
  returned: when O(state=started)
  type: str
url:
  description: Where it is handed out.
  returned: when O(state=started)
  type: str
  sample: http://10.20.0.7:18800
size:
  description: Bytes of the artefact.
  returned: when O(state=started)
  type: int
sent:
  description: Bytes of files that were sent by then.
  returned: when O(state=stopped) and it ran
  type: int
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.pieces import pieces_of
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.serve import url_of
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.transfer_unit import (
    ARGUMENTS,
    NETWORK,
    TransferUnit,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.sizes import MB

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    **NETWORK,
    "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
    "address": {"type": "str"},
    "token": {"type": "str", "no_log": True},
}


def stopped(unit: TransferUnit, check_mode: bool) -> dict[str, Any]:
    """The result of O(state=stopped)."""
    if check_mode:
        return {"changed": unit.running()}
    said = unit.stop()
    return {"changed": said is not None, **({} if said is None else {"sent": said.get("sent", 0)})}


def started(unit: TransferUnit, params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """The result of O(state=started)."""
    address, port = params["address"], params["port"]
    spec = unit.spec(params["token"], params["time_limit"], address=address, port=port, rate=params["rate"] * MB)
    changed = not unit.hands_out(spec)
    result = {"changed": changed, "url": url_of(address, port), "pieces": "", "size": 0}
    if check_mode:
        return result
    pieces = pieces_of(unit.store, unit.name, unit.fingerprint)
    if changed:
        unit.start(spec, params["token"])
    return {**result, "pieces": pieces.identity, "size": pieces.size}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "started", ["address", "token"])],
        supports_check_mode=True,
    )
    with one_sentence(module):
        params = module.params
        unit = TransferUnit.of(params)
        result = (
            started(unit, params, module.check_mode)
            if params["state"] == "started"
            else stopped(unit, module.check_mode)
        )
        module.exit_json(artifact_dir=str(unit.path), unit=unit.unit, **result)


if __name__ == "__main__":
    main()
