#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_election
short_description: Say which host builds each engine, and which receives it from whom
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Hosts whose engine of one name has the same fingerprint, so the same GPU, image, checkpoint and options, need one
    build. It is done by a host that has the engine already, else by one of O(builders), else by one that does not
    serve, else by any; among equals by the one that builds least, and the first of these in the inventory.
  - The others receive it in a chain, each from the host before it, or from the builder when that one fails.
  - Prints one line for each engine that is shared.
  - What the hosts need and have is their fact C(engine_offer), which the role P(trtllm.fleet.engine#role) leaves. Hosts
    of other batches and plays of the run count with what they have.
  - This is an action plugin; it runs once for the play, with the strategy C(linear), and nothing runs on a host.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
options:
  builders:
    description: Hosts that build rather than others do.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Elect
  trtllm.fleet.engine_election:
    builders: "{{ groups['engine_builders'] | default([]) }}"
  run_once: true
  register: engine_election
"""

RETURN = r"""
hosts:
  description: By host of the batch C(builds), the names of engines that it builds for others too, and C(receives).
  returned: success
  type: dict
  sample:
    gpu-01: {builds: [codellama-13b], receives: []}
    gpu-02:
      builds: []
      receives:
        - name: codellama-13b
          fingerprint: 5f0a...
          builder: gpu-01
          first: gpu-02
          source: {address: 10.20.0.7, port: 18800, root: /var/lib/trtllm}
          sources: ["http://10.20.0.7:18800"]
          address: 10.20.0.8
          port: 18800
          root: /var/lib/trtllm
receivers:
  description: The hosts that receive anything.
  returned: success
  type: list
  elements: str
check_mode:
  description: Whether it was asked in check mode, in which nothing shall be built or handed on.
  returned: success
  type: bool
table:
  description: A line for each engine that is shared.
  returned: success
  type: list
  elements: str
  sample: ["engine codellama-13b (5f0a6a1b2c3d): gpu-01 builds it, for gpu-02, gpu-03"]
"""
