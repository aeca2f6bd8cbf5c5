#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trtllm_image
short_description: Bring a container image onto a host
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Pulls, builds or loads an image with podman, or makes sure that it is there, and returns a reference by digest
    that a systemd unit can name.
  - An image is never updated behind the operator's back, as a new image makes every engine stale. A tag is resolved to
    a digest once, and the digest is kept; with O(pull=always) it is resolved each time.
  - A pull, push or build is a unit of systemd that outlives a lost connection; a run that comes later joins it. What
    may help is tried again. While it runs, the controller shows how far it is.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
  - trtllm.fleet.registry
attributes:
  check_mode:
    support: full
    details: With O(source=pull) the registry is asked for an image that would be pulled. One that it does not have is
      an error, and so are credentials that it refuses; a registry that cannot be asked is a warning.
  diff_mode:
    support: full
    details:
      - Returns what differs.
  idempotent:
    support: full
    details:
      - A build is repeated when its context, its Containerfile or its arguments differ in content.
options:
  name:
    description:
      - The image's full name with registry, and tag or digest.
    type: str
    required: true
  source:
    description:
      - How the image gets onto the host.
      - V(program) runs O(program), which builds the image itself and leaves it under O(name).
      - V(archive) is the former name of V(load).
    type: str
    choices: [pull, build, program, load, archive, present]
    default: pull
  pull:
    description:
      - Whether a tag is resolved only where the image is V(missing) and was never resolved, or V(always).
    type: str
    choices: [missing, always]
    default: missing
  digest:
    description:
      - The digest to pull where this host has the image by no other, as other hosts have resolved the tag.
    type: str
    default: ""
  archive:
    description:
      - With O(source=load), the image archive on the host, as C(podman save) writes it in the formats docker-archive
        and oci-archive, plain or compressed.
    type: path
  archive_sha256:
    description:
      - The sha256 that O(archive) has to have. Nothing is loaded from another one. An image that was loaded from an
        archive with another sum is loaded anew.
    type: str
    default: ""
  context:
    description:
      - With O(source=build), the directory on the host to build from, for example a checkout of
        C(tensorrtllm_backend).
    type: path
  context_location:
    description:
      - Whether O(context) and O(containerfile), which is below it then, are on the host or on the controller. One of
        the controller is sent where its content, or that of what else the image is built from, has changed. What its
        C(.containerignore), or C(.dockerignore), leaves out is neither read nor sent.
    type: str
    choices: [host, controller]
    default: host
  context_archive:
    description:
      - What came from the controller to build from. The action plugin gives it.
    type: path
  context_files:
    description:
      - With O(source=build), files to build from in place of O(context), from path below it to text. They are on the
        host only while it builds.
    type: dict
    default: {}
  containerfile:
    description:
      - With O(source=build), the file to build from; C(Containerfile) of O(context) by default.
    type: path
  build_args:
    description:
      - With O(source=build), the build arguments. They are recorded in the image, so never give secrets.
    type: dict
    default: {}
  base_images:
    description:
      - With O(source=build), other images to build on, for each image that the Containerfile names after C(FROM).
        The file itself stays as it is.
    type: dict
    default: {}
  isolation:
    description:
      - With O(source=build), podman's isolation of the build.
    type: str
    choices: [oci, chroot]
  target:
    description:
      - With O(source=build), the stage of the Containerfile to build; the last one by default.
    type: str
  inputs:
    description:
      - With O(source=build), the fingerprint of what it is built from, where that is known. An image that was built
        from the same is kept without reading O(context). O(source=program) takes one.
    type: str
    default: ""
  program:
    description:
      - With O(source=program), what builds the image, with its arguments. They are to be seen, so never give secrets.
    type: list
    elements: str
    default: []
  chdir:
    description:
      - With O(source=program), the directory to run it in.
    type: path
  push:
    description:
      - A full name with registry and tag. The image is pushed there, and named by the digest that it has there.
    type: str
    default: ""
  when_missing:
    description:
      - Whether an image that is missing is brought, or only told as RV(missing), and nothing changed.
    type: str
    choices: [bring, tell]
    default: bring
  report:
    description:
      - Whether RV(trtllm_version) and RV(builds_engines) are returned. The image is asked once.
    type: bool
    default: false
  wait:
    description:
      - Wait until it is done. Otherwise RV(running) tells that it is not.
    type: bool
    default: true
  attach:
    description:
      - Look at what an earlier call started with O(wait=false), and end it.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Pull the image of TensorRT-LLM 1.2.1
  trtllm.fleet.trtllm_image:
    name: registry.example.com/tritonserver:26.07-trtllm-python-py3

- name: Pull it from NGC with a key
  trtllm.fleet.trtllm_image:
    name: nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3
    username: $oauthtoken
    password: "{{ vault_ngc_key }}"

- name: Build it from a checkout of the backend
  trtllm.fleet.trtllm_image:
    name: localhost/triton_trt_llm:0.8.0
    source: build
    context: /srv/tensorrtllm_backend
    containerfile: /srv/tensorrtllm_backend/dockerfile/Dockerfile.trt_llm_backend

- name: Load it where no registry is in reach
  trtllm.fleet.trtllm_image:
    name: localhost/triton_trt_llm:1.2.1
    source: load
    archive: /srv/images/triton_trt_llm-1.2.1.tar.zst
    archive_sha256: 0263829989b6fd954f72baaf2fc64bc2e2f01d692d4de72986ea808f6e99813f
"""

RETURN = r"""
id:
  description: The image's ID (the digest of its configuration), with C(sha256:) in front.
  returned: when the image is on the host
  type: str
reference:
  description: The name by digest that a unit can use; the ID where the image came from no registry.
  returned: when the image is on the host
  type: str
