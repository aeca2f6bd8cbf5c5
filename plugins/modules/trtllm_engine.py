#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trtllm_engine
short_description: Make a TensorRT-LLM engine on a host, and keep it right
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Turns a Hugging Face checkpoint into a TensorRT-LLM engine, by the tools of the image that will serve it. Which
    tools these are, and how their options are called, follows from the release.
  - An engine stands in C(<root>/engines/<name>/<fingerprint>). The fingerprint covers the content of the checkpoint,
    the image, the release, the GPU (name, compute capability and number), and the arguments as far as they determine
    the engine; of an argument that is a path of the host, the content. A touched file, another path or host name,
    another order of options or a default that is written out is no difference. Neither is what stands beside the
    weights and no tool reads, such as C(README.md), C(LICENSE), C(.gitattributes) and what download tools keep.
  - An engine appears by one rename, with a C(manifest.json) that says what it was made from and what it holds.
  - The build runs as a detached container. A lost connection, Ctrl-C or a killed controller does not stop it; the next
    run finds it, and waits for it or takes its result. Two runs at once share one build.
  - While it runs, its phase, rank, elapsed time and last line of output are shown for each host.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
  - trtllm.fleet.engine_options
attributes:
  check_mode:
    support: full
    details:
      - On a host that has no podman, image, GPU or checkpoint yet, it says so in RV(reasons) instead of failing.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - Not with O(rebuild=always), which is there to make the engine again.
options:
  name:
    description: Name of the engine; its directory below C(<root>/engines). Letters, digits, C(.), C(_) and C(-).
    type: str
    required: true
  state:
    description:
      - V(present) makes the engine where it is missing or stale.
      - V(absent) stops its build and removes every engine of that name.
    type: str
    choices: [present, absent]
    default: present
  checkpoint:
    description:
      - Directory of the Hugging Face checkpoint on the host. Required with O(state=present).
      - It may be a link, and hold links, as the snapshots of a download cache do; what they lead to is mounted
        read-only.
    type: path
  image:
    description:
      - Image to build in, by id, digest or tag. It has to be on the host; nothing is pulled.
      - Where it is not given, NVIDIA's image of the release.
    type: str
  gpus:
    description:
      - GPUs for the build, by index, UUID, or V(0:1) for a MIG slice, as CDI names them.
      - V([]) hands no GPU to the container, for an image that needs none.
      - Where it is not given, as many as the engine has ranks, from 0 on.
    type: list
    elements: raw
  nodes:
    description:
      - How many hosts the ranks of the engine will be on, as many on each. O(gpus) are then those of one of them, and
        the engine is told how many GPUs a host has.
    type: int
    default: 1
  ranks:
    description:
      - The ranks that this host serves, where others are on other hosts. An engine that has their files is there,
        though what only other ranks read is not; see RV(whole).
      - A build makes all ranks. By default all of them are needed.
    type: list
    elements: int
    default: []
  rebuild:
    description:
      - V(when_stale) makes the engine again when something it was made from differs, or when it is damaged.
      - V(never) keeps an intact engine of that name whatever differs, and says in RV(reasons) what does.
      - V(always) makes it again.
    type: str
    choices: [when_stale, never, always]
    default: when_stale
  verify:
    description:
      - V(stat) reads only files of the checkpoint and of the engine whose size, times or inode changed since they were
        read.
      - V(full) reads every byte of both.
    type: str
    choices: [stat, full]
    default: stat
  keep_converted:
    description: Keep the converted checkpoint for engines that differ only in options of the build.
    type: bool
    default: false
  timeout:
    description: Seconds after which a build is stopped, wherever the controller is then. V(0) means no limit.
    type: int
    default: 0
  environment:
    description:
      - Environment variables for the build, for example C(BUILDER_FORCE_NUM_PROFILES). They do not count in the
        fingerprint, and they stand in the container's command line, so they are no place for secrets.
    type: dict
    default: {}
  examples_dir:
    description:
      - Where the release's C(examples) directory stands in the image, or on the host (a checkout of the same release),
        from where it is mounted. Of a directory of the host, the content of the scripts that are run counts in the
        fingerprint.
      - Where it is not given, C(/app/examples) of the image.
    type: path
  skip_preflight:
    description:
      - Checks before a build that rest on an estimate and may be left out by who knows better.
    type: list
    elements: str
    choices: [disk, host_memory, gpu_memory, compute_capability]
    default: []
  cancel:
    description: Stop the build of this engine that is running, and start none.
    type: bool
    default: false
  wait:
    description: Wait until the build has ended. Otherwise it is only started, and a later run takes its result.
    type: bool
    default: true
  poll:
    description: Seconds between two looks at a running build.
    type: int
    default: 5
  attach:
    description:
      - The RV(job.id) of a build to report on, and to take the result of. None is started then.
      - The live display uses it.
    type: str
