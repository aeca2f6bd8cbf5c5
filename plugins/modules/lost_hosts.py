#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lost_hosts
short_description: Name the hosts that a play has lost, and end the run when they are too many
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Prints one line for each host of the play that failed or did not answer, with the reason.
  - Fails on all other hosts, and so ends the run, when more are lost than O(max_lost) allows.
  - Registered as C(fleet_lost_hosts), as in the example, the reasons are known to the next call too.
  - This is an action plugin; it runs once for the play, with the strategy C(linear), and nothing runs on a host.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
options:
  max_lost:
    description: How many hosts may be lost, as a number, or as a share such as C(10%), rounded down, but of at least
      one host unless it is C(0%).
    type: raw
    default: 10%
  show:
    description: Whether the lost hosts are named. A run that ends because of them names them in any case.
    type: bool
    default: true
  leaving:
    description: For the rescue of a block, where hosts are about to be left out. Names all lost hosts if no other host
      is left, and never fails.
    type: bool
    default: false
  stage:
    description: What the hosts are doing, for the line about a host that left no message. The name of the play by
      default.
    type: str
"""

EXAMPLES = r"""
- name: Prepare the hosts
  hosts: gpu_hosts
  tasks:
    - name: Prepare the host
      block:
        - name: Install podman
          ansible.builtin.include_role:
            name: trtllm.fleet.podman
      rescue:
        - name: Note why the host is lost
          ansible.builtin.include_role:
            name: trtllm.fleet.fleet
            tasks_from: lost.yml

    - name: Go on unless too many hosts are lost
      trtllm.fleet.lost_hosts:
        max_lost: 2
      run_once: true
      register: fleet_lost_hosts
"""

RETURN = r"""
lost:
  description: By host why it was lost.
  returned: success
  type: dict
  sample:
    gpu-07: "Failed to connect to the host via ssh (at 'Record the ports and GPUs that replicas of this host have')"
everyone:
  description: The hosts that are counted.
  returned: success
  type: list
  elements: str
"""
