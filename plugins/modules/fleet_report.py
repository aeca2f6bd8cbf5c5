#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_report
short_description: Write one page about the fleet
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Writes an HTML page about the hosts of the play, from what tasks before have registered for them. It asks for
    nothing from elsewhere and has no JavaScript.
  - C(playbooks/report.yml) is what calls it. It takes P(trtllm.fleet.fleet#role)'s C(fleet_description), and what
    M(trtllm.fleet.gpu_host_info), M(trtllm.fleet.triton_replica_info), M(trtllm.fleet.rollout_info) and
    M(trtllm.fleet.trtllm_engine_info) found, as C(preflight_look), C(report_replicas), C(report_rollouts) and
    C(report_engines). Of a host that did not answer it says that it is lost, and why.
  - The files are written in check mode too, as they are a report.
  - This is an action plugin; it runs once for the play, on the controller.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
options:
  page:
    description: The file of the page, on the controller.
    type: str
    required: true
  json:
    description: A file for the same as JSON.
    type: str
  name:
    description: What the fleet is called; by default as its inventory.
    type: str
  benchmarks:
    description: The directory where C(playbooks/benchmark.yml) left its runs; by default that in the cache directory.
    type: str
"""

EXAMPLES = r"""
- name: Write the page
  trtllm.fleet.fleet_report:
    page: /srv/www/fleet.html
    json: /srv/www/fleet.json
    name: Llamas of the north
  run_once: true
"""

RETURN = r"""
page:
  description: The absolute path of the page.
  returned: success
  type: str
metrics:
  description: What Prometheus is told of it, in the text format of a node exporter's textfile collector.
  returned: success
  type: str
summary:
  description: How the fleet is, in numbers; C(state) is V(ok), V(warn) or V(bad).
  returned: success
  type: dict
  sample:
    state: ok
    hosts: 3
    lost: 0
    replicas: 6
    serving: 6
    gpus: 12
    gpus_serving: 12
    gateways: 2
    gateways_up: 2
    models: 2
    requests: 18211
    rollouts: 4
    described: 3
    attention: {bad: 0, warn: 0, note: 1}
"""
