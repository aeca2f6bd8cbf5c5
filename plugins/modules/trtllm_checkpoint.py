#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trtllm_checkpoint
short_description: Bring a Hugging Face checkpoint onto a host
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Takes in a checkpoint from a directory of the controller or of the host, and keeps the sha256 of each of its
    files, so that a run without changes reads no weights.
  - The checkpoint is checked first. One without C(config.json), with a shard missing from its index, or with
    git-lfs pointers in place of weights is refused before anything is changed.
  - Files arrive beside the checkpoint's place, are verified by sha256 and published by a rename. An interrupted
    transfer is continued by the next run.
  - A checkpoint of the controller goes through ssh in pieces that are verified as they arrive. Where less than half of
    it differs from what the host has, where sshd forwards no port (C(AllowTcpForwarding)), or with another connection,
    single files are copied and read again on the host.
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
options:
  name:
    description:
      - Names the checkpoint on the host. Letters, digits, C(.), C(_) and C(-).
    type: str
    required: true
  path:
    description:
      - The directory that holds the checkpoint. Required unless O(state=absent).
    type: path
  location:
    description:
      - Whether O(path) is a directory of the V(controller) or of the V(host).
    type: str
    choices: [controller, host]
    default: controller
  in_place:
    description:
      - With O(location=host), use O(path) where it is (a network file system, say) instead of copying it.
    type: bool
    default: false
  verify:
    description:
      - With V(stat), a file whose size, times and inode are those of the last run is taken as unchanged. With
        V(full) every byte is read again.
    type: str
    choices: [stat, full]
    default: stat
  rate:
    description:
      - With O(location=controller), megabytes a second that are sent to the host at most; V(0) means no limit. It
        needs a connection by ssh, whose C(sftp) or C(scp) keeps to it.
    type: int
    default: 0
  address:
    description:
      - With O(location=controller), the address of this host on which it hands the checkpoint on while it arrives, to
        hosts that know O(token), and goes on doing so until M(trtllm.fleet.trtllm_artifact_serve) with C(state=stopped)
        ends it; nothing is encrypted. It needs a connection by ssh. None, and nobody receives it from here.
    type: str
    default: ""
  port:
    description:
      - The port for that.
    type: int
    default: 18850
  token:
    description:
      - With O(address), the secret that both sides know.
    type: str
  time_limit:
    description:
      - Seconds after which a transfer ends by itself.
    type: int
    default: 7200
  state:
    description:
      - Whether the checkpoint should be on the host.
    type: str
    choices: [present, absent]
    default: present
  while_sending:
    description:
      - With O(location=controller), read a checkpoint whose digests the controller has not kept for them while it is
        sent, and not before, where the host has no such checkpoint. It is for one host at a time, and needs a
        connection by ssh.
    type: bool
    default: false
  ask:
    description:
      - Say in RV(reasons) what differs, and transfer nothing. Unlike in check mode, digests of what was read are kept.
    type: bool
    default: false
  wanted:
    description:
      - Set by the action plugin with O(location=controller). The sha256 of each file, by its relative path.
    type: dict
  sizes:
    description:
      - Set by the action plugin with O(while_sending=true), in place of O(wanted). The bytes of each file, by its
        relative path.
    type: dict
  publish:
    description:
      - Set by the action plugin with O(location=controller), once the files have been transferred.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Copy a checkpoint from the controller
  trtllm.fleet.trtllm_checkpoint:
    name: codellama-13b
    path: /home/me/models/CodeLlama-13b-Instruct-hf

- name: Use one on a network file system where it is
  trtllm.fleet.trtllm_checkpoint:
    name: mixtral-8x7b
    location: host
    path: /nfs/models/Mixtral-8x7B-v0.1
    in_place: true
"""

RETURN = r"""
path:
  description: Where the checkpoint is on the host.
  returned: success
  type: str
digest:
  description: The sha256 over the paths and digests of all its files; empty in check mode when it is not there yet.
  returned: success
  type: str
reasons:
  description: One line for each file that differs.
  returned: success
  type: list
  elements: str
asked:
  description: What is the same for hosts that ask for the same directory of the controller.
  returned: with O(location=controller) and O(ask=true)
  type: str
pieces:
  description: The sha256 of the list of its pieces, by which M(trtllm.fleet.trtllm_artifact_fetch) knows them.
  returned: with O(location=controller) and O(ask=true)
  type: str
draft:
  description: Whether these two are of a draft, as the digests are made while it is sent.
  returned: with O(location=controller) and O(ask=true)
  type: bool
drafted:
  description: Whether the digests were made while it was sent.
  returned: with O(location=controller), where it was sent as a whole
  type: bool
alike:
  description: Whether the host has a checkpoint whose files mostly are of the same sizes, so that digests tell more.
  returned: with O(while_sending=true), where the digests were not kept
  type: bool
missing:
  description: The files that the controller has to transfer.
  returned: with O(location=controller), before the transfer
  type: list
  elements: str
