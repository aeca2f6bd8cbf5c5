#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The previous unit of a container service, back in service."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_service_rollback
short_description: Put the previous unit of a container service back in service
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Reads the release record that M(trtllm.fleet.container_service) keeps on the host, writes the unit that served
    before the present one, and restarts the service. One that does not come up gets its present unit back, and the
    module fails with the line of its journal that says why.
  - The image and the directories of the previous unit must still be on the host.
  - Deploying again brings back what the inventory describes; change that too.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.root.releases
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows the unit files that change.
  idempotent:
    support: none
    details:
      - Every call goes one release further back, unless O(to) says where to.
options:
  names:
    description: The services, without a suffix.
    type: list
    elements: str
    required: true
  to:
    description:
      - By service the sha256 of the unit that shall serve, as C(before_sha256) of
        RV(trtllm.fleet.container_service#module:services) and the release record tell it.
      - A service that has this unit and runs is left as it is; one for which it is empty is taken out of service, as it
        did not exist then.
      - Services that are not named here go back to what served before.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Take one replica back to what it served before
  trtllm.fleet.container_service_rollback:
    names: [triton-codellama-13b-0]

- name: Take it back to a unit of the release record
  trtllm.fleet.container_service_rollback:
    names: [triton-codellama-13b-0]
    to:
      triton-codellama-13b-0: 90abd2f8a1cf6d2fd9a28f5b0f64b2e8a6d7c1d3b6c6d0f5a1f3f1a5c2e4b6d8
"""

RETURN = r"""
services:
  description: What was done with each service, and its state.
  returned: always
  type: dict
  sample:
    triton-codellama-13b-0:
      unit: triton-codellama-13b-0.service
      path: /etc/containers/systemd/triton-codellama-13b-0.container
      action: restarted
      reason: it is taken back
      active: active
      since: 1763643951
      unit_sha256: 4c5f...
      before_sha256: 90ab...
      error: ""
releases:
  description: For each service the release that it was taken back to, as the record has it.
  returned: success
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_RELEASES
from ansible_collections.trtllm.fleet.plugins.module_utils._service.host import ServiceHost
from ansible_collections.trtllm.fleet.plugins.module_utils._service.manager import ServiceManager
from ansible_collections.trtllm.fleet.plugins.module_utils._service.types import Settings


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "to": {"type": "dict", "default": {}},
            "releases_dir": {"type": "path", "default": DEFAULT_RELEASES},
        },
        supports_check_mode=True,
    )
    settings = Settings(releases_dir=module.params["releases_dir"], check=module.check_mode)
    manager = ServiceManager(ServiceHost(), settings)
    result: dict[str, Any] = {"changed": False, "services": {}}
    with one_sentence(module, result):
        planned = manager.plan_rollback(module.params["names"], module.params["to"])
        result["changed"] = any(item.changes for item in planned)
        result["releases"] = {item.name: dict(item.record) for item in planned}
        result["diff"] = manager.diff(planned)
        result["services"] = manager.outcomes(planned) if module.check_mode else manager.apply(planned)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
