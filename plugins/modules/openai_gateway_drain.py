#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take replicas out of a gateway's service, and give them back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: openai_gateway_drain
short_description: Take replicas out of an OpenAI gateway's service, and give them back
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - Tells the OpenAI gateway of the host to send nothing new to some replicas, and waits until the requests that run
    there are done. The gateway goes on without a restart and closes its idle connections to them, so that Triton can be
    stopped at once.
  - A replica that drains has a lease. Where it is not given back in time, as who drained it is gone, the gateway
    sends to it again. A second run renews the lease once half of it is over.
  - Run it on every gateway that sends to the replicas.
  - A rollout gives its O(owner), so that the next one can give back what a rollout left behind that died, and so that
    no rollout gives back what an operator has drained by hand.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.root.releases
attributes:
  check_mode:
    support: full
    details:
      - Asks the gateway, but waits for nothing.
  diff_mode:
    support: full
    details:
      - Shows the file of replicas that drain.
  idempotent:
    support: full
    details:
      - As long as more than half of the lease is left.
options:
  urls:
    description: Addresses of the replicas, as the gateway's configuration has them.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(drained) lets the replicas get nothing new, and waits.
      - V(undrained) lets them get requests again, whether the gateway can be asked or not.
    type: str
    choices: [drained, undrained]
    default: drained
  lease:
    description: Seconds after which the replicas get requests again by themselves. V(0) is never.
    type: int
    default: 900
  owner:
    description:
      - The rollout that drains, in one word; it stands beside the lease in the gateway's file. Leave it out where you
        drain by hand.
      - With V(drained), what another owner has drained is taken over. With V(undrained), what any owner has drained is
        given back, and what has none stays as it is. Whoever gives one works on the hosts of the replicas alone; see
        M(trtllm.fleet.rollout_lock).
    type: str
    default: ""
  timeout:
    description:
      - Seconds to wait until nothing is outstanding at any of the replicas. Where something still is, the module does
        not fail; RV(drained) says so.
      - With V(0) the module does not wait, and needs no gateway that can be asked.
    type: int
    default: 120
  gateway_url:
    description: Where the gateway is asked, from the host itself. By default where the release record of the host's
      gateway says that it listens, or C(http://127.0.0.1:3000).
    type: str
  tls_verify:
    description: Whether the certificate of O(gateway_url) is verified. The host's own gateway, which is asked without
      leaving the host, shows one for another name.
    type: bool
    default: true
  directory:
    description: The gateway's configuration directory on the host.
    type: path
    default: /etc/trtllm/openai_gateway
seealso:
  - module: trtllm.fleet.container_service
  - module: trtllm.fleet.rollout_lock
"""

EXAMPLES = r"""
- name: Take a replica out of service before it is switched
  trtllm.fleet.openai_gateway_drain:
    urls: [http://10.0.0.7:8000]
    lease: 1800
  register: drained
  failed_when: drained is failed or not drained.drained

- name: Give it back
  trtllm.fleet.openai_gateway_drain:
    urls: [http://10.0.0.7:8000]
    state: undrained
"""

RETURN = r"""
drained:
  description: Whether no worker of the gateway sends to the replicas and nothing is outstanding any more.
  returned: always
  type: bool
outstanding:
  description: The requests that each replica works on for this gateway. A replica of which the gateway says nothing
    is left out.
  returned: always
  type: dict
  sample: {"http://10.0.0.7:8000": 2}
seconds:
  description: How long the module waited.
  returned: always
  type: float
can_drain:
  description:
    - V(false) where the module fails because the gateway does not run, does not know the replicas, or is of a version
      that does not drain.
  returned: failure
  type: bool
"""

from pathlib import Path
from typing import Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_RELEASES
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway import drain
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway.status import GatewayStatus
from ansible_collections.trtllm.fleet.plugins.module_utils._service.host import ServiceHost
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.state import gateways

DEFAULT_URL = "http://127.0.0.1:3000"

ARGUMENT_SPEC = {
    "urls": {"type": "list", "elements": "str", "required": True},
    "state": {"type": "str", "choices": ["drained", "undrained"], "default": "drained"},
    "lease": {"type": "int", "default": 900},
    "owner": {"type": "str", "default": ""},
    "timeout": {"type": "int", "default": 120},
    "gateway_url": {"type": "str"},
    "tls_verify": {"type": "bool", "default": True},
    "directory": {"type": "path", "default": drain.DEFAULT_DIRECTORY},
    "releases_dir": {"type": "path", "default": DEFAULT_RELEASES},
}


def asked(url: Optional[str], tls_verify: bool, releases_dir: str) -> GatewayStatus:
    """The gateway at *url*, or the one of this host."""
    if url:
        return GatewayStatus(url, tls_verify)
    own = [gateway["url"] for gateway in gateways(ServiceHost(), releases_dir)]
    return GatewayStatus(own[0] if own else DEFAULT_URL, tls_verify=False)


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    given = module.params
    result = {"changed": False, "drained": False, "outstanding": {}, "seconds": 0.0}
    with one_sentence(module, result):
        wanted = drain.check_wanted(given["urls"], given["state"] == "drained", given["lease"], given["owner"])
        status = asked(given["gateway_url"], given["tls_verify"], given["releases_dir"])
        file = drain.DrainFile(Path(given["directory"]))
        waits = wanted.drained and given["timeout"] > 0
        if wanted.drained:
            file.check()
        before, after = file.plan(wanted)
        state = drain.look(wanted, {})
        if waits:
            found = status.replicas()
            drain.check_known(wanted, found)
            state = drain.look(wanted, found)
        result["changed"] = before != after
        result["diff"] = {
            "before": before,
            "after": after,
            "before_header": str(file.path),
            "after_header": str(file.path),
        }
        if not module.check_mode:
            if before != after:
                file.write(wanted)
            if waits:
                state = drain.wait(wanted, status, given["timeout"])
        result.update(drained=state.drained, outstanding=dict(state.outstanding), seconds=state.seconds)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
