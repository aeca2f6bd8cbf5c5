# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the preflight: a verdict on each host, a report on the fleet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._preflight import report, verdict


class FilterModule:
    """Filters of the preflight."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"preflight": verdict, "preflight_report": report}
