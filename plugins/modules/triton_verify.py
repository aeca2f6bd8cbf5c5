#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents' requests against a deployed replica."""

from __future__ import annotations

DOCUMENTATION = r"""
module: triton_verify
short_description: Replay the documents' requests against a deployed Triton replica
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Sends the requests that TensorRT-LLM's documents show to a replica, and judges the answers - generate on every entry
    model, bad and stop words as lists and as strings, end_id, streaming, a request that is cancelled, context and
    generation logits, metrics, and a chat completion through the gateway.
  - Runs on the controller. What listens on a loopback address of the host is asked through a tunnel of the ssh
    connection that Ansible has to the host.
  - Does not fail when a check does not hold; see RV(ok).
requirements:
  - tritonclient[http] on the controller
  - openai on the controller, with O(gateway_url)
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
attributes:
  check_mode:
    details:
      - The requests are sent all the same.
options:
  url:
    description: Triton's HTTP endpoint, as seen from the host.
    type: str
    default: http://127.0.0.1:8000
  metrics_url:
    description: Triton's metrics endpoint, as seen from the host.
    type: str
  entry_models:
    description: The models that clients ask.
    type: list
    elements: str
    default: [ensemble, tensorrt_llm_bls]
  api:
    description:
      - What the server speaks, Triton's protocol or OpenAI's API, as C(trtllm-serve) does.
      - With V(openai), completions are asked for instead, and what only Triton has is left out. With V(llmapi),
        Triton's one model that loads a checkpoint is asked by the names that it has, and what only engines have is left
        out.
    type: str
    choices: [triton, llmapi, openai]
    default: triton
  release:
    description:
      - The TensorRT-LLM release; the names of some inputs follow from it.
      - Where it is not given, the last one with engines.
    type: str
  streaming:
    description: Whether the repository streams. Asked of Triton when not given.
    type: bool
  gathers:
    description: Which logits the engine gathers, of V(context) and V(generation). Not judged when not given.
    type: list
    elements: str
    choices: [context, generation]
  request:
    description: The request to send instead of the source document's.
    type: dict
  early_stop_ms:
    description: A streamed request is cancelled after so many milliseconds.
    type: int
    default: 300
  early_stop_tokens:
    description: So many tokens are asked for in that request.
    type: int
    default: 400
  gateway_url:
    description: The URL of the OpenAI gateway, without C(/v1). No chat completion is asked for when not given.
    type: str
  gateway_model:
    description: The model to ask there; the first that the gateway lists when not given.
    type: str
  gateway_key:
    description: The API key for the gateway.
    type: str
  gateway_tls_verify:
    description: Whether the certificate of a gateway that speaks https is verified.
    type: bool
    default: true
  only_gateway:
    description: Ask for nothing but the chat completion, as of a gateway on another host than the replicas.
    type: bool
    default: false
  timeout:
    description: Seconds that one answer may take.
    type: float
    default: 60
  gate:
    description: What is expected of the replica beside the documents' requests.
    type: dict
    default: {}
    suboptions:
      prompts:
        description: Texts to ask the first of O(entry_models), and what their greedy answers shall be.
        type: list
        elements: dict
        default: []
        suboptions:
          prompt:
            description: The text.
            type: str
            required: true
          max_tokens:
            description: So many tokens are asked for.
            type: int
            default: 16
          contains:
            description: What stands in the answer.
            type: str
          matches:
            description: A regular expression that is found in the answer.
            type: str
          equals:
            description: The whole answer.
            type: str
      max_time_to_first_token_ms:
        description: Milliseconds after which the first token of a stream must be there.
        type: float
      min_tokens_per_second:
        description: How many tokens a stream must give in a second, after the first.
        type: float
  gate_only:
    description: Send the requests of O(gate) alone.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Verify a replica
  trtllm.fleet.triton_verify:
    url: http://127.0.0.1:8000
    metrics_url: http://127.0.0.1:8002
    gateway_url: http://127.0.0.1:3000
  register: verified
  failed_when: not verified.ok
"""

RETURN = r"""
ok:
  description: Whether every check that could be judged held.
  returned: success
  type: bool
checks:
  description: The table. C(ok) is null for what could not be judged; C(answer) then says why.
  returned: success
  type: list
  elements: dict
  sample:
    - name: ensemble generate
      request: "text_input: 'What is machine learning?', max_tokens: 20"
      expectation: text
      answer: " Machine learning is a field"
      ok: true
      seconds: 0.312
table:
  description: The table as lines for a terminal.
  returned: success
  type: list
  elements: str
answers:
  description: By prompt of O(gate) the answer, whether it is the one expected or not.
  returned: success
  type: dict
"""

import traceback
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import missing_client, one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.gate import parse_gate
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.verify import Target, table
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.verify_by_api import verification_of

PROMPT_SPEC = {
    "prompt": {"type": "str", "required": True},
    "max_tokens": {"type": "int", "default": 16, "no_log": False},
    "contains": {"type": "str"},
    "matches": {"type": "str"},
    "equals": {"type": "str"},
}
GATE_SPEC = {
    "prompts": {"type": "list", "elements": "dict", "default": [], "options": PROMPT_SPEC},
    "max_time_to_first_token_ms": {"type": "float", "no_log": False},
    "min_tokens_per_second": {"type": "float", "no_log": False},
}
ARGUMENT_SPEC = {
    "url": {"type": "str", "default": "http://127.0.0.1:8000"},
    "metrics_url": {"type": "str"},
    "entry_models": {"type": "list", "elements": "str", "default": ["ensemble", "tensorrt_llm_bls"]},
    "api": {"type": "str", "choices": ["triton", "llmapi", "openai"], "default": "triton"},
    "release": {"type": "str"},
    "streaming": {"type": "bool"},
    "gathers": {"type": "list", "elements": "str", "choices": ["context", "generation"]},
    "request": {"type": "dict"},
    "early_stop_ms": {"type": "int", "default": 300},
    "early_stop_tokens": {"type": "int", "default": 400, "no_log": False},
    "gateway_url": {"type": "str"},
    "gateway_model": {"type": "str"},
    "gateway_key": {"type": "str", "no_log": True},
    "gateway_tls_verify": {"type": "bool", "default": True},
    "only_gateway": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 60},
    "gate": {"type": "dict", "default": {}, "options": GATE_SPEC},
    "gate_only": {"type": "bool", "default": False},
}


REQUIRED_IF = [("only_gateway", True, ["gateway_url"])]


def work(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the module returns; the action of the same name calls this in its own process."""
    given = {name: value for name, value in parameters.items() if value is not None}
    verification = verification_of(Target(**{**given, "gate": parse_gate(given["gate"])}))
    outcomes = verification.run()
    return {
        "changed": False,
        "ok": all(outcome.ok is not False for outcome in outcomes),
        "checks": [asdict(outcome) for outcome in outcomes],
        "table": table(outcomes),
        "answers": verification.answers,
    }


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_if=REQUIRED_IF, supports_check_mode=True)
    try:
        with one_sentence(module):
            result = work(module.params)
    except ImportError as error:
        module.fail_json(msg=missing_client(error), exception=traceback.format_exc())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
