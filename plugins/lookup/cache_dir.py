# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache directory of the controller, for inventories."""

from __future__ import annotations

DOCUMENTATION = r"""
name: cache_dir
author: The trtllm.fleet authors (@trtllm-fleet)
version_added: "0.1.0"
short_description: The directory of the controller in which trtllm.fleet keeps what is expensive to make again
description:
  - Returns the directory that holds, on the controller, the digests of checkpoints, and in a checkout of the project
    downloads, images and what the test hosts need.
  - It is E(TRTLLM_FLEET_CACHE), else V(trtllm-fleet) in E(XDG_CACHE_HOME), else V(~/.cache/trtllm-fleet).
options:
  _terms:
    description: Names below the directory; the directory itself where none is given.
    type: list
    elements: str
"""

EXAMPLES = r"""
checkpoint: "{{ lookup('trtllm.fleet.cache_dir', 'demo/tiny-llama') }}"
"""

RETURN = r"""
_list:
  description: One path for each term, or the directory.
  type: list
  elements: str
"""

from typing import Any

from ansible.plugins.lookup import LookupBase
from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir


class LookupModule(LookupBase):
    """The paths that the terms name."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[str]:
        return [str(cache_dir() / str(term)) for term in terms or [""]]
