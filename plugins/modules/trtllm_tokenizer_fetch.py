#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trtllm_tokenizer_fetch
short_description: Bring the tokenizer of a checkpoint from a host to the controller
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Reads the few files of a checkpoint that a gateway needs (C(tokenizer.json), its configuration, the chat template,
    C(config.json) and C(generation_config.json)), and keeps on the controller what it has not got yet, by sha256.
  - No weights are read. M(trtllm.fleet.trtllm_tokenizer) brings the files onto the hosts of gateways.
  - Nothing is changed on the host.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
seealso:
  - module: trtllm.fleet.trtllm_tokenizer
options:
  path:
    description: The checkpoint's directory on the host.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Read the tokenizer of a checkpoint
  trtllm.fleet.trtllm_tokenizer_fetch:
    path: /var/lib/trtllm/checkpoints/codellama-13b
  register: tokenizer
"""

RETURN = r"""
digest:
  description: One digest over all files; empty in check mode where the checkpoint is not there yet.
  returned: success
  type: str
files:
  description: The sha256 of each file, by its name.
  returned: success
  type: dict
  sample:
    tokenizer.json: 4c5f...
    tokenizer_config.json: 9a1b...
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import check_absolute
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.tokenizer_files import (
    digest_of,
    tokenizer_files,
)


def main() -> None:
    module = AnsibleModule(argument_spec={"path": {"type": "path", "required": True}}, supports_check_mode=True)
    with one_sentence(module):
        directory = Path(check_absolute(module.params["path"], "path"))
        if module.check_mode and not directory.exists():
            module.exit_json(changed=False, digest="", files={})
        files = tokenizer_files(directory)
    module.exit_json(changed=False, digest=digest_of(files), files=files)


if __name__ == "__main__":
    main()
