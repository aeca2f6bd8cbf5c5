#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: triton_model_repo
short_description: Render the Triton model repository of a TensorRT-LLM engine
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Fills the templates of a TensorRT-LLM release, taken from the image that serves the model or from a checkout on
    the host, and publishes the result as an immutable directory named by its content.
  - Parameters have upstream's names. They are checked by name, type, range and choice. What the engine and the
    tokenizer say is derived from them and can be overridden. Values that contradict each other are refused with
    both values and where each came from.
  - What can be judged before image, engine or tokenizer are on the host is judged before, in check mode too.
  - Every rendered configuration is read as Triton reads it, and the models, tensors and types that it refers to
    have to exist.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
attributes:
  check_mode:
    support: full
    details:
      - On a host where image, engine or tokenizer do not exist yet, that is the answer.
  diff_mode:
    support: full
    details:
      - Shows how each configuration differs from the one published last.
  idempotent:
    support: full
options:
  name:
    description:
      - Names the repository on the host. Letters, digits, C(.), C(_) and C(-).
    type: str
    required: true
  state:
    description:
      - Whether the repository should be on the host.
    type: str
    choices: [present, absent]
    default: present
  fingerprint:
    description:
      - With O(state=absent), the one repository of O(name) to remove. All of them by default.
    type: str
  release:
    description:
      - The TensorRT-LLM release that serves the repository. Required with O(state=present).
    type: str
  layout:
    description:
      - The kind of repository. V(inflight_batcher_llm) serves a TensorRT engine with preprocessing, postprocessing,
        ensemble and BLS. V(llmapi) loads a checkpoint through the LLM API.
      - V(trtllm-serve) is no repository of Triton, but C(llm_args.yaml), the file of the LLM API that TensorRT-LLM's
        own server is started with. It takes O(tokenizer_dir), the checkpoint, whose content counts, and under
        C(tensorrt_llm) of O(parameters) the keys of that file. No templates are needed.
    type: str
    choices: [inflight_batcher_llm, llmapi, trtllm-serve]
    default: inflight_batcher_llm
  image:
    description:
      - The image that serves the repository. Its templates are taken out of it once and kept. Images before 25.05,
        and those built from the backend's Dockerfile, hold none; give O(templates) for them.
    type: str
  templates:
    description:
      - A directory of the host with the templates, instead of those of O(image). A checkout of tensorrtllm_backend
        (up to release 0.19) or of TensorRT-LLM at the release's tag, or its C(all_models). Templates of another tag are
        refused where their parameters are not the release's.
    type: path
  models:
    description:
      - The models of the repository. Must be closed under what the ensemble and the BLS call. C(multimodal_encoders)
        may be added.
    type: list
    elements: str
    default: [preprocessing, tensorrt_llm, postprocessing, ensemble, tensorrt_llm_bls]
  engine_dir:
    description:
      - The directory of the engine on the host, or of a pair of engines in C(encoder) and C(decoder) below it.
        Containers see it at the same path. O(release) has to be what built it.
    type: path
  tokenizer_dir:
    description:
      - The directory of the tokenizer, usually the checkpoint's. With O(layout=llmapi) the checkpoint itself.
    type: path
  streaming:
    description:
      - Answer token by token where a client asks for it. Makes the model and the BLS decoupled. Off unless
        C(decoupled_mode) is given as a parameter.
    type: bool
  parameters:
    description:
      - For each model of the repository (C(tensorrt_llm), C(preprocessing), ...) a dictionary of parameters under
        upstream's names. Names that changed between releases are understood in either form. What is not given is
        derived, or left to upstream's default.
      - C(guided_decoding_backend=xgrammar) of C(tensorrt_llm) switches guided decoding on, from release 0.19 on. The
        file that upstream's backend reads of the tokenizer is made with the repository, unless
        C(xgrammar_tokenizer_info_path) names one.
    type: dict
    default: {}
  gpu_memory_mib:
    description:
      - Memory of the smallest GPU, in MiB. When given, the KV cache has to hold one sequence of full length.
    type: int
  entries:
    description:
      - Several sets of models in one repository, which upstream serves in its multi-model (orchestrator) mode.
        Excludes O(models), O(engine_dir), O(tokenizer_dir), O(streaming), O(parameters) and O(gpu_memory_mib).
    type: list
    elements: dict
    suboptions:
      prefix:
        description:
          - Stands before the names of the set's models, for example V(code_). Each set has its own; one may be
            empty. Letters, digits, C(.), C(_) and C(-), with a letter or digit in front.
        type: str
        default: ""
      models:
        description:
          - The models of the set, see O(models).
        type: list
        elements: str
        default: [preprocessing, tensorrt_llm, postprocessing, ensemble, tensorrt_llm_bls]
      engine_dir:
        description:
          - The directory of the engine on the host.
        type: path
      tokenizer_dir:
        description:
          - The directory of the tokenizer.
        type: path
      streaming:
        description:
          - See O(streaming).
        type: bool
      parameters:
        description:
          - See O(parameters). C(gpu_device_ids) of different sets must not overlap; they are derived by default.
        type: dict
        default: {}
      gpu_memory_mib:
        description:
          - See O(gpu_memory_mib).
        type: int
