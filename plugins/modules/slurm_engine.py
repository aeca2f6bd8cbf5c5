#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_engine
short_description: Build a TensorRT-LLM engine with a job of Slurm
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Runs on a login node. Submits a job that builds the engine on the GPUs which Slurm gives it, as
    M(trtllm.fleet.trtllm_engine) does on a host - with the same fingerprint, in the same place,
    C(<root>/engines/<name>/<fingerprint>), and not at all where it is there already.
  - No job is submitted while what it would be told has not changed and the files that its last job has made are there.
  - The build ends with its job, however that ends.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
  - trtllm.fleet.engine_options
attributes:
  check_mode:
    support: full
    details:
      - Nothing is submitted, and RV(engine_dir) is null where there is no engine yet.
  diff_mode:
    support: none
    details:
      - RV(reason) says why a job is submitted.
  idempotent:
    support: full
options:
  name:
    description: Name of the engine; its directory below C(<root>/engines). Letters, digits, C(.), C(_) and C(-).
    type: str
    required: true
  root:
    description:
      - Directory of all that this collection keeps. Absolute, and without C(:) and C(..); on a file system that the
        login node and all nodes have at the same path.
  checkpoint:
    description: Directory of the Hugging Face checkpoint, on that file system.
    type: path
    required: true
  checkpoint_digest:
    description: Digest of the checkpoint's content; another one is a reason to look whether the engine is still right.
    type: str
  image:
    description: Image to build in, by digest. The node pulls it where it has it not.
    type: str
    required: true
  nodes:
    description: How many nodes the ranks of the engine will be on, as many on each.
    type: int
    default: 1
  gpus:
    description: How many GPUs the build has, those of one node.
    type: int
    default: 1
  skip_preflight:
    description: Checks before a build that rest on an estimate and may be left out by who knows better.
    type: list
    elements: str
    choices: [disk, host_memory, gpu_memory, compute_capability]
    default: []
  build_timeout:
    description: Seconds after which a build is stopped. V(0) means no limit.
    type: int
    default: 0
  timeout:
    description:
      - Seconds to wait for the job, the queue included. It goes on after that, and the next run takes its result.
    type: int
    default: 14400
  gres:
    description: What GPUs are called in the cluster's Gres. Empty where Slurm counts none.
    type: str
    default: gpu
  sbatch_options:
    description: Further options of sbatch, such as C(--partition=build).
    type: list
    elements: str
    default: []
  python:
    description: The Python of the nodes, 3.9 or newer.
    type: str
    default: python3
  tls_verify:
    description: Whether the certificate of the image's registry is verified.
    type: bool
    default: true
  authfile:
    description: File with credentials for the registry, where nodes see it.
    type: path
seealso:
  - module: trtllm.fleet.trtllm_engine
  - module: trtllm.fleet.slurm_job
"""

EXAMPLES = r"""
- name: Build the engine on a node with two GPUs
  trtllm.fleet.slurm_engine:
    name: codellama-13b
    root: /shared/trtllm
    checkpoint: /shared/trtllm/checkpoints/codellama-13b
    image: registry.example.com/nvidia/tritonserver@sha256:...
    release: "1.2.1"
    gpus: 2
    options: {dtype: float16, tp_size: 2}
    sbatch_options: [--partition=gpu]
"""

RETURN = r"""
action:
  description: V(none), V(submit) or V(replace).
  returned: success
  type: str
reason:
  description: Why a job is submitted, as a sentence.
  returned: success
  type: str
engine_dir:
  description: The engine; null in check mode before there is one.
  returned: success
  type: str
fingerprint:
  description: Fingerprint of the engine.
  returned: success
  type: str
log_tail:
  description: The last lines of the log.
  returned: when the build failed
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import (
    DEFAULT_ROOT,
    check_image,
    check_name,
    check_path,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._base.pyz import closure, pyz
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.inputs import real_options
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.preflight import SKIPPABLE
from ansible_collections.trtllm.fleet.plugins.module_utils._release.limits import check_options, check_settings
from ansible_collections.trtllm.fleet.plugins.module_utils._release.options import ENGINE_OPTIONS, argument_spec
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm import build
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm.script import PROGRAM, build_job
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm.submit import RESULT, Request, Submission

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "checkpoint": {"type": "path", "required": True},
    "checkpoint_digest": {"type": "str"},
    "release": {"type": "str"},
    "image": {"type": "str", "required": True},
    "nodes": {"type": "int", "default": 1},
    "gpus": {"type": "int", "default": 1},
    "options": {"type": "dict", "default": {}, "options": argument_spec(ENGINE_OPTIONS)},
    "skip_preflight": {"type": "list", "elements": "str", "choices": list(SKIPPABLE), "default": []},
    "build_timeout": {"type": "int", "default": 0},
    "timeout": {"type": "int", "default": 14400},
    "gres": {"type": "str", "default": "gpu"},
    "sbatch_options": {"type": "list", "elements": "str", "default": []},
    "python": {"type": "str", "default": "python3"},
    "tls_verify": {"type": "bool", "default": True},
    "authfile": {"type": "path"},
}
# What the job runs.
MAIN = build.__name__.split(".module_utils.")[1]
# What the job is told of the engine; the rest is how the job is submitted.
ABOUT = ("name", "root", "checkpoint", "checkpoint_digest", "release", "image", "nodes", "skip_preflight")


def request_of(params: dict[str, Any]) -> Request:
    """The module's parameters as the job that should have run."""
    check_name(params["name"], "name")
    check_path(params["root"], "root")
    check_image(params["image"], "image")
    check_settings(timeout=params["build_timeout"])
    given = {option: value for option, value in params["options"].items() if value is not None}
    options = real_options(given)
    check_options(options)
    engine = {**{key: params[key] for key in ABOUT}, "options": options, "timeout": params["build_timeout"]}
    settings = {key: params[key] for key in ("gpus", "gres", "python", "tls_verify", "authfile")}
    job = build_job(engine, {**settings, "options": params["sbatch_options"]})
    return Request(
        name=job["name"],
        directory=Path(params["root"]) / "slurm",
        script=job["script"],
        files=job["files"],
        programs={PROGRAM: pyz("trtllm", closure(MAIN), MAIN)},
        result=RESULT,
        slots=1,
        stop_first=True,
    )


def run(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """What the parameters ask for; raises `FleetError`."""
    submission = Submission(request_of(params))
    result = submission.present(check)
    made = result.pop("result", {})
    if not made and not check:
        made = submission.wait_finished(result["job"]["id"], params["timeout"])
    return {**result, "engine_dir": made.get("engine_dir"), "fingerprint": made.get("fingerprint")}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    with one_sentence(module):
        module.exit_json(**run(module.params, module.check_mode))


if __name__ == "__main__":
    main()
