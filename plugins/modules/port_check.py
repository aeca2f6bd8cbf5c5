#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuse ports that somebody else holds."""

from __future__ import annotations

DOCUMENTATION = r"""
module: port_check
short_description: Refuse TCP ports that another process of the host listens on
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Fails when a process other than the service itself listens where the service shall listen, and names it.
  - Nothing is changed, and nothing needs to be installed on the host.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
  - trtllm.fleet.root.releases
options:
  listen:
    description: Where services shall listen.
    type: list
    elements: dict
    required: true
    suboptions:
      service:
        description: The service, without a suffix; when it listens there already, all is well.
        type: str
        required: true
      address:
        description: The IP address.
        type: str
        required: true
      port:
        description: The TCP port.
        type: int
        required: true
      what:
        description: What the port is for, for messages.
        type: str
        default: its port
  prune_prefix:
    description: Names of services beginning like this belong to O(listen). Others on the host are told as what they
      are, services that are not described any more.
    type: str
  prune:
    description: Whether such services will be removed, so that their ports are free.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Check that the ports are free
  trtllm.fleet.port_check:
    listen:
      - {service: triton-codellama-13b-0, address: 127.0.0.1, port: 8000, what: HTTP}
"""

RETURN = r"""
held:
  description: The ports that others hold.
  returned: always
  type: list
  elements: str
  sample:
    - "triton-codellama-13b-0: port 8000 of 127.0.0.1 (HTTP) is held by nginx (process 321, nginx.service); stop that,
      or give triton-codellama-13b-0 another port."
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_RELEASES, check_name
from ansible_collections.trtllm.fleet.plugins.module_utils._service.host import ServiceHost
from ansible_collections.trtllm.fleet.plugins.module_utils._service.refusals import held_ports, held_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._service.types import Listen
from ansible_collections.trtllm.fleet.plugins.module_utils._service.units import own_units

SPEC = {
    "service": {"type": "str", "required": True},
    "address": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "what": {"type": "str", "default": "its port"},
}
ARGUMENT_SPEC = {
    "listen": {"type": "list", "elements": "dict", "required": True, "options": SPEC},
    "prune_prefix": {"type": "str"},
    "prune": {"type": "bool", "default": False},
    "releases_dir": {"type": "path", "default": DEFAULT_RELEASES},
}


def held_by_others(host: ServiceHost, wanted: list[tuple[str, Listen]], parameters: dict[str, Any]) -> list[str]:
    """A sentence for every port that is not its service's own; a port may move between the services given."""
    prefix, names = parameters["prune_prefix"], {service for service, _listen in wanted}
    stale = set() if prefix is None else set(own_units(host, prefix)) - names
    own = names | (stale if parameters["prune"] else set())
    return [
        held_sentence(host, held, stale, parameters["releases_dir"])
        for held in held_ports(host, wanted)
        if held.by not in own
    ]


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    with one_sentence(module):
        if module.params["prune_prefix"] is not None:
            check_name(module.params["prune_prefix"], "prune_prefix")
        wanted = [
            (given["service"], Listen(given["address"], given["port"], given["what"]))
            for given in module.params["listen"]
        ]
        problems = held_by_others(ServiceHost(), wanted, module.params)
    if problems:
        module.fail_json(msg=f"{' '.join(problems)} Nothing was changed.", held=problems)
    module.exit_json(changed=False, held=[])


if __name__ == "__main__":
    main()
