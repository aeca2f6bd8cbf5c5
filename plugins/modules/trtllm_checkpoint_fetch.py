#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trtllm_checkpoint_fetch
short_description: Download a checkpoint onto a host
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Downloads a checkpoint in a container, so that nothing is installed on the host, verifies each file by the digest
    that its source names, and publishes it by a rename where M(trtllm.fleet.trtllm_checkpoint) would put it.
  - O(revision) is resolved once to a commit, which is kept beside the checkpoint. A branch that moves changes nothing
    until O(refresh) or another O(revision) asks for it, and a run without changes asks nobody.
  - The download outlives a lost connection. A run that comes later with the same arguments joins it, and one after a
    failure continues with what has arrived.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
attributes:
  check_mode:
    support: full
    details:
      - No source is asked then.
  diff_mode:
    support: full
    details:
      - Returns what differs from the last download.
  idempotent:
    support: full
options:
  name:
    description:
      - Names the checkpoint on the host. Letters, digits, C(.), C(_) and C(-).
    type: str
    required: true
  source:
    description:
      - Where it comes from. V(huggingface) is Hugging Face's hub, or a mirror of it; V(modelscope) is ModelScope's;
        V(git) a git repository, whose weights may be in git-lfs; V(url) an archive, or single files, with their sha256.
    type: str
    choices: [huggingface, modelscope, git, url]
    default: huggingface
  repo:
    description:
      - The repository as the hub writes it, C(OWNER/NAME).
    type: str
  revision:
    description:
      - A branch, a tag or a commit; by default C(main), C(master) for ModelScope, C(HEAD) of a git repository.
    type: str
  include:
    description:
      - Patterns of the files to take, such as C(*.safetensors); by default all.
    type: list
    elements: str
    default: []
  exclude:
    description:
      - Patterns of files to leave out.
    type: list
    elements: str
    default: []
  endpoint:
    description:
      - Address of a mirror of the hub, as the hub's client takes it in C(HF_ENDPOINT).
    type: str
  url:
    description:
      - With O(source=git), the address of the repository. With O(source=url), that of an archive (C(.tar), C(.tar.gz),
        C(.tar.zst), C(.tar.xz), C(.tar.bz2), C(.zip)); one directory that all of it is in is left out.
    type: str
  sha256:
    description:
      - With O(source=url), the sha256 of the archive. Another archive with the same sha256 is the same checkpoint.
    type: str
  files:
    description:
      - With O(source=url), single files instead of an archive, from the address of each to its sha256. They are called
        what their addresses end in.
    type: dict
    default: {}
  cache:
    description:
      - A cache of the hub's client on the host (the directory with C(models--OWNER--NAME) in it). Nothing is downloaded
        then.
    type: path
  token:
    description:
      - Secret for what not everybody may read. It stands in no command line, environment, log or unit.
    type: str
  token_file:
    description:
      - A file of the host that holds the token.
    type: path
  trust_remote_code:
    description:
      - Take files that run code where the model is loaded. Otherwise they are listed and refused.
    type: bool
    default: false
  allow_pickle:
    description:
      - Take a checkpoint whose weights are pickles only (C(*.bin), C(*.pt)), which can run code when they are read.
    type: bool
    default: false
  refresh:
    description:
      - Resolve O(revision) again.
    type: bool
    default: false
  image:
    description:
      - The image that downloads, by name or id; it must be on the host. The role P(trtllm.fleet.checkpoint#role) brings
        it. Without one, the host's own Python downloads, which needs the hub's client then, as that of Ansible may have
        it on the controller.
    type: str
  network:
    description:
      - The network of the container, as C(podman run --network) takes it.
    type: str
    default: host
  verify:
    description:
      - With V(stat), a file whose size, times and inode are those of the last run is taken as unchanged. With
        V(full) every byte is read again. What was altered is downloaded again, at the commit that was kept.
    type: str
    choices: [stat, full]
    default: stat
  ask:
    description:
      - Say in RV(reasons) what differs, and download nothing. Unlike in check mode, digests of what was read are kept.
    type: bool
    default: false
  wait:
    description:
      - Wait until the checkpoint is published. Otherwise it is only started, and a later run waits for it.
    type: bool
    default: true
  poll:
    description:
      - Seconds between two looks at the download, while it is shown.
    type: int
    default: 5
  attach:
    description:
      - Set by the action plugin. The download to look at.
    type: str
seealso:
  - module: trtllm.fleet.trtllm_checkpoint
"""

EXAMPLES = r"""
- name: Download a model that its owner has to grant
  trtllm.fleet.trtllm_checkpoint_fetch:
    name: llama-2-7b-chat
    repo: meta-llama/Llama-2-7b-chat-hf
    revision: main
    exclude: ["*.bin", "original/*"]
    token: "{{ vault_huggingface_token }}"
    image: localhost/checkpoint_fetch:0.1.0

- name: Clone one that stands in a git repository, with its weights in git-lfs
  trtllm.fleet.trtllm_checkpoint_fetch:
    name: codellama-13b
    source: git
    url: https://git.example.com/models/CodeLlama-13b-Instruct-hf
    revision: v1.0
    image: localhost/checkpoint_fetch:0.1.0

- name: Unpack an archive
  trtllm.fleet.trtllm_checkpoint_fetch:
    name: our-model
    source: url
    url: https://files.example.com/our-model.tar.zst
    sha256: 9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab
    image: localhost/checkpoint_fetch:0.1.0
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
commit:
  description: What O(revision) was when it was resolved; empty where that is not known yet.
  returned: success
  type: str
reasons:
  description: One line for each thing that differs from the last download.
  returned: success
  type: list
  elements: str
asked:
  description: What is the same for hosts that ask for the same with the same consent.
  returned: success
  type: str
received:
  description: Bytes that were downloaded.
  returned: success
  type: int
fetching:
  description: Whether it is being downloaded, which is only so with O(wait=false).
  returned: success
  type: bool
job:
  description: The id of the download, in C(id).
  returned: while it is being downloaded
  type: dict
progress:
  description: How far it is (C(phase), C(bytes_done), C(bytes_total), C(rate) in bytes a second, C(left) in seconds).
  returned: while it is being downloaded
  type: dict
"""

import time
from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fingerprint import fingerprint
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT, check_path
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.job import Fetch
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.request import CONSENTS, OPTIONS, request_of

ARGUMENT_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "source": {"type": "str", "choices": list(OPTIONS), "default": "huggingface"},
    "repo": {"type": "str"},
    "revision": {"type": "str"},
    "include": {"type": "list", "elements": "str", "default": []},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "endpoint": {"type": "str"},
    "url": {"type": "str"},
    "sha256": {"type": "str"},
    "files": {"type": "dict", "default": {}},
    "cache": {"type": "path"},
    "token": {"type": "str", "no_log": True},
    "token_file": {"type": "path", "no_log": False},
    "trust_remote_code": {"type": "bool", "default": False},
    "allow_pickle": {"type": "bool", "default": False},
    "refresh": {"type": "bool", "default": False},
    "image": {"type": "str"},
    "network": {"type": "str", "default": "host"},
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "verify": {"type": "str", "choices": ["stat", "full"], "default": "stat"},
    "ask": {"type": "bool", "default": False},
    "wait": {"type": "bool", "default": True},
    "poll": {"type": "int", "default": 5},
    "attach": {"type": "str"},
}
SHOWN = ("phase", "note", "commit", "bytes_done", "bytes_total", "rate", "left")


class FetchModule:
    """One checkpoint of one host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module, self.params = module, module.params
        root, image = Path(check_path(self.params["root"], "root")), self.params["image"] or ""
        self.fetch = Fetch(root, self.params["name"], image, self.params["network"])
        self.request = request_of(self.params, "")
        self.consent = {name: self.params[name] for name in CONSENTS}

    def run(self) -> dict[str, Any]:
        """The module's result."""
        fetch, check, ask = self.fetch, self.module.check_mode, self.params["ask"]
        digest, commit, reasons = fetch.current(self.request, self.params["verify"], not check)
        wanted = bool(reasons) or self.params["refresh"]
        if not wanted or check or ask:
            return self._result(bool(reasons) and not ask, digest, commit, reasons)
        if not self.params["attach"] and not fetch.runs(fetch.identity(self.request, self.consent)):
            record = fetch.record()
            # What is only damaged comes again as it was.
            same = record is not None and record.asked == self.request.asked() and not self.params["refresh"]
            fetch.start(self.request, self.consent, self._token(), commit if same else "")
        while fetch.running():
            if not self.params["wait"]:
                said = fetch.status()
                return {
                    **self._result(True, digest, commit, reasons),
                    "fetching": True,
                    "job": {"id": said.get("id", "")},
                    "progress": {name: said.get(name) for name in SHOWN},
                }
            time.sleep(min(self.params["poll"], 1))
        fetch.refuse_failure()
        received = int(fetch.status().get("received") or 0)
        record = fetch.publish(self.consent)
        fetch.discard()
        after, commit, _ = fetch.current(self.request, "stat", True)
        return {**self._result(after != digest or bool(reasons), after, record.commit, reasons), "received": received}

    def _token(self) -> str:
        if self.params["token_file"]:
            if self.params["token"]:
                raise FleetError("Both token and token_file are given; give one of them.")
            return Path(self.params["token_file"]).read_text(encoding="utf-8").strip()
        return str(self.params["token"] or "")

    def _result(self, changed: bool, digest: str, commit: str, reasons: list[str]) -> dict[str, Any]:
        result: dict[str, Any] = {
            "changed": changed, "path": str(self.fetch.path), "digest": digest, "commit": commit, "reasons": reasons,
            "asked": fingerprint({"asked": self.request.asked(), "consent": self.consent}),
            "received": 0, "fetching": False,
        }  # fmt: skip
        if changed:
            result["diff"] = {"before": "", "after": "".join(f"{line}\n" for line in reasons)}
        return result


def main() -> NoReturn:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    with one_sentence(module):
        module.exit_json(**FetchModule(module).run())


if __name__ == "__main__":
    main()
