# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the preflight: a verdict on each host, a report on the fleet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from ansible_collections.trtllm.fleet.plugins.module_utils._host.verdict import report, verdict
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.reach import judged


def preflight_report(verdicts: Mapping[str, Optional[Mapping[str, Any]]], release: str = "") -> dict[str, Any]:
    """The fleet's result; a host without a verdict did not answer."""
    return report([found or verdict(None, host, {}) for host, found in verdicts.items()], release)


class FilterModule:
    """Filters of the preflight."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"host_verdict": verdict, "preflight_report": preflight_report, "nodes_verdict": judged}
