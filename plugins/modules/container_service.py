#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Container services of a host, as they are described."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_service
short_description: Run containers as systemd services that start, stay up and can be taken back
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Makes the container services of a host be what is described, in one call. A unit file is written for the podman
    that the host has (a Quadlet, or a plain service below podman 4.4), systemd is reloaded when a unit changed, and
    exactly the services that changed or do not run are started or restarted.
  - Services that run and changed are restarted one after the other, those that do not run are started together.
  - What runs is compared with the unit too, as far as the unit says it - image, command, environment, and whether the
    directories and files that the container has mounted are those that are there now. A service that differs is
    restarted, and RV(services) names the difference as the reason.
  - A service counts as started when systemd says so; with C(Notify=healthy) that is when its health probe passed.
    One that does not come up gets its previous unit back, and the module fails with the line of its journal that
    says why.
  - A port held by another process, an image or a directory that the host does not have, or a device that a service
    no longer described still uses are refused before anything is touched.
  - Every change is added to the release record, so that M(trtllm.fleet.container_service_rollback) can undo it. A
    record that does not tell of what serves, as it was lost or damaged, is written again without a restart.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.root.releases
attributes:
  check_mode:
    support: full
    details:
      - Also before podman is installed.
  diff_mode:
    support: full
    details:
      - Shows the unit files that change, and where what runs differs from its unit.
  idempotent:
    support: full
options:
  services:
    description: The services that shall run.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The name of the service, without a suffix. Letters, digits, C(.), C(_) and C(-).
        type: str
        required: true
      unit:
        description:
          - The unit as data, a dictionary of the sections C(Unit), C(Container), C(Socket), C(Service) and C(Install),
            each a dictionary of keys. A list is a key that is given several times.
          - With C(Socket) systemd listens in the service's place, in a unit of its own beside it, and the container
            gets the sockets as C(LISTEN_FDS). Who connects while the service restarts waits, and is not refused. Stop
            the socket to stop both.
          - Values of C(Container) are literal; blanks, quotes, C(%) and C($) are escaped. C(Exec) is a list of words;
            C(Environment), C(Label) and C(Annotation) may be dictionaries. Values of the other sections are written as
            they are.
          - What the host's podman does not know as a key of a Quadlet is said with C(PodmanArgs).
          - A missing C(Service.TimeoutStartSec) is worked out from the size of O(services[].load_paths).
          - The volume options C(z) and C(Z) are left out on hosts without SELinux.
        type: dict
        required: true
      listen:
        description: Where the service will listen.
        type: list
        elements: dict
        default: []
        suboptions:
          address:
            description: The IP address.
            type: str
            required: true
          port:
            description: The TCP port.
            type: int
            required: true
          what:
            description: What the port is for, for messages.
            type: str
            default: its port
      load_paths:
        description: Files and directories that the service reads when it starts.
        type: list
        elements: path
        default: []
      record:
        description: What the release record shall say of the service.
        type: dict
        default: {}
      files:
        description:
          - Files that the unit refers to, from path to text. They are written before the service is started, readable
            for all.
          - Let a path follow from the text, so that a service that runs, or a unit that is brought back, finds its own.
            Files that are not named any more are left alone.
        type: dict
        default: {}
      live_files:
        description:
          - Files that the service reads again itself when they change, from path to text. They are written, readable
            for all, before anything is started, and a service that runs is not restarted for them.
          - The release record keeps them, so that a service that does not come up, or a unit that is brought back,
            finds its own. What is secret does not belong here.
        type: dict
        default: {}
  absent:
    description: Services that shall not exist.
    type: list
    elements: str
    default: []
  prune_prefix:
    description: Names of services beginning like this belong to O(services). Others on the host are reported as
      RV(stale).
    type: str
  prune:
    description: Remove the stale services.
    type: bool
    default: false
  start_timeout:
    description: Seconds that every start may take.
    type: int
    default: 120
  start_seconds_per_gib:
    description: Further seconds for each GiB below O(services[].load_paths).
    type: int
    default: 10
  podman_version:
    description: Use this version instead of asking the host.
    type: str
"""

EXAMPLES = r"""
- name: Run a gateway as a service
  trtllm.fleet.container_service:
    services:
      - name: openai-gateway
        unit:
          Container:
            ContainerName: openai-gateway
            Image: sha256:0a1b2c
            Network: host
            HealthCmd: curl -sf http://127.0.0.1:3000/health
            Notify: healthy
          Service: {Restart: on-failure}
          Install: {WantedBy: multi-user.target}
        listen:
          - {address: 0.0.0.0, port: 3000}
"""

RETURN = r"""
services:
  description: What was done with each service, and its state.
  returned: always
  type: dict
  sample:
    triton-codellama-0:
      unit: triton-codellama-0.service
      path: /etc/containers/systemd/triton-codellama-0.container
      action: restarted
      reason: /var/lib/trtllm/engines/codellama/9a1b was replaced under it
      active: active
      since: 1763643951
      unit_sha256: 4c5f...
      before_sha256: 90ab...
      error: ""
stale:
  description: Services of O(prune_prefix) on the host that are not described.
  returned: always
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_RELEASES
from ansible_collections.trtllm.fleet.plugins.module_utils._service.host import ServiceHost
from ansible_collections.trtllm.fleet.plugins.module_utils._service.manager import ServiceManager
from ansible_collections.trtllm.fleet.plugins.module_utils._service.types import Listen, Service, Settings

LISTEN_SPEC = {
    "address": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "what": {"type": "str", "default": "its port"},
}
SERVICE_SPEC = {
    "name": {"type": "str", "required": True},
    "unit": {"type": "dict", "required": True},
    "listen": {"type": "list", "elements": "dict", "default": [], "options": LISTEN_SPEC},
    "load_paths": {"type": "list", "elements": "path", "default": []},
    "record": {"type": "dict", "default": {}},
    "files": {"type": "dict", "default": {}},
    "live_files": {"type": "dict", "default": {}},
}
ARGUMENT_SPEC = {
    "services": {"type": "list", "elements": "dict", "default": [], "options": SERVICE_SPEC},
    "absent": {"type": "list", "elements": "str", "default": []},
    "prune_prefix": {"type": "str"},
    "prune": {"type": "bool", "default": False},
    "start_timeout": {"type": "int", "default": 120},
    "start_seconds_per_gib": {"type": "int", "default": 10},
    "podman_version": {"type": "str"},
    "releases_dir": {"type": "path", "default": DEFAULT_RELEASES},
}


def described(parameters: dict[str, Any]) -> list[Service]:
    """The services as the module was given them."""
    return [
        Service(
            name=given["name"],
            unit=given["unit"],
            listen=tuple(Listen(**listen) for listen in given["listen"]),
            load_paths=tuple(given["load_paths"]),
            record=given["record"],
            files=given["files"],
            live_files=given["live_files"],
        )
        for given in parameters["services"]
    ]


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    parameters = module.params
    names = ("prune_prefix", "prune", "start_timeout", "start_seconds_per_gib", "podman_version", "releases_dir")
    settings = Settings(check=module.check_mode, **{name: parameters[name] for name in names})
    manager = ServiceManager(ServiceHost(), settings)
    result: dict[str, Any] = {"changed": False, "services": {}, "stale": []}
    with one_sentence(module, result):
        planned = manager.plan(described(parameters), parameters["absent"])
        result["stale"] = manager.stale
        result["changed"] = any(item.changes for item in planned)
        result["diff"] = manager.diff(planned)
        result["services"] = manager.outcomes(planned) if module.check_mode else manager.apply(planned)
    for note in manager.notes:
        module.warn(note)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
