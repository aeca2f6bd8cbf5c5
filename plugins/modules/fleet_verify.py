#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: fleet_verify
short_description: Replay the documents' requests against all replicas and gateways of the fleet at once
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Asks each replica of each host of the play, and through every gateway each of its models, what
    M(trtllm.fleet.triton_verify) asks, many at a time and in one process.
  - Takes what M(trtllm.fleet.triton_replica_info) has registered as C(verify_found) for each host, or where
    that was skipped what M(trtllm.fleet.fleet_settled) has registered as C(fleet_settled), and the keys of
    gateways from the hosts' variables C(openai_gateway_api_keys) and C(openai_gateway_clients).
  - Does not fail when a check does not hold; see RV(ok).
  - This is an action plugin; it runs once for the play, with the strategy C(linear), and nothing runs on a host.
requirements:
  - tritonclient[http] on the controller
  - openai on the controller, where there is a gateway
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
attributes:
  check_mode:
    details:
      - The requests are sent all the same.
options:
  gateway_hosts:
    description: Hosts that are there for gateways, and may have none where nobody wants one.
    type: list
    elements: str
    default: []
  early_stop_tokens:
    description: As M(trtllm.fleet.triton_verify) takes it.
    type: int
  gateway_tls_verify:
    description: As M(trtllm.fleet.triton_verify) takes it.
    type: bool
"""

EXAMPLES = r"""
- name: Record the replicas and the gateway of the host
  trtllm.fleet.triton_replica_info:
    metrics: false
  register: verify_found

- name: Verify all of them
  trtllm.fleet.fleet_verify:
  run_once: true
  register: verified

- name: Refuse a host that does not answer as expected
  ansible.builtin.assert:
    that: verified.hosts[inventory_hostname].ok
"""

RETURN = r"""
ok:
  description: Whether every check of every host held.
  returned: success
  type: bool
hosts:
  description: By host C(ok), and by C(replicas) what M(trtllm.fleet.triton_verify) returned as C(checks), or C(error).
  returned: success
  type: dict
table:
  description: The lines of a table.
  returned: success
  type: list
  elements: str
"""
