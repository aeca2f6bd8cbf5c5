# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters of hosts that are settled. Their documentation is beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from ansible_collections.trtllm.fleet.plugins.module_utils._settled.record import settled_table
from ansible_collections.trtllm.fleet.plugins.plugin_utils._filters import as_filter_error
from ansible_collections.trtllm.fleet.plugins.plugin_utils._lost import MAX_LOST, limit


def unsettled_hosts(found: Mapping[str, Mapping[str, Any]], max_lost: Any = MAX_LOST) -> list[str]:
    """The hosts that are not settled, and with them so many others that more are there than may be lost."""
    differ = [host for host, told in found.items() if not told.get("settled")]
    others = [host for host in found if host not in differ]
    return [*differ, *others[: max(0, limit(max_lost, len(found)) + 1 - len(differ))]] if differ else []


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "settled_table": as_filter_error(settled_table),
            "unsettled_hosts": as_filter_error(unsettled_hosts),
        }
