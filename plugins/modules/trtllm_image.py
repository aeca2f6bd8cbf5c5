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
  - An image is never updated behind the operator's back, as a new image makes every engine stale. With
    O(pull=always) the registry is asked each time.
extends_documentation_fragment:
  - trtllm.fleet.attributes
attributes:
  check_mode:
    support: full
    details: With O(source=pull) the registry is asked for an image that would be pulled. One that it does not have is
      an error; a registry that cannot be asked is a warning.
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
    type: str
    choices: [pull, build, archive, present]
    default: pull
  pull:
    description:
      - Whether the registry is asked only where the image is V(missing), or V(always).
    type: str
    choices: [missing, always]
    default: missing
  tls_verify:
    description:
      - Whether the registry's certificate is verified. V(false) also allows a registry without TLS.
    type: bool
    default: true
  authfile:
    description:
      - A file of the host with the registry's credentials, as C(podman login --authfile) writes it.
    type: path
  archive:
    description:
      - With O(source=archive), the image archive on the host, as C(podman save) writes it.
    type: path
  context:
    description:
      - With O(source=build), the directory on the host to build from, for example a checkout of
        C(tensorrtllm_backend).
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
"""

EXAMPLES = r"""
- name: Pull the image of TensorRT-LLM 1.2.1
  trtllm.fleet.trtllm_image:
    name: registry.example.com/tritonserver:26.07-trtllm-python-py3

- name: Build it from a checkout of the backend
  trtllm.fleet.trtllm_image:
    name: localhost/triton_trt_llm:0.8.0
    source: build
    context: /srv/tensorrtllm_backend
    containerfile: /srv/tensorrtllm_backend/dockerfile/Dockerfile.trt_llm_backend

- name: Load it where no registry is in reach
  trtllm.fleet.trtllm_image:
    name: localhost/triton_trt_llm:1.2.1
    source: archive
    archive: /srv/images/triton_trt_llm-1.2.1.tar
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
size:
  description: Size on disk in bytes.
  returned: when the image is on the host
  type: int
reason:
  description: What was done, or why nothing was.
  returned: success
  type: str
"""

from typing import NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import cli
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.image import ImageManager, ImageRequest


def main() -> NoReturn:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "source": {"type": "str", "choices": ["pull", "build", "archive", "present"], "default": "pull"},
            "pull": {"type": "str", "choices": ["missing", "always"], "default": "missing"},
            "tls_verify": {"type": "bool", "default": True},
            "authfile": {"type": "path"},
            "archive": {"type": "path"},
            "context": {"type": "path"},
            "context_files": {"type": "dict", "default": {}},
            "containerfile": {"type": "path"},
            "build_args": {"type": "dict", "default": {}},
            "base_images": {"type": "dict", "default": {}},
            "isolation": {"type": "str", "choices": ["oci", "chroot"]},
        },
        supports_check_mode=True,
    )
    with one_sentence(module):
        if cli.executable() is None and module.check_mode:
            module.exit_json(changed=True, reason="podman is not installed yet, so no registry was asked for the image")
        manager = ImageManager(ImageRequest(**module.params), module.check_mode)
        changed, image, reason = manager.ensure()
        if manager.note:
            module.warn(manager.note)
        result = {"changed": changed, "reason": reason, **(image.facts() if image else {})}
        if changed:
            result["diff"] = {"before": "", "after": f"{module.params['name']}: {reason}\n"}
        module.exit_json(**result)


if __name__ == "__main__":
    main()
