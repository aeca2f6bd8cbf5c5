# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters about hosts that a run has lost. Their documentation is beside them."""

from __future__ import annotations

from typing import Any, Callable

from ansible_collections.trtllm.fleet.plugins.plugin_utils._lost import reason


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"lost_reason": reason}
