#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: repository_key
short_description: Put the signing key of a package repository on a host, known by its fingerprint
version_added: "0.1.0"
description:
  - Writes the key, with armor, to a file that C(Signed-By) of apt or C(gpgkey) of dnf names.
  - A key with another fingerprint is refused and nothing is written. gpg is not needed.
  - Where the file already holds the expected key nothing is fetched, so that a run without changes works
    without the network.
options:
  source:
    description: The address of the key (http, https, file or ftp), the path of a file on the host, or the
      armored key itself.
    type: str
    required: true
  dest:
    description: The file to write. Its directory is made where it is missing.
    type: path
    required: true
  fingerprints:
    description: The fingerprints that are accepted. Without any, every OpenPGP key is.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds to wait for an address to answer.
    type: int
    default: 30
extends_documentation_fragment:
  - trtllm.fleet.attributes
attributes:
  check_mode:
    support: full
    details:
      - The key is fetched and checked in check mode too.
  diff_mode:
    support: full
  idempotent:
    support: full
author:
  - The trtllm.fleet authors (@trtllm-fleet)
"""

EXAMPLES = r"""
- name: Trust NVIDIA's key for its repository alone
  trtllm.fleet.repository_key:
    source: https://nvidia.github.io/libnvidia-container/gpgkey
    dest: /etc/apt/keyrings/nvidia-container-toolkit.asc
    fingerprints: [C95B321B61E88C1809C4F759DDCAE044F796ECB0]
"""

RETURN = r"""
fingerprints:
  description: The fingerprints of the keys in the file.
  returned: success
  type: list
  elements: str
dest:
  description: The file.
  returned: success
  type: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import fetch_url
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.files import write_atomically
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._host import openpgp


def current(path: str) -> bytes:
    """Return what the file holds, nothing where there is none."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""


def fetched(module: AnsibleModule) -> bytes:
    """Return the key from where the caller says it is."""
    source = module.params["source"]
    if source.lstrip().startswith("-----BEGIN"):
        return bytes(source.encode())
    if source.startswith("/"):
        data = current(source)
        if not data:
            raise FleetError(f"{source} is not on the host or empty; put the repository's key there.")
        return data
    response, info = fetch_url(module, source, timeout=module.params["timeout"])
    if info["status"] not in (200, None) or response is None:
        raise FleetError(f"the key {source} cannot be fetched: {info['msg']}; is a proxy or a mirror needed?")
    return bytes(response.read())


def run(module: AnsibleModule) -> dict[str, Any]:
    """Check the key that is there, else fetch, check and write it."""
    dest, wanted = module.params["dest"], module.params["fingerprints"]
    present = current(dest)
    before: list[str] = []
    try:
        before = openpgp.check(present, wanted, dest) if present and wanted else []
    except FleetError:
        before = []  # another key is there: it is replaced
    if before:
        return {"changed": False, "fingerprints": before, "dest": dest}
    data = openpgp.armored(fetched(module))
    after = openpgp.check(data, wanted, module.params["source"].splitlines()[0])
    changed = data != present
    if changed and not module.check_mode:
        write_atomically(Path(dest), data)  # readable by all: apt reads keys as an unprivileged user
    old = "".join(f"{name}\n" for name in openpgp.fingerprints(present)) if _is_key(present) else ""
    diff = {"before": old, "after": "".join(f"{name}\n" for name in after), "before_header": dest}
    return {"changed": changed, "fingerprints": after, "dest": dest, "diff": diff}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str", "required": True},
            "dest": {"type": "path", "required": True},
            "fingerprints": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    with one_sentence(module):
        module.exit_json(**run(module))


def _is_key(data: bytes) -> bool:
    try:
        return bool(openpgp.fingerprints(data))
    except FleetError:
        return False


if __name__ == "__main__":
    main()
