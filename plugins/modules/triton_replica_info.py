#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Triton replicas that a host has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: triton_replica_info
short_description: The Triton replicas that a host really has, and how they are
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Finds the replicas from the unit files on the host, whatever the inventory says, and tells what each serves, since
    when, its health, how many requests it has served and how much memory its GPUs use.
  - Runs on the host and needs nothing installed there.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
  - trtllm.fleet.root.releases
options:
  metrics:
    description: Whether to ask Triton for the requests served, and the GPUs for their memory.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Find the replicas
  trtllm.fleet.triton_replica_info:
  register: found

- name: Name those that do not serve
  ansible.builtin.debug:
    msg: "{{ found.replicas | rejectattr('active', 'equalto', 'active') | map(attribute='replica') | list }}"
"""

RETURN = r"""
replicas:
  description: One dictionary for each replica. C(gpu_memory_mib) holds used and total of its GPUs, C(previous) says
    when the release began to serve that a rollback would bring back, C(gathers) which logits its engine gathers,
    C(problem) why it cannot be asked anything, empty where it can. One whose ranks are on several hosts is here on the
    host that leads; C(nodes) are all of them.
  returned: success
  type: list
  elements: dict
  sample:
    - service: triton-codellama-13b-0
      replica: codellama-13b-0
      model: codellama-13b
      release: 1.2.1
      image: nvcr.io/nvidia/tritonserver@sha256:4c5f...
      repository: /var/lib/trtllm/repositories/codellama-13b/9a1b...
      engines: [/var/lib/trtllm/engines/codellama-13b/2f0c...]
      fingerprints: [2f0c...]
      gpus: ["0", "1"]
      http_url: http://127.0.0.1:8000
      metrics_url: http://127.0.0.1:8002
      entry_models: [ensemble, tensorrt_llm_bls]
      api: triton
      gathers: []
      active: active
      sub: running
      restarts: 0
      since: "2026-11-20T13:05:51Z"
      health: healthy
      requests: 1200
      gpu_memory_mib: [143000, 163840]
      previous: "2026-11-01T10:00:00Z"
      problem: ""
      nodes: []
workers:
  description: The same for replicas of several hosts of which this one has ranks and does not lead. Nobody asks it
    anything; it runs while it waits for its leader, and while it has ranks.
  returned: success
  type: list
  elements: dict
gateways:
  description: The OpenAI gateways of the host; C(config) is the text of its configuration, C(names) what clients call
    models where that is another name.
  returned: success
  type: list
  elements: dict
  sample:
    - service: openai-gateway
      url: http://127.0.0.1:3000
      models: [codellama-13b]
      active: active
      config: "{port: 3000, models: [{name: codellama-13b, urls: ['http://127.0.0.1:8000']}]}"
      names: {}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_RELEASES
from ansible_collections.trtllm.fleet.plugins.module_utils._service.host import ServiceHost
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.state import served


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "metrics": {"type": "bool", "default": True},
            "releases_dir": {"type": "path", "default": DEFAULT_RELEASES},
        },
        supports_check_mode=True,
    )
    with one_sentence(module):
        found = served(ServiceHost(), module.params["releases_dir"], metrics=module.params["metrics"])
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
