#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_job
short_description: Keep a job of Slurm running, and replace it where something else should run
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Runs on a login node of a cluster, as the user whose jobs they are. Needs the commands squeue, sinfo, scontrol,
    sbatch and scancel; no accounting, and no plugin for JSON.
  - A job is found again by its name and by what it runs, a digest of O(script) and O(files) that stands in its comment.
    One that runs the same, or waits to, is left alone, also after Slurm has queued it again.
  - Where another one runs, its successor is submitted beside it, with ports of its own. The other goes on until it is
    cancelled with O(state=absent) and O(keep).
  - A job on a node that is being drained is replaced too.
extends_documentation_fragment:
  - trtllm.fleet.attributes
attributes:
  check_mode:
    support: full
    details:
      - Nothing is waited for.
  diff_mode:
    support: none
    details:
      - RV(reason) says why a job is submitted.
  idempotent:
    support: full
options:
  name:
    description: Name of the job.
    type: str
    required: true
  directory:
    description:
      - Directory of all jobs, on a file system that the login node and all nodes have at the same path. A job's files
        are in C(<directory>/<name>/<fingerprint>), and what it says in C(<number>.log) there.
    type: path
    required: true
  state:
    description:
      - V(present) submits the job unless it is there.
      - V(verified) writes into O(job) that its gate was passed.
      - V(absent) cancels the jobs of that name, waits until they are gone, and removes their files.
    type: str
    choices: [present, verified, absent]
    default: present
  script:
    description:
      - The batch script. Its first argument is the slot of the job, V(0) or V(1); ports of the second are five higher.
      - C(@DIRECTORY@) in it, and in O(files), is the directory of its files.
    type: str
  files:
    description: Further files of the job, from name to text.
    type: dict
    default: {}
  stop_first:
    description: Cancel what runs before its successor is submitted.
    type: bool
    default: false
  wait:
    description: Wait until the job serves. Otherwise it is only submitted, and a later run waits.
    type: bool
    default: true
  serves:
    description: How it is known that the job serves. Required to wait.
    type: dict
    suboptions:
      port:
        description: The port of Triton's HTTP endpoint in the first slot, on the first node of the job.
        type: int
        required: true
      models:
        description: The models that must give a token.
        type: list
        elements: str
        required: true
      body:
        description: The request.
        type: dict
        required: true
  timeout:
    description: Seconds to wait. A job that is not there by then stays queued.
    type: int
    default: 1800
  job:
    description: Number of the job with O(state=verified).
    type: int
  keep:
    description: Numbers of jobs that O(state=absent) keeps.
    type: list
    elements: int
    default: []
  only:
    description: Numbers of the jobs that O(state=absent) cancels; their files stay.
    type: list
    elements: int
    default: []
seealso:
  - module: trtllm.fleet.slurm_job_info
  - module: trtllm.fleet.slurm_engine
"""

EXAMPLES = r"""
- name: Ensure that the job serves
  trtllm.fleet.slurm_job:
    name: trtllm-codellama-13b-0
    directory: /shared/trtllm/slurm
    script: "{{ lookup('ansible.builtin.file', 'serve.sbatch') }}"
    serves:
      port: 8000
      models: [ensemble]
      body: {text_input: "1", max_tokens: 1, bad_words: "", stop_words: ""}
  register: serving

- name: Ensure that what it took the place of is cancelled
  trtllm.fleet.slurm_job:
    name: trtllm-codellama-13b-0
    directory: /shared/trtllm/slurm
    state: absent
    keep: ["{{ serving.job.id }}"]
"""

RETURN = r"""
action:
  description: V(none), V(submit), V(replace), V(verified) or V(cancel).
  returned: success
  type: str
reason:
  description: Why a job is submitted, as a sentence.
  returned: with O(state=present)
  type: str
  sample: job 12 of trtllm-codellama-13b-0 lost a node.
job:
  description: The job that runs, or will; empty in check mode where there is none.
  returned: with O(state=present) and O(state=verified)
  type: dict
  contains:
    id: {description: Number of the job., type: int}
    state: {description: Slurm's word for how it stands., type: str}
    reason: {description: Slurm's word for why it waits., type: str}
    nodes: {description: Its nodes as Slurm writes a list., type: str}
    host: {description: Name of its first node., type: str}
    address: {description: Address of its first node while it runs., type: str}
    fingerprint: {description: Digest of what it runs., type: str}
    slot: {description: Which of the ports it has., type: int}
    verified: {description: Whether its gate was passed., type: bool}
    log: {description: Path of its log., type: str}
    address_file: {description: Path of the file into which each start of it writes its address., type: str}
serving:
  description: The job whose gate was passed, which may be another one than RV(job); empty where there is none.
  returned: with O(state=present)
  type: dict
others:
  description: Numbers of other jobs of the name, which are to be cancelled once this one serves.
  returned: with O(state=present)
  type: list
  elements: int
cancelled:
  description: Numbers of the jobs that were cancelled.
  returned: with O(state=absent)
  type: list
  elements: int
log_tail:
  description: The last lines of the log.
  returned: when a job ended instead of serving
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm.submit import Request, Serves, Submission

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "directory": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["present", "verified", "absent"], "default": "present"},
    "script": {"type": "str"},
    "files": {"type": "dict", "default": {}},
    "stop_first": {"type": "bool", "default": False},
    "wait": {"type": "bool", "default": True},
    "serves": {
        "type": "dict",
        "options": {
            "port": {"type": "int", "required": True},
            "models": {"type": "list", "elements": "str", "required": True},
            "body": {"type": "dict", "required": True},
        },
    },
    "timeout": {"type": "int", "default": 1800},
    "job": {"type": "int"},
    "keep": {"type": "list", "elements": "int", "default": []},
    "only": {"type": "list", "elements": "int", "default": []},
}


def run(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """What the parameters ask for; raises `FleetError`."""
    submission = Submission(
        Request(
            name=params["name"],
            directory=Path(params["directory"]),
            script=params["script"] or "",
            files={str(name): str(text) for name, text in params["files"].items()},
            stop_first=params["stop_first"],
        )
    )
    if params["state"] == "absent":
        return submission.absent(params["keep"], params["only"], check)
    if params["state"] == "verified":
        return submission.verified(params["job"], check)
    result = submission.present(check)
    if params["wait"] and params["serves"] and not check:
        result["job"] = submission.wait_serving(result["job"]["id"], Serves(**params["serves"]), params["timeout"])
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "present", ["script"]), ("state", "verified", ["job"])],
        supports_check_mode=True,
    )
    with one_sentence(module):
        module.exit_json(**run(module.params, module.check_mode))


if __name__ == "__main__":
    main()
