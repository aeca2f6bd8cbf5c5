# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of what a cluster serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes.published import published, steps
from ansible_collections.trtllm.fleet.plugins.plugin_utils._filters import as_filter_error


class FilterModule:
    """Filters of the role kubernetes."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"kubernetes_published": as_filter_error(published), "kubernetes_steps": steps}
