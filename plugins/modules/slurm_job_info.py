#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_job_info
short_description: Tell what has become of jobs that slurm_job has submitted
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Asks Slurm for every job that M(trtllm.fleet.slurm_job) and M(trtllm.fleet.slurm_engine) have submitted from a
    directory, and says of each in a sentence how it stands.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
options:
  directory:
    description: Directory of the jobs.
    type: path
    required: true
seealso:
  - module: trtllm.fleet.slurm_job
"""

EXAMPLES = r"""
- name: Look at the jobs
  trtllm.fleet.slurm_job_info:
    directory: /shared/trtllm/slurm
  register: found
"""

RETURN = r"""
jobs:
  description: One for each job that runs or waits, or for what is left of a name.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Name of the job., type: str}
    job: {description: Number of the job., type: int}
    state: {description: Slurm's word; empty for a job that it does not know any more., type: str}
    nodes: {description: Its nodes as Slurm writes a list., type: str}
    verified: {description: Whether its gate was passed., type: bool}
    sentence: {description: How it stands., type: str}
table:
  description: The sentences.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm.cluster import Cluster
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm.submit import status


def main() -> None:
    module = AnsibleModule(
        argument_spec={"directory": {"type": "path", "required": True}},
        supports_check_mode=True,
    )
    with one_sentence(module):
        cluster = Cluster()
        cluster.answers()
        jobs = status(Path(module.params["directory"]), cluster)
        module.exit_json(changed=False, jobs=jobs, table=[job["sentence"] for job in jobs])


if __name__ == "__main__":
    main()
