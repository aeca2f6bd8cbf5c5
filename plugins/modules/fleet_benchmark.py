#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_benchmark
short_description: Measure what a gateway or a replica gives
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Runs AIPerf on the controller against one URL, once for each point of a load and each repeat, and keeps what came of
    it as JSON and CSV. C(playbooks/benchmark.yml) is what calls it.
  - AIPerf is installed by its sums into a virtual environment of its own in the cache directory, the first time. The
    tokenizer's files are those that M(trtllm.fleet.trtllm_tokenizer_fetch) brought from a host; no hub is asked.
  - A URL with a loopback address is asked through the ssh connection to the host.
  - In check mode nothing is sent.
  - This is an action plugin; it runs on the controller.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
options:
  url:
    description: The server, as its host names it.
    type: str
    required: true
  model:
    description: The model, as the server calls it.
    type: str
    required: true
  api:
    description: OpenAI's chat or completions, or Triton's own C(generate_stream).
    type: str
    choices: [chat, completions, triton]
    default: chat
  entry_model:
    description: With O(api=triton), the model of the repository that is asked.
    type: str
    default: ensemble
  key:
    description: The key of a client. It stands in no file and in no list of arguments.
    type: str
  tokenizer:
    description: The files of the tokenizer with their sums, as RV(trtllm.fleet.trtllm_tokenizer_fetch#module:files).
    type: dict
    required: true
  about:
    description: What is kept with the run about its target, such as its C(host).
    type: dict
    default: {}
  concurrency:
    description: How many requests are at once, one point for each.
    type: list
    elements: int
    default: [1, 4, 16]
  lengths:
    description: How long prompts and answers are, in tokens; all of O(concurrency) for each.
    type: list
    elements: dict
    default: [{input: 128, output: 64}]
    suboptions:
      input:
        description: Tokens of a prompt.
        type: int
        required: true
      output:
        description: Tokens of an answer.
        type: int
        required: true
  requests:
    description: Requests of each point and repeat; V(0) for six for each that is at once, and at least 16.
    type: int
    default: 0
  seconds:
    description: How long a point may take each time; what runs then has half a minute more.
    type: int
    default: 30
  repeats:
    description: How often each point is measured. They tell how much it varies; one alone is compared with nothing.
    type: int
    default: 3
  trace:
    description: A file of JSON lines with C(timestamp) (ms), C(input_length), C(output_length) and C(hash_ids), which
      is replayed at its own pace instead of O(concurrency) and O(lengths), as long as O(seconds).
    type: str
  service_level:
    description: By C(time_to_first_token), C(inter_token_latency) or C(request_latency) the most milliseconds of a
      request that is good.
    type: dict
    default: {}
  ignore_eos:
    description: Whether answers are asked to be as long as O(lengths) says.
    type: bool
    default: true
  label:
    description: What the run is called.
    type: str
    default: ""
  directory:
    description: Where runs are kept; by default C(benchmarks) in the cache directory.
    type: str
  against:
    description: What the run is compared with, a file or the label of a run; V(last) for the last of the model, V(none)
      for nothing.
    type: str
    default: last
  tolerance:
    description: Changes below this share do not matter.
    type: float
    default: 0.05
  gate:
    description: Whether it is a failure where the run is worse.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Measure a gateway
  trtllm.fleet.fleet_benchmark:
    url: http://10.0.0.11:3000
    model: codellama-13b
    tokenizer: "{{ tokenizer.files }}"
    concurrency: [1, 8, 64]
    lengths:
      - {input: 1024, output: 128}
    service_level: {time_to_first_token: 500, inter_token_latency: 50}
    gate: true
"""

RETURN = r"""
file:
  description: Where the run is kept.
  returned: success
  type: str
run:
  description: The run; C(points) has for each point rates, and mean and percentiles of latencies over all requests.
  returned: success
  type: dict
verdict:
  description: How it compares, null where there was nothing to compare with. C(verdict) is V(better), V(same),
    V(worse) or V(cannot tell), C(says) a sentence.
  returned: success
  type: dict
"""
