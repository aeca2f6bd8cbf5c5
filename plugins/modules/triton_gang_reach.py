#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that look whether they reach each other."""

from __future__ import annotations

DOCUMENTATION = r"""
module: triton_gang_reach
short_description: See whether the nodes of a Triton replica reach each other, and what their clocks say
version_added: "0.1.0"
author: The trtllm.fleet authors (@trtllm-fleet)
description:
  - With O(state=listening) a host listens for a while at the addresses and ports at which it will be asked as a node
    of O(replicas), as far as nothing listens there yet. With O(state=asked) it connects to those of all other nodes.
    Run it with O(state=listening) on all of them first, and with O(state=absent) at the end.
  - It listens as a transient systemd unit, which ends by itself after O(seconds). Nothing else of the host is changed.
extends_documentation_fragment:
  - trtllm.fleet.attributes
attributes:
  check_mode:
    support: full
    details:
      - Nobody listens, and nobody is asked then.
  diff_mode:
    support: none
  idempotent:
    support: full
    details:
      - What it starts and ends leaves nothing on the host and is not told as a change.
options:
  replicas:
    description:
      - The replicas of this host whose ranks are on several, each with C(name), C(nodes) (C(name) and C(address) of
        each), C(node) (which of them this host is) and C(gang_port), as the role P(trtllm.fleet.triton#role) takes
        them.
    type: list
    elements: dict
    default: []
  state:
    description: What is done.
    type: str
    choices: [listening, asked, absent]
    default: asked
  seconds:
    description: How long a host listens at most.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Ensure that the nodes listen
  trtllm.fleet.triton_gang_reach:
    replicas: "{{ triton_replicas }}"
    state: listening

- name: See whether they reach each other
  trtllm.fleet.triton_gang_reach:
    replicas: "{{ triton_replicas }}"
  register: reached
"""

RETURN = r"""
problems:
  description: Why this host cannot listen where it has to.
  returned: with O(state=listening)
  type: list
  elements: str
asked:
  description: By replica, for each other node C(node), C(unreached) (where it is not reached, and why), and C(here) and
    C(there), the seconds since the epoch on both at the same moment, null where they were not told.
  returned: with O(state=asked)
  type: dict
"""

import json
import sys
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base import files, transient
from ansible_collections.trtllm.fleet.plugins.module_utils._base.command import run_command
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.pyz import pyz
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import reach

UNIT = "trtllm-gang-reach.service"
BEGIN = 20.0  # seconds within which the process listens


def archive() -> bytes:
    """The code as one file that Python runs."""
    return pyz("trtllm_reach", ("_triton.reach",), "_triton.reach")


def stop() -> None:
    if transient.running(UNIT):
        run_command(["systemctl", "stop", "--", UNIT])
    files.remove(reach.HOME)


def start(replicas: list[dict[str, Any]], seconds: int) -> list[str]:
    """Listen from now on; why that cannot be done everywhere."""
    stop()
    home = reach.HOME
    home.mkdir(mode=0o700)
    files.write_atomically(home / "reach.pyz", archive())
    files.write_atomically(home / reach.SPEC, json.dumps({"replicas": replicas, "seconds": seconds}).encode())
    argv = [sys.executable, "-I", str(home / "reach.pyz"), str(home)]
    said = transient.start(UNIT, "Nodes that reach each other", {"RuntimeMaxSec": str(seconds + 10)}, argv)
    deadline = time.monotonic() + BEGIN
    while not said.rc and time.monotonic() < deadline:
        told = files.read_object(home / reach.STATUS)
        if told:
            return list(told["problems"])
        time.sleep(0.1)
    stop()
    raise FleetError(f"{UNIT} does not begin: {' '.join((said.err or said.out).split()) or 'see its journal'}.")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "replicas": {"type": "list", "elements": "dict", "default": []},
            "state": {"type": "str", "choices": ["listening", "asked", "absent"], "default": "asked"},
            "seconds": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    found: dict[str, Any] = {"changed": False}
    with one_sentence(module):
        state = module.params["state"]
        replicas = [] if module.check_mode else [one for one in module.params["replicas"] if one.get("nodes")]
        if state == "listening":
            found["problems"] = start(replicas, module.params["seconds"]) if replicas else []
        elif state == "asked":
            found["asked"] = {str(one["name"]): reach.ask(one) for one in replicas}
        elif not module.check_mode:
            stop()
    module.exit_json(**found)


if __name__ == "__main__":
    main()