"""

EXAMPLES = r"""
- name: Serve an engine with what its configuration and tokenizer say
  trtllm.fleet.triton_model_repo:
    name: codellama-13b
    release: 1.2.1
    image: nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3
    engine_dir: /var/lib/trtllm/engines/codellama-13b/2f0c...
    tokenizer_dir: /var/lib/trtllm/checkpoints/codellama-13b
    streaming: true

- name: Say more, for a release whose image holds no templates
  trtllm.fleet.triton_model_repo:
    name: baichuan2-13b
    release: 0.7.2
    templates: /opt/tensorrtllm_backend
    engine_dir: /var/lib/trtllm/engines/baichuan2-13b/9a41...
    tokenizer_dir: /var/lib/trtllm/checkpoints/baichuan2-13b
    parameters:
      tensorrt_llm:
        max_tokens_in_paged_kv_cache: 2560
        kv_cache_free_gpu_mem_fraction: 0.5

- name: Two models in one repository
  trtllm.fleet.triton_model_repo:
    name: pair
    release: 1.2.1
    image: nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3
    entries:
      - engine_dir: /var/lib/trtllm/engines/llama-7b/77b0...
        tokenizer_dir: /var/lib/trtllm/checkpoints/llama-7b
      - prefix: code_
        engine_dir: /var/lib/trtllm/engines/codellama-13b/2f0c...
        tokenizer_dir: /var/lib/trtllm/checkpoints/codellama-13b
"""

RETURN = r"""
repository_dir:
  description: Where the repository is. In check mode, when it cannot be rendered yet, a place that does not exist.
  returned: with O(state=present)
  type: str
fingerprint:
  description: Names the content of the repository and the engines that it serves. Absent when it cannot be rendered
    yet.
  returned: with O(state=present)
  type: str
models:
  description: The names of all models.
  returned: with O(state=present)
  type: list
  elements: str
entry_models:
  description: The models that clients send requests to.
  returned: with O(state=present)
  type: list
  elements: str
worker_models:
  description: The models that ranks above 0 have to load.
  returned: with O(state=present)
  type: list
  elements: str
world_size:
  description: How many ranks C(mpirun) has to start.
  returned: with O(state=present)
  type: int
mode:
  description: How Triton has to be started, V(leader) for one engine, V(orchestrator) for several (upstream's
    multi-model mode), V(llmapi), or V(trtllm-serve) for what is no Triton.
  returned: with O(state=present)
  type: str
max_batch_size:
  description: The batch size of the (first) model.
  returned: with O(state=present)
  type: int
max_input_len:
  description: The longest prompt of the (first) model, in tokens, as its engine says.
  returned: with O(state=present)
  type: int
max_seq_len:
  description: Prompt and answer together, in tokens, as the engine of the (first) model says.
  returned: with O(state=present)
  type: int
decoupled:
  description: Whether the (first) model streams.
  returned: with O(state=present)
  type: bool
cumulative:
  description: Whether each response of a streaming BLS holds the whole text so far instead of the new piece.
  returned: with O(state=present)
  type: bool
end_id:
  description: The id of the token that ends an answer. Releases before 0.8 want it in every request.
  returned: with O(state=present)
  type: int
pad_id:
  description: The id of the padding token.
  returned: with O(state=present)
  type: int
stop_ids:
  description: All token ids that end an answer.
  returned: with O(state=present)
  type: list
  elements: int
