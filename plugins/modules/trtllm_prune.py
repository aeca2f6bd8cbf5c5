#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trtllm_prune
short_description: Remove images, engines and other artefacts that nothing on a host names any more
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Removes images, engines, model repositories, converted checkpoints, checkpoints, tokenizers, scripts and secrets of
    replicas, and files of gateways which runs of the collection brought onto the host, once nothing names them any
    more, and what interrupted runs left behind and nobody went on with for a day.
  - Kept is what a unit, the last O(keep) releases of a service, a rollout that was interrupted, a container, a build or
    a transfer names, what the description names, and the newest O(keep) engines and model repositories of each of
    O(models). So O(keep) releases can serve without anything being made again, the present one and those that
    M(trtllm.fleet.container_service_rollback) brings back.
  - Nothing of anybody else's is touched. Of images those are looked at that the records of the collection name, and one
    that has other names too, or that another is built on, stays. Of directories those are that have the layout of
    the collection; no link is followed.
  - What goes is renamed first and then deleted, under the lock of whoever would use it; a run that was killed is
    finished by the next.
  - While a rollout works on the host nothing is removed, and RV(reason) names it.
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
      - Shows the paths, and the ids of images, that go.
  idempotent:
    support: full
options:
  keep:
    description:
      - How many releases of each service are kept, the one that serves included. V(1) keeps what serves alone, so that
        nothing can be rolled back; V(all) removes nothing. V(0) is refused, as it could mean either.
    type: raw
    default: 2
  models:
    description:
      - The models that the host is described to serve. The checkpoints of others go, unless something names them.
    type: list
    elements: str
    required: true
  paths:
    description: Directories that the description names, such as a checkpoint that is used in place.
    type: list
    elements: path
    default: []
  images:
    description: Images that the description names, by tag, digest or ID.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: See what would go
  trtllm.fleet.trtllm_prune:
    models: [codellama-13b]
    images: [registry.example.com/nvidia/tritonserver:26.07-trtllm-python-py3]
  check_mode: true
  register: pruning

- name: Keep what serves alone
  trtllm.fleet.trtllm_prune:
    keep: 1
    models: [codellama-13b]
"""

RETURN = r"""
removed:
  description: What was removed, or would be in check mode.
  returned: always
  type: list
  elements: dict
  sample:
    - kind: engine
      name: codellama-13b/3fa94c1b77d2
      path: /var/lib/trtllm/engines/codellama-13b/3fa94c1b77d2...
      size: 26028179456
kept:
  description: What stays, and why.
  returned: always
  type: list
  elements: dict
  sample:
    - kind: checkpoint
      name: codellama-13b
      path: /var/lib/trtllm/checkpoints/codellama-13b
      size: 26029797376
      why: the model codellama-13b is described
freed:
  description: The sizes of RV(removed) in bytes. What images share with others is in theirs, and is not freed.
  returned: always
  type: int
reason:
  description: Why nothing was looked at; empty where it was.
  returned: always
  type: str
  sample: the rollout 20260114T093000Z-4711 of alice@deploy-01 works on this host
quiet_until:
  description:
    - Until when, in seconds since the epoch, another run would find nothing to remove either, where nothing else
      changes on the host; the end of the year 9999 where it never would.
    - What an interrupted run left goes after a day, and what a container, a build or another run holds may go at once.
  returned: always
  type: int
  sample: 253402300799
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT
from ansible_collections.trtllm.fleet.plugins.module_utils._prune.prune import Pruner, Wanted
from ansible_collections.trtllm.fleet.plugins.module_utils._prune.rule import DEFAULT_KEEP
from ansible_collections.trtllm.fleet.plugins.module_utils._service.host import ServiceHost

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "keep": {"type": "raw", "default": DEFAULT_KEEP},
    "models": {"type": "list", "elements": "str", "required": True},
    "paths": {"type": "list", "elements": "path", "default": []},
    "images": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    given, result = module.params, {"changed": False}
    with one_sentence(module, result):
        pruner = Pruner(ServiceHost(), given["root"], Wanted.of(given), module.check_mode)
        try:
            pruner.run()
        finally:
            result.update(pruner.outcome.result())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
