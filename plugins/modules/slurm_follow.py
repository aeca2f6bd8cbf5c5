#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_follow
short_description: Have a gateway go where jobs of Slurm go
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Slurm may start a job anew at any time, on other nodes. With O(state=present) a service of this host looks every two
    seconds where each job of O(jobs) is by now, and puts its new address in the place of the old one in the gateway's
    configuration, which the gateway reads again by itself.
  - It reads what the jobs have written into their O(directory), and asks Slurm nothing. A host that does not see that
    directory follows nothing, which RV(follows) tells.
extends_documentation_fragment:
  - trtllm.fleet.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  jobs:
    description:
      - The jobs that the gateway fronts, each with C(http_url), which stands in the configuration, and C(address_file),
        as the role P(trtllm.fleet.slurm#role) leaves them in C(slurm_results). Without any, nothing is followed.
    type: list
    elements: dict
    default: []
  directory:
    description: Directory of the jobs.
    type: path
    required: true
  config:
    description: The gateway's configuration.
    type: path
    default: /etc/trtllm/openai_gateway/gateway.yml
  state:
    description: Whether jobs are followed.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: trtllm.fleet.slurm_job
"""

EXAMPLES = r"""
- name: Ensure that the gateway goes where its jobs go
  trtllm.fleet.slurm_follow:
    jobs: "{{ slurm_results.values() }}"
    directory: /shared/trtllm/slurm
"""

RETURN = r"""
follows:
  description: Whether the host follows jobs by now.
  returned: success
  type: bool
"""

import sys

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway.drain import DEFAULT_DIRECTORY
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm.follower import Follower


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "jobs": {"type": "list", "elements": "dict", "default": []},
            "directory": {"type": "path", "required": True},
            "config": {"type": "path", "default": f"{DEFAULT_DIRECTORY}/gateway.yml"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    params, follower = module.params, Follower(sys.executable)
    with one_sentence(module):
        if params["state"] == "absent":
            module.exit_json(**follower.absent(module.check_mode))
        jobs = [{"url": str(job.get("http_url")), "file": str(job.get("address_file"))} for job in params["jobs"]]
        module.exit_json(**follower.present(params["config"], jobs, params["directory"], module.check_mode))


if __name__ == "__main__":
    main()
