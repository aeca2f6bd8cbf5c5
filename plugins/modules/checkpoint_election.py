#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: checkpoint_election
short_description: Say which host brings each checkpoint from its source, and which receives it from whom
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Hosts that ask for the same checkpoint under one name need one download, or one copy from the controller. It is done
    by a host that has it already, else by one of O(downloaders), else by any; among equals by the one that brings
    least, and the first of these in the inventory.
  - The others receive it in a chain, each from the host before it, or from the one that brought it when that one fails.
  - Prints one line for each checkpoint that is shared.
  - What the hosts need and have is their fact C(checkpoint_offer), which the role P(trtllm.fleet.checkpoint#role)
    leaves.
  - This is an action plugin; it runs once for the play, with the strategy C(linear), and nothing runs on a host.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
options:
  downloaders:
    description: Hosts that bring checkpoints rather than others do.
    type: list
    elements: str
    default: []
  failed:
    description: Hosts that were to bring a checkpoint before, and count no more where they do not have it.
    type: list
    elements: str
    default: []
seealso:
  - module: trtllm.fleet.engine_election
"""

EXAMPLES = r"""
- name: Elect
  trtllm.fleet.checkpoint_election:
    downloaders: "{{ groups['checkpoint_downloaders'] | default([]) }}"
  run_once: true
  register: checkpoint_election
"""

RETURN = r"""
hosts:
  description: By host of the batch C(builds), the names of checkpoints that it brings for others too, and C(receives),
    as M(trtllm.fleet.engine_election) returns them.
  returned: success
  type: dict
receivers:
  description: The hosts that receive anything.
  returned: success
  type: list
  elements: str
check_mode:
  description: Whether it was asked in check mode, in which nothing shall be brought or handed on.
  returned: success
  type: bool
table:
  description: A line for each checkpoint that is shared.
  returned: success
  type: list
  elements: str
  sample: ["checkpoint codellama-13b (5f0a6a1b2c3d): gpu-01 brings it, for gpu-02, gpu-03"]
"""
