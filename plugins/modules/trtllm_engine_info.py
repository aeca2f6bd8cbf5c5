#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trtllm_engine_info
short_description: List the TensorRT-LLM engines of a host
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Lists published engines with what they were made from, and builds that are running.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
options:
  name:
    description: Name of an engine. Where it is not given, all are listed.
    type: str
  verify:
    description:
      - V(stat) compares sizes with the manifest, and by sha256 files whose times or inode changed since they were read.
      - V(full) reads every byte of every engine.
    type: str
    choices: [stat, full]
    default: stat
seealso:
  - module: trtllm.fleet.trtllm_engine
"""

EXAMPLES = r"""
- name: See whether every engine is intact, to the byte
  trtllm.fleet.trtllm_engine_info:
    verify: full
  register: engines

- name: Refuse to go on with a damaged one
  ansible.builtin.assert:
    that: engines.engines | map(attribute='problems') | flatten | length == 0
"""

RETURN = r"""
engines:
  description: Published engines, of each name the newest first.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: Name., type: str}
    fingerprint: {description: Fingerprint., type: str}
    engine_dir: {description: Directory., type: str}
    size: {description: Size of all files in bytes., type: int}
    release: {description: TensorRT-LLM release., type: str}
    world_size: {description: Ranks., type: int}
    built_at: {description: "When it was made, in UTC.", type: str}
    made_from: {description: What it was made from., type: dict}
    problems: {description: What is wrong with it; empty when it is intact., type: list, elements: str}
builds:
  description: Builds that run, or that ended and were not collected yet.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: Name., type: str}
    fingerprint: {description: Fingerprint., type: str}
    state: {description: "One of C(running), C(done), C(failed) and C(interrupted).", type: str}
    log_path: {description: Path of the log., type: str}
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.artifact_store import ArtifactStore
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.store import Store
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT, check_name
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.job import Job


def engine(store: ArtifactStore, name: str, path: Path, full: bool) -> dict[str, Any]:
    """One published engine."""
    manifest = store.manifest(path) or {}
    return {
        "name": name,
        "fingerprint": path.name,
        "engine_dir": str(path),
        "size": sum(held["size"] for held in manifest.get("files", {}).values()),
        **{key: manifest.get(key) for key in ("release", "world_size", "built_at", "made_from")},
        "problems": store.verify(path, full),
    }


def collect(root: Path, name: str | None, full: bool) -> dict[str, Any]:
    """All engines and builds below *root*, or those called *name*."""
    store, jobs = ArtifactStore(root / "engines", looks=True), Store(root / "jobs")
    named = None if name is None else [check_name(name, "name")]
    return {
        "changed": False,
        "engines": [engine(store, n, path, full) for n in named or store.names() for path in store.published(n)],
        "builds": [
            {"name": n, "fingerprint": job.fingerprint, "state": job.state().state, "log_path": str(job.log)}
            for n in named or jobs.names()
            for job in Job.of_name(root, n)
        ],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "root": {"type": "path", "default": DEFAULT_ROOT},
            "verify": {"type": "str", "choices": ["stat", "full"], "default": "stat"},
        },
        supports_check_mode=True,
    )
    with one_sentence(module):
        params = module.params
        module.exit_json(**collect(Path(params["root"]), params["name"], params["verify"] == "full"))


if __name__ == "__main__":
    main()
