#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the Triton replicas and the gateway of a host have."""

from __future__ import annotations

DOCUMENTATION = r"""
module: triton_held_info
short_description: The ports and the GPUs that the Triton replicas of a host have, and what its gateway fronts
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Reads them from the unit files on the host, running or not, and starts no process there but for O(settled).
  - A host without podman or without replicas has none.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
options:
  settled:
    description: Whether to look in the same call whether anything differs on the host, see RV(seen).
    type: bool
    default: false
seealso:
  - module: trtllm.fleet.triton_replica_info
  - module: trtllm.fleet.fleet_settled
"""

EXAMPLES = r"""
- name: Find the ports of the replicas
  trtllm.fleet.triton_held_info:
  register: found

- name: Name those of one replica
  ansible.builtin.debug:
    msg: "{{ found.ports['codellama-13b-0'].http_port }}"
"""

RETURN = r"""
ports:
  description: By the name of each replica its C(http_port), C(grpc_port) and C(metrics_port).
  returned: success
  type: dict
  sample:
    codellama-13b-0: {http_port: 8000, grpc_port: 8001, metrics_port: 8002}
gpus:
  description: By the name of each replica its GPUs, as it was given them.
  returned: success
  type: dict
  sample:
    codellama-13b-0: ["0", "1"]
gateway_config:
  description: The configuration of the host's OpenAI gateway, as its file has it; empty where there is none.
  returned: success
  type: str
  sample: |
    port: 3000
    models:
      - name: codellama-13b
        urls: [http://127.0.0.1:8000]
seen:
  description: What M(trtllm.fleet.fleet_settled) tells with O(trtllm.fleet.fleet_settled#module:state=seen), for its
    option O(trtllm.fleet.fleet_settled#module:seen).
  returned: with O(settled)
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT
from ansible_collections.trtllm.fleet.plugins.module_utils._service.host import ServiceHost
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.held import held

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "settled": {"type": "bool", "default": False},
    "root": {"type": "path", "default": DEFAULT_ROOT},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    with one_sentence(module):
        found = held(ServiceHost())
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
