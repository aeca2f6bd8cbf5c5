# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role engine. Their documentation is beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.election import having, offer


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"engine_offer": offer, "engine_having": having}
