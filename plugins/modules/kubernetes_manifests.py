#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_manifests
short_description: Render what serves the models of a fleet in a Kubernetes cluster
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Writes plain manifests (C(plain)), a kustomize base (C(base)) and a Helm chart (C(chart)) of the same objects into a
    directory of the controller, which holds nothing else; files that are not rendered any more are removed.
  - The same description gives the same text. No cluster is asked, and no secret is written.
  - The role P(trtllm.fleet.kubernetes#role) calls it and documents what may be said.
  - This is an action plugin; nothing runs on a host.
extends_documentation_fragment:
  - trtllm.fleet.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows the files of the kustomize base, which has one for each object.
  idempotent:
    support: full
options:
  trtllm_release:
    description: The TensorRT-LLM release.
    type: str
    required: true
  trtllm_root:
    description: Where artefacts are in the pods. By default where they are on hosts.
    type: path
  trtllm_models:
    description: The models, as the role P(trtllm.fleet.fleet#role) documents them. Of the GPUs and nodes of a replica
      their number counts.
    type: list
    elements: raw
    required: true
  settings:
    description: The variables of the role P(trtllm.fleet.kubernetes#role) that say what is rendered, without their
      prefix.
    type: dict
    required: true
  images:
    description: The images by what they do, C(triton), C(gateway) and C(fetch).
    type: dict
    required: true
  published:
    description: What hosts have made, see the role's C(kubernetes_published). Without it Jobs make it.
    type: dict
  output:
    description: The directory.
    type: path
    required: true
  apply:
    description: Whether the objects are returned too, to be applied. Refused where the collection C(kubernetes.core) is
      not there.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Render what serves one model
  trtllm.fleet.kubernetes_manifests:
    trtllm_release: "1.2.1"
    trtllm_models:
      - name: codellama-13b
        checkpoint: {source: huggingface, repo: codellama/CodeLlama-13b-Instruct-hf, revision: main}
        engine: {dtype: float16, tp_size: 2, max_batch_size: 64}
    settings: {namespace: trtllm, volume: {claim: trtllm}, gpu_product: NVIDIA-H100-80GB-HBM3}
    images:
      triton: registry.example.com/nvidia/tritonserver:26.07-trtllm-python-py3
      gateway: registry.example.com/trtllm/openai_gateway:0.1.0
      fetch: registry.example.com/trtllm/checkpoint_fetch:0.1.0
    output: /srv/kubernetes/models
"""

RETURN = r"""
output:
  description: The directory.
  returned: success
  type: str
files:
  description: The paths of all files below it.
  returned: success
  type: list
  elements: str
stages:
  description: In the order in which they are applied, C(name), C(file) (that of C(plain)), C(jobs) (the Jobs that have
    to complete before the next stage is applied), and with O(apply) C(objects).
  returned: success
  type: list
  elements: dict
"""
