# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image of the collection is built from, for hosts that have no checkout of it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: image_context
author: The trtllm.fleet authors (@trtllm-fleet)
version_added: "0.1.0"
short_description: The files that an image of trtllm.fleet is built from
description:
  - Returns the texts of the files that the collection brings for an image, by their paths in the build's context.
options:
  _terms:
    description: Names of images, V(openai_gateway) or V(checkpoint_fetch).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Build the gateway's image on a host
  trtllm.fleet.trtllm_image:
    name: localhost/openai_gateway:0.1.0
    source: build
    context_files: "{{ lookup('trtllm.fleet.image_context', 'openai_gateway') }}"
"""

RETURN = r"""
_list:
  description: One dictionary for each image.
  type: list
  elements: dict
"""

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

IMAGES = Path(__file__).resolve().parents[2] / "images"
# By image the files, as patterns, and those that are empty.
CONTEXTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # Their Containerfiles copy a directory of wheels, which a checkout may have filled and a host has not.
    "openai_gateway": (("Containerfile", "requirements.txt", "openai_gateway/*.py"), ("site/.keep",)),
    "checkpoint_fetch": (("Containerfile", "requirements.txt"), ("site/.keep",)),
}


class LookupModule(LookupBase):
    """The contexts that the terms name."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[dict[str, str]]:
        return [self._context(str(term)) for term in terms]

    def _context(self, image: str) -> dict[str, str]:
        if image not in CONTEXTS:
            raise AnsibleLookupError(f"The collection builds no image {image!r}; it builds {', '.join(CONTEXTS)}.")
        patterns, empty = CONTEXTS[image]
        paths = sorted(path for pattern in patterns for path in (IMAGES / image).glob(pattern))
        if not paths:
            raise AnsibleLookupError(f"{IMAGES / image} is not there; install the collection as a whole.")
        texts = {str(path.relative_to(IMAGES / image)): path.read_text(encoding="utf-8") for path in paths}
        return {**texts, **dict.fromkeys(empty, "")}
