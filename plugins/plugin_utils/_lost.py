# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that a run has lost: why each of them, and how many are too many."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError

MAX_LOST = "10%"
LONGEST = 400
# Of a longer line, the end: podman and others say last why it failed, after names and digests of any length.
END = 200
# How a process ends that got SIGKILL; Ansible itself only tells then that it cannot read what the module left.
KILLED = 137


def limit(max_lost: Any, total: int) -> int:
    """How many of *total* hosts may be lost: a number, or a share, rounded down, of at least one host."""
    found = None if isinstance(max_lost, bool) else re.fullmatch(r"(\d{1,6})(\s*%)?", str(max_lost).strip())
    if not found or (found[2] and int(found[1]) > 100):
        raise FleetError(
            f"trtllm_max_lost is {max_lost!r}; give a number of hosts, or a share of them from 0% to 100%."
        )
    number = int(found[1])
    if not found[2]:
        return number
    return max(1, total * number // 100) if number else 0


def reason(result: Mapping[str, Any], task: str, hidden: bool = False) -> str:
    """In one line why a task failed: what it said, of a loop what the first failed item said. *hidden*: its no_log."""
    if hidden or result.get("_ansible_no_log") or "censored" in result:
        return f"'{task}' failed; its output is hidden, as it may hold a secret"
    failed = [item for item in result.get("results") or [] if isinstance(item, Mapping) and item.get("failed")]
    first = (failed or [result])[0]
    if first.get("rc") == KILLED and "module_stdout" in first:
        return (
            "the module was killed on the host, as the kernel does where memory is short; see `journalctl -k` there, "
            f"and run again (at '{task}')"
        )
    return f"{_line(first.get('msg') or 'no message')} (at '{task}')"


def unreachable(variables: Mapping[str, Any]) -> str:
    """What the connection said when the host was lost, where a task had registered it; empty where none had.

    What a loop has registered may be of other hosts, which it was delegated to.
    """
    told = [value for value in variables.values() if isinstance(value, Mapping) and "results" not in value]
    lost = [value for value in told if value.get("unreachable")]
    return f"it does not answer: {_line(lost[-1].get('msg') or 'no message')}" if lost else ""


def _line(text: Any) -> str:
    line = " ".join(str(text).split()).removeprefix("Task failed: ")
    return line if len(line) <= LONGEST else f"{line[: LONGEST - END]} ... {line[-END:]}"


def too_many(lost: Mapping[str, str], max_lost: Any, total: int) -> str | None:
    """The sentence that ends a run which has lost more hosts than it may; None where it goes on."""
    allowed = limit(max_lost, total)
    if len(lost) <= allowed:
        return None
    return (
        f"{len(lost)} of {total} host{'s are' if len(lost) > 1 else ' is'} lost ({', '.join(sorted(lost))}), and "
        f"trtllm_max_lost allows {allowed} ({max_lost}); nothing is done on the others from here on. Mend them, leave "
        "them out with --limit, or raise trtllm_max_lost."
    )
