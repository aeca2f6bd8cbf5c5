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
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
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
  sample: ["triton-codellama-13b-0: port 8000 of 127.0.0.1 (HTTP) is held by nginx (process 321, nginx.service)"]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils import _ports
from ansible_collections.trtllm.fleet.plugins.module_utils._module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._service_host import ServiceHost
from ansible_collections.trtllm.fleet.plugins.module_utils._service_types import Listen


def held_by_others(host: ServiceHost, wanted: list[tuple[str, Listen]]) -> list[str]:
    """A sentence for every port that is not its service's own; a port may move between the services given."""
    sockets = host.listeners()
    found = [
        (service, listen, socket)
        for service, listen in wanted
        for socket in _ports.conflicts(listen.address, listen.port, sockets)
    ]
    owners = host.owners({socket.inode for _service, _listen, socket in found}) if found else {}
    own = {f"{service}.service" for service, _listen in wanted}
    problems: list[str] = []
    for service, listen, socket in found:
        owner = owners.get(socket.inode)
        if owner is None or owner.unit not in own:
            problems.append(
                f"{service}: port {listen.port} of {listen.address} ({listen.what}) is held by "
                f"{owner or 'a process that cannot be seen'}"
            )
    return problems


def main() -> None:
    spec = {
        "service": {"type": "str", "required": True},
        "address": {"type": "str", "required": True},
        "port": {"type": "int", "required": True},
        "what": {"type": "str", "default": "its port"},
    }
    module = AnsibleModule(
        argument_spec={"listen": {"type": "list", "elements": "dict", "required": True, "options": spec}},
        supports_check_mode=True,
    )
    with one_sentence(module):
        wanted = [
            (given["service"], Listen(given["address"], given["port"], given["what"]))
            for given in module.params["listen"]
        ]
        problems = held_by_others(ServiceHost(), wanted)
    if problems:
        remedy = "Stop that, or give the service another port. Nothing was changed."
        module.fail_json(msg=f"{'; '.join(problems)}. {remedy}", held=problems)
    module.exit_json(changed=False, held=[])


if __name__ == "__main__":
    main()
