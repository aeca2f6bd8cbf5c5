#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trtllm_image_pack
short_description: Write a container image as an artefact that goes from host to host, or take it from one
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Writes an image of this host into C(<root>/images), from where M(trtllm.fleet.trtllm_artifact_serve) with
    C(kind=image) hands it out, or takes one from there that M(trtllm.fleet.trtllm_artifact_fetch) has received.
  - The fingerprint of the artefact is the image's id. An image that comes out of it with another id is not used.
  - With O(digest), the artefact has the image as its registry has it, and its fingerprint is that digest. podman keeps
    layers unpacked, so they are asked of the registry once more where it is written. Where it is taken, podman pulls
    by that digest from the artefact, and from nowhere else.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.actiongroup_fleet
  - trtllm.fleet.root
  - trtllm.fleet.registry
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  name:
    description:
      - Name of the artefact.
    type: str
    required: true
  image:
    description:
      - The image's full name. Required with O(state=packed) and O(state=unpacked).
    type: str
  state:
    description:
      - V(packed) writes the artefact, V(unpacked) brings the image onto the host, and V(absent) removes all artefacts
        of this name, and no image.
    type: str
    choices: [packed, unpacked, absent]
    default: packed
  fingerprint:
    description:
      - Which artefact of that name, as RV(fingerprint) says it where it was packed. Required with O(state=unpacked).
    type: str
  digest:
    description:
      - The digest that the registry has the image by, for an image that was pulled. With it come the options for the
        registry, which is asked with O(state=packed) alone.
    type: str
    default: ""
  archive_sha256:
    description:
      - The sha256 of the archive that the image was loaded from, to be remembered as if it had been loaded here.
    type: str
    default: ""
seealso:
  - module: trtllm.fleet.trtllm_artifact_serve
  - module: trtllm.fleet.trtllm_artifact_fetch
"""

EXAMPLES = r"""
- name: Write an image as its registry has it
  trtllm.fleet.trtllm_image_pack:
    name: tritonserver
    image: nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3
    digest: "{{ pulled.digest }}"
    username: $oauthtoken
    password: "{{ vault_ngc_key }}"

- name: Write an image that was built here
  trtllm.fleet.trtllm_image_pack:
    name: triton-trt-llm
    image: localhost/triton_trt_llm:0.8.0
  register: packed

- name: Take it on a host that has received it
  trtllm.fleet.trtllm_image_pack:
    name: triton-trt-llm
    image: localhost/triton_trt_llm:0.8.0
    state: unpacked
    fingerprint: "{{ hostvars['gpu-01'].packed.fingerprint }}"
"""

RETURN = r"""
fingerprint:
  description: The image's id, or O(digest), without C(sha256:).
  returned: when O(state) is V(packed) or V(unpacked)
  type: str
size:
  description: Bytes of the image; with O(digest), of its layers where they were brought now.
  returned: when O(state=packed)
  type: int
"""

from pathlib import Path
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT, check_name, check_path, show
from ansible_collections.trtllm.fleet.plugins.module_utils._host.system import disk_usage
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.image import ACCESS, ImageManager, ImageRequest
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.pack import PackedImage, Pulled
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.registry_api import DIGEST

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "image": {"type": "str"},
    "state": {"type": "str", "choices": ["packed", "unpacked", "absent"], "default": "packed"},
    "fingerprint": {"type": "str"},
    "digest": {"type": "str", "default": ""},
    "archive_sha256": {"type": "str", "default": ""},
    **ACCESS,
    "root": {"type": "path", "default": DEFAULT_ROOT},
}


def free(path: Path) -> Optional[int]:
    """Free bytes of the file system of *path*."""
    usage = disk_usage(path)
    return usage[1] if usage else None


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """What the parameters ask for; raises `FleetError`."""
    root, name = Path(check_path(params["root"], "root")), check_name(params["name"], "name")
    packed = PackedImage(root, name, params["image"] or "", free)
    if params["state"] == "absent":
        return {"changed": packed.clear(check_mode)}
    if params["digest"]:
        return run_pulled(packed, params, check_mode)
    if params["state"] == "packed":
        changed, fingerprint, size = packed.pack(check_mode)
        return {"changed": changed, "fingerprint": fingerprint, "size": size}
    changed = packed.unpack(params["fingerprint"], params["archive_sha256"].lower(), check_mode)
    return {"changed": changed, "fingerprint": params["fingerprint"]}


def run_pulled(packed: PackedImage, params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """The same for an image as its registry has it."""
    digest = params["digest"]
    if not DIGEST.fullmatch(digest) or (params["state"] == "unpacked" and params["fingerprint"] != digest[7:]):
        raise FleetError(f"digest is {show(digest)}; give sha256: and 64 hexadecimal digits, those of fingerprint.")
    if params["state"] == "unpacked":
        return {"changed": packed.unpack_pulled(digest, check_mode), "fingerprint": params["fingerprint"]}
    access = {key: params[key] for key in ACCESS if params[key] is not None}
    manager = ImageManager(ImageRequest(params["image"], **access), check_mode)
    if manager.name is None:
        raise FleetError(f"image is {show(params['image'])}; give its full name, with its registry.")
    pulled = Pulled(digest, manager.clients(manager.name), params["retries"], params["retry_delay"])
    changed, fingerprint, size = packed.pack_pulled(pulled, check_mode)
    return {"changed": changed, "fingerprint": fingerprint, "size": size}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "packed", ["image"]), ("state", "unpacked", ["image", "fingerprint"])],
        supports_check_mode=True,
    )
    with one_sentence(module):
        module.exit_json(**run(module.params, module.check_mode))


if __name__ == "__main__":
    main()
