# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journals of all hosts as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._base.tables import columns

HEAD = ("time", "rollout", "who", "host", "step", "services", "seconds", "why")


def history_table(journals: Mapping[str, Sequence[Mapping[str, Any]]], last: int = 0) -> list[str]:
    """The lines of the journals, by host, in the order of time; the *last* so many, or all."""
    rows = [
        (
            str(line.get("time", "")),
            str(line.get("rollout", "")),
            str(line.get("who", "")),
            host,
            str(line.get("step", "")),
            " ".join(str(service) for service in line.get("services") or []),
            str(line.get("seconds", "")),
            " ".join(str(line.get("why", "")).split()),
        )
        for host, lines in journals.items()
        for line in lines
    ]
    if not rows:
        return ["No host has a journal of rollouts."]
    return columns([HEAD, *sorted(rows)[-last:]])
