#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running Triton says of itself."""

from __future__ import annotations

DOCUMENTATION = r"""
module: triton_info
short_description: Readiness, models, statistics and metrics of a running Triton
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Asks a Triton server with NVIDIA's client for readiness, versions and per-model statistics, and reads its metrics.
  - Runs on the controller. A server that listens on a loopback address of the host is asked through a tunnel of the
    ssh connection that Ansible has to the host.
  - Readiness is what Triton says; whether a token comes back is what M(trtllm.fleet.triton_verify) asks.
requirements:
  - tritonclient[http] on the controller
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
options:
  url:
    description: Triton's HTTP endpoint, as seen from the host.
    type: str
    default: http://127.0.0.1:8000
  metrics_url:
    description: Triton's metrics endpoint, as seen from the host. Metrics are left out when not given.
    type: str
  statistics:
    description: Whether to ask for the statistics of every model.
    type: bool
    default: true
  timeout:
    description: Seconds that one answer may take.
    type: float
    default: 10
"""

EXAMPLES = r"""
- name: Look at the first replica of every host
  trtllm.fleet.triton_info:
    url: http://127.0.0.1:8000
    metrics_url: http://127.0.0.1:8002
  register: triton
"""

RETURN = r"""
server:
  description: C(live), C(ready), C(name), C(version) and C(extensions).
  returned: success
  type: dict
models:
  description: For every model C(ready), C(versions), C(state), C(reason) and C(statistics), which has counts since the
    model was loaded and mean milliseconds.
  returned: success
  type: dict
  sample:
    ensemble:
      ready: true
      versions: ["1"]
      state: READY
      reason: ""
      statistics: {inferences: 12, executions: 12, success: 12, fail: 0, cancel: 0, queue_ms: 0.1}
metrics:
  description: The C(nv_trt_llm_*), C(nv_inference_*), C(nv_gpu_*), C(nv_cpu_*) and C(nv_pinned_memory_*) metrics, each
    a list of C(labels) and C(value).
  returned: when O(metrics_url) is given
  type: dict
trt_llm:
  description: TensorRT-LLM's own metrics by family and type.
  returned: when O(metrics_url) is given
  type: dict
  sample:
    request: {active: 0.0, max: 64.0, scheduled: 0.0}
    kv_cache_block: {free: 320.0, max: 320.0, used: 0.0}
"""

import contextlib
import traceback
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import missing_client, one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.client import (
    GenerateClient,
    TritonServer,
    group_metrics,
    trt_llm_metrics,
)

ARGUMENT_SPEC = {
    "url": {"type": "str", "default": "http://127.0.0.1:8000"},
    "metrics_url": {"type": "str"},
    "statistics": {"type": "bool", "default": True},
    "timeout": {"type": "float", "default": 10},
}
REQUIRED_IF: list[Any] = []


def work(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the module returns; the action of the same name calls this in its own process."""
    result: dict[str, Any] = {"changed": False}
    with contextlib.closing(TritonServer(parameters["url"], parameters["timeout"])) as server:
        found = server.describe(parameters["statistics"])
        models = found.pop("models")
        if parameters["metrics_url"]:
            client = GenerateClient(parameters["url"], parameters["timeout"])
            samples = client.metrics(parameters["metrics_url"])
            result = {**result, "metrics": group_metrics(samples), "trt_llm": trt_llm_metrics(samples)}
    return {**result, "server": found, "models": models}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        with one_sentence(module):
            result = work(module.params)
    except ImportError as error:
        module.fail_json(msg=missing_client(error), exception=traceback.format_exc())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
