# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which artefact is handed from host to host, and how: what both sides are told."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of C(ARGUMENTS), without C(root), and of C(NETWORK) of module_utils/_artifact/transfer_unit.py."""

    DOCUMENTATION = r"""
options:
  name:
    description: Name of the artefact; its directory below that of its O(kind).
    type: str
    required: true
  fingerprint:
    description: Which artefact of that name, as RV(trtllm.fleet.trtllm_engine#module:fingerprint) says it.
    type: str
    required: true
  kind:
    description: What it is. An V(engine) stands in C(<root>/engines), a model V(repository) in C(<root>/repositories),
      a V(checkpoint) that M(trtllm.fleet.trtllm_checkpoint_artifact) has made in C(<root>/handed), and an V(image), as
      M(trtllm.fleet.trtllm_image_pack) writes it, in C(<root>/images).
    type: str
    choices: [engine, repository, image, checkpoint]
    default: engine
  time_limit:
    description: Seconds after which it ends by itself.
    type: int
    default: 7200
"""

    NETWORK = r"""
options:
  port:
    description: Port to listen on where it is handed out.
    type: int
    default: 18800
  rate:
    description: Megabytes a second that are sent at most, to all receivers together. V(0) means no limit.
    type: int
    default: 0
"""