entries:
  description: The same for each set of models.
  returned: with O(state=present)
  type: list
  elements: dict
derived:
  description: Per model, each parameter that was not given, with its value and where it came from.
  returned: with O(state=present)
  type: dict
  sample: {tensorrt_llm: {triton_max_batch_size: {value: "64", source: build_config.max_batch_size}}}
notes:
  description: What was given but makes no difference in this release, and why. Also which derived value gave way to
    what somebody wrote into a template.
  returned: with O(state=present)
  type: list
  elements: str
reasons:
  description: Why something changed.
  returned: success
  type: list
  elements: str
diff:
  description: Each configuration before and after.
  returned: in diff mode
  type: list
  elements: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT, check_path
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.entry import EntryRequest
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.repository import Outcome, Repository
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.request import RepositoryRequest
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.schema import LAYOUTS, MODELS

# tokenizer_dir looks like a secret to Ansible, by the word token in it.
ENTRY_SPEC: dict[str, Any] = {
    "models": {"type": "list", "elements": "str", "default": list(MODELS)},
    "engine_dir": {"type": "path"},
    "tokenizer_dir": {"type": "path", "no_log": False},
    "streaming": {"type": "bool"},
    "parameters": {"type": "dict", "default": {}},
    "gpu_memory_mib": {"type": "int"},
}
ARGUMENT_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "fingerprint": {"type": "str"},
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "release": {"type": "str"},
    "layout": {"type": "str", "choices": list(LAYOUTS), "default": LAYOUTS[0]},
    "image": {"type": "str"},
    "templates": {"type": "path"},
    **ENTRY_SPEC,
    "entries": {
        "type": "list",
        "elements": "dict",
        "options": {"prefix": {"type": "str", "default": ""}, **ENTRY_SPEC},
    },
}


def entry_requests(params: dict[str, Any]) -> list[EntryRequest]:
    """The sets of models that the options describe."""
    if params["entries"] is None:
        return [_entry("parameters", params)]
    return [_entry(f"entries[{index}].parameters", entry) for index, entry in enumerate(params["entries"])]


def _entry(label: str, options: dict[str, Any]) -> EntryRequest:
    return EntryRequest(
        label=label,
        prefix=options.get("prefix", ""),
        models=tuple(options["models"]),
        engine_dir=options["engine_dir"],
        tokenizer_dir=options["tokenizer_dir"],
        streaming=options["streaming"],
        parameters=options["parameters"],
        gpu_memory_mib=options["gpu_memory_mib"],
    )


def refuse_beside_entries(params: dict[str, Any]) -> None:
    """Options with a default cannot be mutually exclusive to Ansible: a value beside entries would be lost."""
    for name in ("models", "parameters"):
        if params["entries"] is not None and params[name] != ENTRY_SPEC[name]["default"]:
            raise FleetError(f"{name} stands beside entries, where nothing reads it; give it in each of the entries.")


def run(module: AnsibleModule) -> dict[str, Any]:
    """The module's result."""
    params = module.params
    refuse_beside_entries(params)
    request = RepositoryRequest(
        name=params["name"],
        release=params["release"] or "",
        root=Path(check_path(params["root"], "root")),
        layout=params["layout"],
        templates=params["templates"],
        image=params["image"],
        entries=entry_requests(params),
    )
    if params["state"] == "absent":
        outcome = Repository.absent(request, params["fingerprint"], module.check_mode)
    else:
        outcome = Repository(request, module.check_mode).present()
    return result(outcome, module._diff)


def result(outcome: Outcome, diff: bool) -> dict[str, Any]:
    """What the module returns."""
    returned: dict[str, Any] = {"changed": outcome.changed, "reasons": outcome.reasons, **outcome.facts}
    if diff:
        returned["diff"] = [
            {"before_header": f"{path} (published)", "after_header": path, "before": before, "after": after}
            for path, before, after in outcome.diffs
        ]
    return returned


def main() -> None:
    single = ("engine_dir", "tokenizer_dir", "streaming", "gpu_memory_mib")
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "present", ("release",))],
        mutually_exclusive=[("entries", option) for option in single],
        supports_check_mode=True,
    )
    with one_sentence(module):
        module.exit_json(**run(module))


if __name__ == "__main__":
    main()