staging:
  description: Where the controller has to transfer them to.
  returned: with O(location=controller), before the transfer
  type: str
"""

from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fingerprint import TreeDigest, tree_digest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.background import giving_way
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT, check_path
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.inspect import inspect_checkpoint
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.store import CheckpointStore, Difference, compare

ARGUMENT_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "path": {"type": "path"},
    "location": {"type": "str", "choices": ["controller", "host"], "default": "controller"},
    "in_place": {"type": "bool", "default": False},
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "verify": {"type": "str", "choices": ["stat", "full"], "default": "stat"},
    "rate": {"type": "int", "default": 0},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "address": {"type": "str", "default": ""},
    "port": {"type": "int", "default": 18850},
    "token": {"type": "str", "no_log": True},
    "time_limit": {"type": "int", "default": 7200},
    "while_sending": {"type": "bool", "default": False},
    "ask": {"type": "bool", "default": False},
    "wanted": {"type": "dict"},
    "sizes": {"type": "dict"},
    "publish": {"type": "bool", "default": False},
}


class CheckpointModule:
    """One checkpoint of one host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.name: str = self.params["name"]
        self.store = CheckpointStore(Path(check_path(self.params["root"], "root")) / "checkpoints")
        self.path = self.store.path(self.name)  # refuses a name that would lead out of it

    def run(self) -> dict[str, Any]:
        """The module's result."""
        if self.params["state"] == "absent":
            return self.absent()
        if self.params["location"] == "host":
            return self.in_place() if self.params["in_place"] else self.from_host()
        return self.from_controller()

    def absent(self) -> dict[str, Any]:
        """Remove the checkpoint; one that is used in place is left alone."""
        changed = self.path.exists() or self.store.staging(self.name).exists()
        if changed and not self.module.check_mode:
            with self.store.lock(self.name):
                self.store.remove(self.name)
        return {"changed": changed, "path": str(self.path), "digest": "", "reasons": ["removed"] if changed else []}

    def in_place(self) -> dict[str, Any]:
        """Check a checkpoint that stays where it is."""
        source = self._source()
        check_path(source, "path")
        tree = self._tree(source, self.store.index(self.name))
        return {"changed": False, "path": str(source), "digest": tree.digest, "reasons": []}

    def from_host(self) -> dict[str, Any]:
        """Copy a checkpoint from another directory of this host."""
        source = self._source()
        # The source's digests are kept as well, so that a run without changes reads neither of the two.
        tree = self._tree(source, self.store.source_index(self.name))
        wanted = tree.contents()
        difference = self._compare(wanted)
        if not difference or self.module.check_mode or self.params["ask"]:
            return self._result(difference, tree.digest)
        with self.store.lock(self.name):
            self.store.copy(self.name, source, self.store.missing(self.name, wanted))
            return self._result(difference, self.store.publish(self.name, wanted).digest)

    def from_controller(self) -> dict[str, Any]:
        """Say what has to be transferred, or publish what was."""
        if self.params["sizes"] is not None:
            difference, alike = self.store.compare_sizes(self.name, self.params["sizes"])
            return {**self._result(difference, ""), "alike": alike}
        wanted = self.params["wanted"]
        if wanted is None:
            raise FleetError("wanted is set by the action plugin of the same name; call the module by its full name.")
        difference = self._compare(wanted)
        if not difference:
            current = self.store.current(self.name, write_index=False)
            return self._result(difference, current.digest if current else "")
        if self.module.check_mode or self.params["ask"]:
            return self._result(difference, "")
        with self.store.lock(self.name):
            if self.params["publish"]:
                return self._result(difference, self.store.publish(self.name, wanted).digest)
            missing = self.store.missing(self.name, wanted)
        return {
            **self._result(difference, ""),
            "missing": missing,
            "staging": str(self.store.staging(self.name)),
        }

    def _source(self) -> Path:
        if not self.params["path"]:
            raise FleetError("path is missing; give the directory that holds the checkpoint.")
        source = Path(self.params["path"])
        inspect_checkpoint(source)
        return source

    def _tree(self, source: Path, index: Path) -> TreeDigest:
        return tree_digest(source, index, verify=self.params["verify"], write_index=not self.module.check_mode)

    def _compare(self, wanted: dict[str, str]) -> Difference:
        current = self.store.current(self.name, self.params["verify"], write_index=not self.module.check_mode)
        return compare(current.contents() if current else {}, wanted)

    def _result(self, difference: Difference, digest: str) -> dict[str, Any]:
        reasons = difference.lines()
        result: dict[str, Any] = {
            "changed": bool(difference) and not self.params["ask"],
            "path": str(self.path),
            "digest": digest,
            "reasons": reasons,
        }
        if result["changed"]:
            result["diff"] = {"before": "", "after": "".join(f"{line}\n" for line in reasons)}
        return result


def main() -> NoReturn:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "present", ("path",))],
        supports_check_mode=True,
    )
    with one_sentence(module), giving_way():
        module.exit_json(**CheckpointModule(module).run())


if __name__ == "__main__":
    main()
