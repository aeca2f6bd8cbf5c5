#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_plan
short_description: Check the description of a fleet and work out what each role has to do on a host
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Checks C(trtllm_models) and what belongs to it on the controller, before anything on a host is touched,
    and derives the inputs of all other roles from it.
  - An unknown key is refused with the nearest known one.
  - This is an action plugin; nothing runs on the host.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
options:
  trtllm_release:
    description: The TensorRT-LLM release.
    type: str
    required: true
  trtllm_root:
    description: Where artefacts live on the hosts.
    type: path
    default: /var/lib/trtllm
  trtllm_triton_address:
    description: The address that Triton's own ports listen on. By default C(127.0.0.1), and where gateways of other
      hosts front the replicas, the address at which the inventory reaches the host.
    type: str
  trtllm_node_address:
    description: The IPv4 address at which the other nodes of a replica on several hosts reach this host. By default the
      address at which the inventory reaches it.
    type: str
  trtllm_port_base:
    description: The HTTP port of the first replica of a host.
    type: int
    default: 8000
  trtllm_serves:
    description: Whether this host serves its models, or only builds their engines for others.
    type: bool
    default: true
  trtllm_max_lost:
    description: How many hosts a run may lose; only checked here, see M(trtllm.fleet.lost_hosts).
    type: raw
    default: 10%
  trtllm_keep:
    description: How many releases of each service stay on a host; only checked here, see M(trtllm.fleet.trtllm_prune).
    type: raw
    default: 2
  trtllm_gateway_fronts:
    description: Without gateways on hosts of their own, whether the gateway of a host fronts its own replicas or those
      of all hosts.
    type: str
    choices: [host, fleet]
    default: host
  trtllm_models:
    description: The models of the host; the role P(trtllm.fleet.fleet#role) documents every key. Not required of a host
      that is only a gateway.
    type: list
    elements: dict
    required: true
  held_ports:
    description: The ports that the replicas of the host have by now, as M(trtllm.fleet.triton_held_info) returns them.
      A replica keeps them unless others are given, and a new one gets none of them.
    type: dict
    default: {}
  held_gpus:
    description: The GPUs that the replicas of the host have by now, from the same module. A replica that was given
      none keeps them, unless it needs another number of them or another replica is given one.
    type: dict
    default: {}
  host:
    description: The name of the host in the inventory.
    type: str
    default: ""
  reached_at:
    description: The name or address at which the inventory reaches the host.
    type: str
    default: ""
  gateway:
    description: Whether gateways are run at all.
    type: bool
    default: true
  gateway_hosts:
    description: The hosts that run gateways in front of all replicas. One that is not in O(serving_hosts) is only a
      gateway.
    type: list
    elements: str
    default: []
  serving_hosts:
    description: The hosts that serve models.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Check the description of the fleet and work out what this host has to do
  trtllm.fleet.fleet_plan:
    trtllm_release: "1.2.1"
    trtllm_models:
      - name: codellama-13b
        checkpoint: {source: path, path: /srv/models/CodeLlama-13b-Instruct-hf}
        engine: {dtype: float16, tp_size: 2, max_batch_size: 64}
"""

RETURN = r"""
plan:
  description: The inputs of each role; C(release), C(root), C(serves) (false for a host that is only a gateway),
    C(images) (of models that have one of their own), C(shared_image) (whether a model has none),
    C(checkpoints), C(engines), C(repositories), C(replicas) and C(gateway_models).
  returned: success
  type: dict
"""
