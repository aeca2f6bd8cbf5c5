#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: triton_model_repo_info
short_description: Say what a Triton model repository serves
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Reads model repositories of a host, made by M(trtllm.fleet.triton_model_repo) or by hand, and returns their
    models, backends, engines, release and the parameters that differ from upstream's defaults.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
options:
  name:
    description:
      - Describe the published repositories of this name, the newest first. Exactly one of O(name) and O(path) is
        required.
    type: str
  path:
    description:
      - Describe the repository in this directory, whoever made it.
    type: path
  release:
    description:
      - The TensorRT-LLM release of a repository that was not made by M(trtllm.fleet.triton_model_repo). Without it,
        all of its parameters count as different from the default.
    type: str
"""

EXAMPLES = r"""
- name: See what a repository serves
  trtllm.fleet.triton_model_repo_info:
    name: codellama-13b
  register: repositories

- name: Look at one that was made by hand
  trtllm.fleet.triton_model_repo_info:
    path: /opt/triton_model_repo
    release: 0.19.0
"""

RETURN = r"""
repositories:
  description: The repositories, the newest first. Empty when none of the name is published.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: Where it is.
      type: str
      returned: always
    name:
      description: The name under which it was published.
      type: str
      returned: always
    fingerprint:
      description: Its fingerprint, null when it was made by hand.
      type: str
      returned: always
    release:
      description: The TensorRT-LLM release that it was made for, null when unknown.
      type: str
      returned: always
    layout:
      description: The kind of repository.
      type: str
      returned: always
    managed:
      description: Whether it has a manifest.
      type: bool
      returned: always
    problems:
      description: How it differs from what was published.
      type: list
      elements: str
      returned: always
    entry_models:
      description: The models that clients send requests to.
      type: list
      elements: str
      returned: always
    engines:
      description: For each model that loads an engine, its directory, whether it is there, its fingerprint and the
        version that built it.
      type: dict
      returned: always
    models:
      description: For each model its kind, backend, batch size, number of instances, whether it is decoupled, the
        parameters that are set, those that differ from the default, and those that are unset.
      type: dict
      returned: always
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.artifact_store import ArtifactStore
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.info import describe

ARGUMENT_SPEC: dict[str, Any] = {
    "name": {"type": "str"},
    "path": {"type": "path"},
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "release": {"type": "str"},
}


def repositories(params: dict[str, Any]) -> list[dict[str, Any]]:
    """The repositories that the options name."""
    if params["path"] is not None:
        return [describe(Path(params["path"]), params["release"])]
    store = ArtifactStore(Path(params["root"]) / "repositories")
    return [describe(path, params["release"]) for path in store.published(params["name"])]


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_one_of=[("name", "path")],
        mutually_exclusive=[("name", "path")],
        supports_check_mode=True,
    )
    with one_sentence(module):
        module.exit_json(changed=False, repositories=repositories(module.params))


if __name__ == "__main__":
    main()
