#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trtllm_artifact_fetch
short_description: Receive an engine or a model repository from hosts that have it
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Receives a published artefact in pieces of 8 MiB from hosts where M(trtllm.fleet.trtllm_artifact_serve), or another
    reception, hands it out. Each piece is verified by its sha256 as it arrives; from a source that fails or sends a
    wrong piece, the next one takes over.
  - It arrives beside its place and is put there by one rename, as a build of this host would be, once every piece is
    right and its manifest names the wanted fingerprint. Until then nothing is to be seen of it.
  - With O(address), what is verified is handed on while the rest still arrives, so that hosts can receive one from the
    other at almost the speed of one.
  - It runs as a transient systemd unit of low priority that outlives a lost connection. A run that comes later with the
    same arguments joins it. What an earlier one left is verified again, and only the rest is received.
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
      - No source is asked then.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  pieces:
    description: The RV(trtllm.fleet.trtllm_artifact_serve#module:pieces) of the host that has it. Nothing else is
      taken. That of a draft, whose digests come with its pieces, receives what nobody publishes; it is taken up where
      the artefact is received that was made of it.
    type: str
    required: true
  sources:
    description: URLs of the hosts that hand it out, the preferred one first.
    type: list
    elements: str
    required: true
  token:
    description: Secret that the sources want. It stands in no command line, log or unit.
    type: str
    required: true
  address:
    description: Address of this host on which what is verified is handed on, until O(time_limit) or until
      M(trtllm.fleet.trtllm_artifact_serve) with C(state=stopped). Without it nothing is handed on.
    type: str
    default: ""
  ranks:
    description:
      - Receive of an engine only the files that these ranks read, and what all ranks do. The others stay with whoever
        built it, and this host hands it on to hosts with the same ranks alone.
      - By default all of it is received.
    type: list
    elements: int
    default: []
  threads:
    description: Pieces that are received at the same time. Four fill a network of 10 Gbit/s.
    type: int
    default: 4
  wait:
    description: Wait until the artefact is published. Otherwise it is only started, and a later run waits for it.
    type: bool
    default: true
  follow:
    description: Do not wait, but tell how far it is, and once it is done what O(wait=true) tells. V(start) starts it
      where it does not run, V(look) starts nothing. The action plugin asks so to show its progress.
    type: str
    choices: [start, look]
  poll:
    description: Seconds between two looks at it.
    type: int
    default: 1
seealso:
  - module: trtllm.fleet.trtllm_artifact_serve
"""

EXAMPLES = r"""
- name: Receive an engine from the host before this one, or from the one that built it, and hand it on
  trtllm.fleet.trtllm_artifact_fetch:
    name: codellama-13b
    fingerprint: "{{ wanted.fingerprint }}"
    pieces: "{{ hostvars['gpu-01'].served.pieces }}"
    sources: ["http://10.20.0.8:18800", "http://10.20.0.7:18800"]
    token: "{{ transfer_token }}"
    address: 10.20.0.9
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
receiving:
  description: Whether it still arrives, which is only so with O(wait=false) or O(follow).
  returned: always
  type: bool
received:
  description: Bytes that were received.
  returned: always
  type: int
kept:
  description: Bytes that an earlier run had left, and that were right.
  returned: always
  type: int
size:
  description: Bytes of the artefact; 0 where that is not known yet.
  returned: always
  type: int
seconds:
  description: Seconds that it took.
  returned: always
  type: float
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fetch import Source
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.pieces import DIGEST
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.transfer_unit import (
    ARGUMENTS,
    DONE,
    NETWORK,
    OF_RANKS,
    TransferUnit,
    check_counts,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import show
from ansible_collections.trtllm.fleet.plugins.module_utils._base.sizes import MB

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    **OF_RANKS,
    **NETWORK,
    "pieces": {"type": "str", "required": True},
    "sources": {"type": "list", "elements": "str", "required": True},
    "token": {"type": "str", "required": True, "no_log": True},
    "address": {"type": "str", "default": ""},
    "threads": {"type": "int", "default": 4},
    "wait": {"type": "bool", "default": True},
    "follow": {"type": "str", "choices": ["start", "look"]},
    "poll": {"type": "int", "default": 1},
}
REPORTED = ("received", "kept", "size", "seconds")


def refuse(params: dict[str, Any]) -> None:
    """Refuse what cannot be received, before anything is asked or changed."""
    if not params["sources"]:
        raise FleetError("sources is empty; give the URL of a host that hands the artefact out.")
    for url in params["sources"]:
        Source(url)
    if not DIGEST.fullmatch(params["pieces"]):
        raise FleetError(f"pieces is {show(params['pieces'])}; give what trtllm_artifact_serve returned as pieces.")
    check_counts(params)


def _figures(said: dict[str, Any]) -> dict[str, Any]:
    return {key: said.get(key, 0) for key in REPORTED}


def run(unit: TransferUnit, params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """What the parameters ask for; raises `FleetError`."""
    refuse(params)
    how = {key: params[key] for key in ("sources", "pieces", "threads", "address", "port")}
    spec = unit.spec(params["token"], params["time_limit"], rate=params["rate"] * MB, **how)
    result: dict[str, Any] = {"changed": False, "receiving": False, **dict.fromkeys(REPORTED, 0)}
    runs = unit.runs(spec)
    looks = params["follow"] == "look"
    if unit.is_there and not (runs and params["wait"]) and not looks:
        return result
    if check_mode:
        return {**result, "changed": not unit.is_there}
    if not runs and not (params["wait"] and unit.failed(spec)):
        if looks:
            unit.refuse_failure()
        else:
            unit.start(spec, params["token"])
    if params["follow"] and not unit.is_over(said := unit.status()):
        unit.refuse_failure()
        return {**result, **_figures(said), "changed": True, "receiving": True}
    said = unit.waited(params["poll"]) if params["wait"] else unit.status()
    if params["wait"] and not params["address"]:
        unit.stop()  # it has nothing left to do, and what it did is told once
    return {**result, **_figures(said), "changed": True, "receiving": said.get("state") not in DONE}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    with one_sentence(module):
        params = module.params
        unit = TransferUnit.of(params)
        module.exit_json(artifact_dir=str(unit.path), unit=unit.unit, **run(unit, params, module.check_mode))


if __name__ == "__main__":
    main()
