# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that shows which hosts are settled. Its documentation is beside it."""

from __future__ import annotations

from typing import Any, Callable

from ansible_collections.trtllm.fleet.plugins.module_utils._settled.record import settled_table
from ansible_collections.trtllm.fleet.plugins.plugin_utils._filters import as_filter_error


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"settled_table": as_filter_error(settled_table)}
