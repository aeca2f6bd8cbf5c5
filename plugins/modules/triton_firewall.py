#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who reaches Triton on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: triton_firewall
short_description: Let only gateways and the controller reach Triton's ports
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Triton asks nobody for a password. This closes the ports of its replicas to all but the host itself, the addresses
    in O(allow), and the one from which Ansible has come to the host over ssh, which asks replicas itself when they are
    verified.
  - The rules are a table of nftables of their own, C(inet trtllm_fleet), which speaks of these ports alone; C(nft -f)
    puts a changed one in place as a whole. They stand in C(/etc/trtllm/firewall.nft), and C(trtllm-firewall.service)
    loads them at boot. Other rules, and firewalld, stay as they are; a packet passes only what all of them accept.
extends_documentation_fragment:
  - trtllm.fleet.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description: Whether the ports are closed, or the rules are not there.
    type: str
    choices: [closed, open]
    default: closed
  replicas:
    description: The replicas, each with C(http_port), C(grpc_port) and C(metrics_port) as far as it listens. Without
      any the rules are taken away.
    type: list
    elements: dict
    default: []
  allow:
    description: Addresses and networks that may connect.
    type: list
    elements: str
    default: []
  cuts:
    description: Cut off who is connected and may not be. Otherwise the module fails, changes nothing, and names them.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Let only the gateway reach Triton
  trtllm.fleet.triton_firewall:
    replicas:
      - {http_port: 8000, grpc_port: 8001, metrics_port: 8002}
    allow: [10.0.0.5]
"""

RETURN = r"""
ports:
  description: The ports that are closed to others.
  returned: success
  type: list
  elements: int
  sample: [8000, 8001, 8002]
allowed:
  description: Who may connect, the controller with them.
  returned: success
  type: list
  elements: str
  sample: [10.0.0.5/32, 10.0.0.9/32]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.firewall import (
    Files,
    Firewall,
    controller,
    networks,
    ports_of,
)

ARGUMENTS: dict[str, Any] = {
    "state": {"type": "str", "choices": ["closed", "open"], "default": "closed"},
    "replicas": {"type": "list", "elements": "dict", "default": []},
    "allow": {"type": "list", "elements": "str", "default": []},
    "cuts": {"type": "bool", "default": False},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    found: dict[str, Any] = {}
    with one_sentence(module):
        found = keep(module.params, module.check_mode)
    module.exit_json(**found)


def keep(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """Close the ports, or open them, and say what was done."""
    ports, firewall = ports_of(params["replicas"]), Firewall()
    allowed = networks([*params["allow"], *filter(None, [controller()])], "triton_firewall_allow")
    if params["state"] == "open" or not ports:
        changed, before, after = firewall.open(check)
        ports = []
    else:
        changed, before, after = firewall.close(ports, allowed, params["cuts"], check)
    diff = {"before": shown(before), "after": shown(after)}
    return {"changed": changed, "ports": ports, "allowed": [str(one) for one in allowed], "diff": diff}


def shown(files: Files) -> str:
    """Both files, as the diff has them."""
    return f"{files.rules}{files.unit}"


if __name__ == "__main__":
    main()
