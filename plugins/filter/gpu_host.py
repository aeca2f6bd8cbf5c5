# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the roles gpu_host and gpu_driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._host.driver import plan, versions
from ansible_collections.trtllm.fleet.plugins.module_utils._host.platforms import host_platform, known


class FilterModule:
    """Filters of the roles gpu_host and gpu_driver."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "driver_plan": plan,
            "driver_versions": versions,
            "host_platform": host_platform,
            "platforms_known": known,
        }