seealso:
  - module: trtllm.fleet.trtllm_engine_info
"""

EXAMPLES = r"""
- name: Make a CodeLlama-13B engine for two GPUs, for prompts of 4,096 and outputs of 1,024 tokens
  trtllm.fleet.trtllm_engine:
    name: codellama-13b
    checkpoint: /var/lib/trtllm/checkpoints/codellama-13b
    release: "1.2.1"
    gpus: [0, 1]
    options:
      dtype: float16
      tp_size: 2
      gemm_plugin: float16
      max_batch_size: 64
      max_input_len: 4096
      max_seq_len: 5120

- name: Make a Baichuan2-13B engine for one GPU with a release of build.py, for in-flight batching
  trtllm.fleet.trtllm_engine:
    name: baichuan2-13b
    checkpoint: /srv/checkpoints/Baichuan2-13B-Chat
    release: "0.7.2"
    image: localhost/tritonserver-trtllm:0.7.2
    examples_dir: /app/tensorrt_llm/examples
    gpus: [0]
    options:
      model_version: v2_13b
      dtype: float16
      gpt_attention_plugin: float16
      gemm_plugin: float16
      remove_input_padding: true
      kv_cache_type: paged
      use_inflight_batching: true
      max_batch_size: 8
      max_input_len: 1024
      max_output_len: 1024

- name: The same for two GPUs (world_size 2)
  trtllm.fleet.trtllm_engine:
    name: baichuan2-13b-2gpu
    checkpoint: /srv/checkpoints/Baichuan2-13B-Chat
    release: "0.7.2"
    image: localhost/tritonserver-trtllm:0.7.2
    gpus: [0, 1]
    options:
      dtype: float16
      tp_size: 2
      gpt_attention_plugin: float16
      gemm_plugin: float16
      use_inflight_batching: true

- name: Make a Llama-2-7b-chat engine
  trtllm.fleet.trtllm_engine:
    name: llama-2-7b-chat
    checkpoint: /var/lib/trtllm/checkpoints/llama-2-7b-chat
    release: "0.9.0"
    gpus: [0]
    options: {dtype: float16, gemm_plugin: float16, max_batch_size: 4}

- name: Make a Llama-2-7b engine for four GPUs, all ranks at the same time
  trtllm.fleet.trtllm_engine:
    name: llama-2-7b
    checkpoint: /var/lib/trtllm/checkpoints/llama-2-7b
    release: "0.16.0"
    gpus: [0, 1, 2, 3]
    timeout: 3600
    options: {dtype: float16, tp_size: 4, workers: 4, gemm_plugin: float16}

- name: Make a gpt2-medium engine for four GPUs (a release whose GPT is converted and built)
  trtllm.fleet.trtllm_engine:
    name: gpt2-medium
    checkpoint: /var/lib/trtllm/checkpoints/gpt2-medium
    release: "0.9.0"
    gpus: [0, 1, 2, 3]
    options: {dtype: float16, tp_size: 4}

- name: Make a Mixtral-8x7B engine for two GPUs with LoRA
  trtllm.fleet.trtllm_engine:
    name: mixtral-8x7b
    checkpoint: /var/lib/trtllm/checkpoints/mixtral-8x7b
    release: "1.2.1"
    gpus: [0, 1]
    options:
      dtype: float16
      tp_size: 2
      moe_tp_size: 2
      gemm_plugin: auto
      max_num_tokens: 8192
      use_paged_context_fmha: true
      lora_plugin: auto
      lora_dir: [/var/lib/trtllm/adapters/support]
      max_lora_rank: 8
      lora_target_modules: [attn_q, attn_k, attn_v]

- name: Quantise to FP8, with calibration data that is on the host
  trtllm.fleet.trtllm_engine:
    name: llama-3-70b-fp8
    checkpoint: /var/lib/trtllm/checkpoints/llama-3-70b
    release: "1.2.1"
    gpus: [0, 1, 2, 3]
    keep_converted: true
    options:
      tp_size: 4
      qformat: fp8
      kv_cache_dtype: fp8
      calib_dataset: /var/lib/trtllm/calibration/cnn_dailymail

- name: See what would be run, anywhere
  trtllm.fleet.trtllm_engine:
    name: mixtral-8x7b
    checkpoint: /nowhere
    release: "1.2.1"
    options: {model_family: mixtral, tp_size: 2}
  check_mode: true
"""

RETURN = r"""
engine_dir:
  description: The directory of the engine, as containers and model repositories name it.
  returned: when O(state=present)
  type: str
  sample: /var/lib/trtllm/engines/codellama-13b/5f0a...
fingerprint:
  description: sha256 over all that determines the engine.
  returned: when O(state=present)
  type: str
provisional:
  description: Whether the fingerprint may still change because something is not on the host yet (check mode only).
  returned: when O(state=present)
  type: bool
whole:
  description: Whether the files of all ranks are on this host, or would be.
  returned: when O(state=present)
  type: bool