digest:
  description: The digest in RV(reference); empty where the image came from no registry. With RV(missing), the digest
    that would be pulled, where it is known.
  returned: when the image is on the host, or RV(missing)
  type: str
size:
  description: Size on disk in bytes.
  returned: when the image is on the host
  type: int
architecture:
  description: What the image runs on, such as V(amd64).
  returned: when the image is on the host
  type: str
host_architecture:
  description: What images for this host are called.
  returned: always
  type: str
trtllm_version:
  description: The TensorRT-LLM that is in the image; empty where it does not tell.
  returned: with O(report), when the image is on the host
  type: str
builds_engines:
  description: Whether engines can be built in it. NVIDIA's images before 24.04 lack what that takes.
  returned: with O(report), when the image is on the host
  type: bool
disk_before:
  description: Free bytes of the file system with the images, before anything was done.
  returned: when something was done
  type: int
disk_after:
  description: The same afterwards.
  returned: when something was done
  type: int
missing:
  description: Whether the image has to be brought.
  returned: with O(when_missing=tell)
  type: bool
running:
  description: Whether it is still at work.
  returned: with O(wait=false)
  type: bool
progress:
  description: What is done (C(step)), C(bytes) of C(total), C(seconds).
  returned: when RV(running)
  type: dict
reason:
  description: What was done, or why nothing was.
  returned: success
  type: str
"""

import json
from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT, check_path
from ansible_collections.trtllm.fleet.plugins.module_utils._host.system import disk_usage
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import cli
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.image import (
    ACCESS,
    Image,
    ImageManager,
    ImageRequest,
    Missing,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.image_ids import Images
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.job import Running
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.registry_api import machine_architecture
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import in_triton

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "source": {"type": "str", "choices": ["pull", "build", "program", "load", "archive", "present"], "default": "pull"},
    "pull": {"type": "str", "choices": ["missing", "always"], "default": "missing"},
    "digest": {"type": "str", "default": ""},
    **ACCESS,
    "archive": {"type": "path"},
    "archive_sha256": {"type": "str", "default": ""},
    "context": {"type": "path"},
    "context_location": {"type": "str", "choices": ["host", "controller"], "default": "host"},
    "context_archive": {"type": "path"},
    "context_files": {"type": "dict", "default": {}},
    "containerfile": {"type": "path"},
    "build_args": {"type": "dict", "default": {}},
    "base_images": {"type": "dict", "default": {}},
    "isolation": {"type": "str", "choices": ["oci", "chroot"]},
    "target": {"type": "str"},
    "inputs": {"type": "str", "default": ""},
    "program": {"type": "list", "elements": "str", "default": []},
    "chdir": {"type": "path"},
    "push": {"type": "str", "default": ""},
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "when_missing": {"type": "str", "choices": ["bring", "tell"], "default": "bring"},
    "report": {"type": "bool", "default": False},
    "wait": {"type": "bool", "default": True},
    "attach": {"type": "bool", "default": False},
}


def free() -> int:
    """Free bytes of the file system that holds podman's images."""
    done = cli.run(["info", "--format", "json"])
    place = (json.loads(done.stdout).get("store") or {}).get("graphRoot") if done.returncode == 0 else None
    store = Path(place) if place else None
    usage = disk_usage(store) if store else None
    return usage[1] if usage else 0


def held(image: Image, root: str) -> dict[str, Any]:
    """Which TensorRT-LLM is in an image, and whether it can build engines."""
    version = Images(Path(root)).holds(image.id)
    if version:
        return {"trtllm_version": version, "builds_engines": True}
    named = dict(pair.partition("=")[::2] for pair in image.environment)
    known = in_triton(named.get("NVIDIA_TRITON_SERVER_VERSION", ""))
    return {"trtllm_version": known.version if known else "", "builds_engines": False}


def run(module: AnsibleModule) -> dict[str, Any]:
    """The module's result; raises `FleetError`."""
    params = dict(module.params)
    report, root = params.pop("report"), check_path(params["root"], "root")
    request = ImageRequest(**{key: value for key, value in params.items() if value is not None})
    result: dict[str, Any] = {"changed": False, "running": False, "host_architecture": machine_architecture()}
    if request.when_missing == "tell":
        result["missing"] = False
    manager = ImageManager(request, module.check_mode, free)
    try:
        changed, image, reason = manager.ensure()
    except Missing as missing:
        return {**result, "missing": True, "digest": missing.digest, "reason": missing.reason}
    except Running as running:
        return {**result, "changed": True, "running": True, "progress": running.progress, "reason": "at work"}
    if manager.note:
        module.warn(manager.note)
    if image is not None and image.architecture not in ("", machine_architecture()):
        module.warn(
            f"The image {request.name} is for {image.architecture} and this host is {machine_architecture()}; "
            "containers of it do not start here."
        )
    result.update(changed=changed, reason=reason, **(image.facts() if image else {}))
    if image is not None and report and not module.check_mode:
        result.update(held(image, root))
    if changed:
        result["diff"] = {"before": "", "after": f"{request.name}: {reason}\n"}
        if manager.free_before is not None:
            result.update(disk_before=manager.free_before, disk_after=free())
    return result


def main() -> NoReturn:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        supports_check_mode=True,
    )
    with one_sentence(module):
        if cli.executable() is None and (module.check_mode or module.params["when_missing"] == "tell"):
            reason = "podman is not installed yet, so no registry was asked for the image"
            module.exit_json(
                changed=module.check_mode and module.params["when_missing"] == "bring", reason=reason, missing=True,
                digest="", running=False, host_architecture=machine_architecture(),
            )  # fmt: skip
        module.exit_json(**run(module))


if __name__ == "__main__":
    main()
