#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trtllm_tokenizer
short_description: Bring the tokenizer of a model onto a host that does not serve it
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Copies what M(trtllm.fleet.trtllm_tokenizer_fetch) keeps on the controller to C(tokenizers/NAME/DIGEST) below
    O(root), where a gateway reads it. Each tokenizer has a directory of its own by its content, so none is ever
    replaced.
  - Files are verified by sha256 and published by a rename. A run without changes transfers nothing.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Returns which files differ.
  idempotent:
    support: full
seealso:
  - module: trtllm.fleet.trtllm_tokenizer_fetch
options:
  name:
    description: The model.
    type: str
    required: true
  files:
    description: The sha256 of each file by its name, as M(trtllm.fleet.trtllm_tokenizer_fetch) returned them.
    type: dict
    required: true
  source:
    description: Set by the action plugin, the directory of the host that holds what was transferred.
    type: path
"""

EXAMPLES = r"""
- name: Bring a tokenizer onto the host of a gateway
  trtllm.fleet.trtllm_tokenizer:
    name: codellama-13b
    files: "{{ hostvars['gpu-01'].tokenizer.files }}"
"""

RETURN = r"""
path:
  description: Where the tokenizer is on the host.
  returned: success
  type: str
reasons:
  description: One line for each file that differs.
  returned: success
  type: list
  elements: str
missing:
  description: The files that the controller has to transfer.
  returned: before the transfer
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT, check_absolute
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.store import compare
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.tokenizer_files import (
    digest_of,
    short,
    tokenizer_store,
)

ARGUMENT_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "files": {"type": "dict", "required": True},
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "source": {"type": "path"},
}


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's result."""
    source = None if params["source"] is None else Path(check_absolute(params["source"], "source"))
    wanted, name = params["files"], short(digest_of(params["files"]))
    store = tokenizer_store(params["root"], params["name"])
    current = store.current(name, write_index=False)
    difference = compare(current.contents() if current else {}, wanted)
    result: dict[str, Any] = {
        "changed": bool(difference),
        "path": str(store.path(name)),
        "reasons": difference.lines(),
    }
    if not difference:
        return result
    result["diff"] = {"before": "", "after": "".join(f"{line}\n" for line in difference.lines())}
    if check_mode:
        return result
    with store.lock(name):
        missing = store.missing(name, wanted)
        if missing and source is None:
            return {**result, "missing": missing}
        if source is not None:
            store.copy(name, source, missing)
        store.publish(name, wanted)
    return result


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    with one_sentence(module):
        result = run(module.params, module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
