#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the nodes of one replica know, and nobody else."""

from __future__ import annotations

DOCUMENTATION = r"""
module: triton_gang_secret
short_description: Keep the secret by which the nodes of a Triton replica know each other
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Writes the secret into C(secret) of a directory that only root reads, and returns it for the other nodes. Tasks with
    this module want C(no_log).
  - Without O(secret) the one that is there is kept, and a new one is made where there is none.
extends_documentation_fragment:
  - trtllm.fleet.attributes
attributes:
  check_mode:
    support: full
    details:
      - A secret that would be made is returned as nothing.
  diff_mode:
    support: none
    details:
      - What is secret is not shown.
  idempotent:
    support: full
options:
  directory:
    description: Where the secret is kept, in C(secret). It is made where it is missing.
    type: path
    required: true
  secret:
    description: The secret of the node that leads. An empty one, as check mode has it before the first run, counts as
      one that differs.
    type: str
"""

EXAMPLES = r"""
- name: Ensure that the leader has a secret
  trtllm.fleet.triton_gang_secret:
    directory: /etc/trtllm/gangs/triton-llama-405b-0
  no_log: true
  register: leads
"""

RETURN = r"""
secret:
  description: The secret; empty in check mode where there is none yet.
  returned: success
  type: str
  sample: 4f6e...
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.gang import keep_secret


def main() -> None:
    module = AnsibleModule(
        argument_spec={"directory": {"type": "path", "required": True}, "secret": {"type": "str", "no_log": True}},
        supports_check_mode=True,
    )
    found: dict[str, Any] = {}
    with one_sentence(module):
        changed, secret = keep_secret(Path(module.params["directory"]), module.params["secret"], module.check_mode)
        found = {"changed": changed, "secret": secret}
    module.exit_json(**found)


if __name__ == "__main__":
    main()
