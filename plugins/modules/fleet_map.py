#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_map
short_description: Put the plans of all hosts together, and work out which gateway fronts which replicas
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Takes what M(trtllm.fleet.fleet_plan) returned for each host, as C(fleet_description), and what the role
    P(trtllm.fleet.fleet#role) found on it, and tells for each gateway the models and replicas that it fronts.
  - Models of one name that gateways show as one must look the same to clients; where they do not, all hosts fail with a
    sentence that names both.
  - Of a host that is not asked in a run, because it is lost or beyond C(--limit), gateways keep the replicas that they
    have.
  - May be called again in a run, when hosts were lost or more is known of them.
  - This is an action plugin; it runs once for the play, with the strategy C(linear), and nothing runs on a host.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
options:
  serving_hosts:
    description: The hosts that serve models. Hosts of the play that are not only gateways are among them in any case.
    type: list
    elements: str
    default: []
  gateway_hosts:
    description: The hosts that run gateways, each in front of all replicas. Where none is given, each serving host runs
      its own.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Put the plans of all hosts together
  trtllm.fleet.fleet_map:
    serving_hosts: "{{ groups.gpu_hosts }}"
    gateway_hosts: "{{ groups.gateway_hosts | default([]) }}"
  run_once: true
  register: fleet_map
"""

RETURN = r"""
hosts:
  description: By host its C(release), whether it was asked in this run (C(planned)), its C(replicas), and the
    C(gateways) that front them.
  returned: success
  type: dict
  sample:
    gpu-01:
      release: 1.2.1
      planned: true
      replicas:
        - name: codellama-13b-0
          model: codellama-13b
          url: http://10.0.0.11:8000
          metrics_url: http://10.0.0.11:8002
          gpus: [0, 1]
      gateways: [gw-01, gw-02]
gateways:
  description: By host the C(models) of its gateway, as the role P(trtllm.fleet.openai_gateway#role) takes them, and the
    C(tokenizers) that it needs beside the host's own checkpoints, as the role P(trtllm.fleet.tokenizer#role) takes
    them. A model's C(tokenizer_dir) is null until its tokenizer was read.
  returned: success
  type: dict
  sample:
    gw-01:
      models:
        - name: codellama-13b
          entry_model: tensorrt_llm_bls
          release: 1.2.1
          urls: [http://10.0.0.11:8000, http://10.0.0.12:8000]
          tokenizer_dir: /var/lib/trtllm/tokenizers/codellama-13b/4c5f0a1b2c3d4e5f
          max_seq_len: 5120
      tokenizers:
        - name: codellama-13b
          files: {tokenizer.json: 4c5f..., tokenizer_config.json: 9a1b...}
tokenizers:
  description: By host the checkpoints whose tokenizers are to be read there, for gateways that have none of them. One
    host for each checkpoint that differs.
  returned: success
  type: dict
  sample:
    gpu-01:
      - name: codellama-13b
        path: /var/lib/trtllm/checkpoints/codellama-13b
"""