reasons:
  description: Why the engine was, or would be, made; one line for each input that differs.
  returned: when O(state=present)
  type: list
  elements: str
  sample: ["checkpoint: model-00002-of-00003.safetensors content", "max_batch_size: 32 -> 64"]
commands:
  description: The commands, in order, each as a list of words.
  returned: when O(state=present)
  type: list
  elements: list
world_size:
  description: Ranks of the engine.
  returned: when O(state=present)
  type: int
release:
  description: TensorRT-LLM release, as this collection names it.
  returned: when O(state=present)
  type: str
tensorrt_llm_version:
  description: What the image itself says.
  returned: when the engine was made
  type: str
model_family:
  description: Family whose tools are used.
  returned: when O(state=present)
  type: str
image_id:
  description: Id of the image.
  returned: when O(state=present)
  type: str
gpu:
  description: Name, compute capability and number of GPUs that the engine is made for; null without GPUs.
  returned: when O(state=present)
  type: dict
stale:
  description: Whether an engine is kept although something differs.
  returned: with O(rebuild=never)
  type: bool
building:
  description: Whether a build is still running, which is only so with O(wait=false).
  returned: always
  type: bool
job:
  description: The running build.
  returned: while RV(building)
  type: dict
  contains:
    id: {description: What O(attach) takes., type: str}
    container: {description: Name of the container., type: str}
    log_path: {description: Path of the log., type: str}
progress:
  description: Phase, ranks done, seconds and last line of a running build.
  returned: while RV(building)
  type: dict
seconds:
  description: Seconds that each phase took.
  returned: when a build ended
  type: dict
  sample: {convert: 61.2, build: 163.0}
log_path:
  description: Path of the whole log on the host.
  returned: when a build ended
  type: str
log_tail:
  description: The last 50 lines of the log.
  returned: when a build failed
  type: list
  elements: str
exit_code:
  description: Exit code of the command that failed.
  returned: when a build failed
  type: int
cause:
  description: What the log shows as the cause, where it is a known one.
  returned: when a build failed
  type: str
remedy:
  description: What to do about it.
  returned: when a build failed
  type: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.engine import Engine
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.plan import Request
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.preflight import SKIPPABLE
from ansible_collections.trtllm.fleet.plugins.module_utils._release.limits import check_settings
from ansible_collections.trtllm.fleet.plugins.module_utils._release.options import ENGINE_OPTIONS, argument_spec
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "checkpoint": {"type": "path"},
    "release": {"type": "str"},
    "image": {"type": "str"},
    "gpus": {"type": "list", "elements": "raw"},
    "nodes": {"type": "int", "default": 1},
    "ranks": {"type": "list", "elements": "int", "default": []},
    "options": {"type": "dict", "default": {}, "options": argument_spec(ENGINE_OPTIONS)},
    "rebuild": {"type": "str", "choices": ["when_stale", "never", "always"], "default": "when_stale"},
    "verify": {"type": "str", "choices": ["stat", "full"], "default": "stat"},
    "keep_converted": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 0},
    "environment": {"type": "dict", "default": {}},
    "examples_dir": {"type": "path"},
    "skip_preflight": {"type": "list", "elements": "str", "choices": list(SKIPPABLE), "default": []},
    "cancel": {"type": "bool", "default": False},
    "wait": {"type": "bool", "default": True},
    "poll": {"type": "int", "default": 5},
    "attach": {"type": "str"},
}


def request_of(params: dict[str, Any]) -> Request:
    """The module's parameters as a request."""
    return Request(
        name=params["name"],
        root=Path(params["root"]),
        checkpoint=Path(params["checkpoint"] or "/"),
        release=release(params["release"]) if params["release"] else None,
        image=params["image"],
        gpus=params["gpus"],
        nodes=params["nodes"],
        ranks=params["ranks"],
        options=params["options"],
        rebuild=params["rebuild"],
        verify=params["verify"],
        keep_converted=params["keep_converted"],
        timeout=params["timeout"],
        examples_dir=params["examples_dir"],
        skip_preflight=params["skip_preflight"],
        attach=params["attach"],
    )


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """What the parameters ask for; raises `FleetError`."""
    check_settings(timeout=params["timeout"], poll=params["poll"])
    environment = {str(key): str(value) for key, value in params["environment"].items()}
    engine = Engine(request_of(params), check_mode, environment)
    if params["cancel"]:
        return engine.cancel()
    if params["state"] == "absent":
        return engine.absent()
    if params["attach"]:
        return engine.attached()
    return engine.waited(params["poll"]) if params["wait"] and not check_mode else engine.present()


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "present", ["checkpoint", "attach", "cancel"], True)],
        supports_check_mode=True,
    )
    with one_sentence(module, {"building": False}):
        module.exit_json(**run(module.params, module.check_mode))


if __name__ == "__main__":
    main()
