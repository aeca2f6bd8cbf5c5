# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a rollout stands when it ends: what became of each host, and what is left to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .._base.tables import columns
from .._service.types import DONE, NONE, RESTART, START
from .verdict import BROKEN, BUILT, FAILED, LOST, PASSED, REMOVED, RETURNED, STARTED

HEAD = ("batch", "host", "outcome", "seconds", "why")
WAITING = "waiting"
# By outcome how the operator is told of it, in the order of the last line.
OUTCOMES = {
    PASSED: "passed",
    STARTED: "started",
    BUILT: "built for others",
    REMOVED: "rid of replicas",
    FAILED: "failed and rolled back",
    RETURNED: "rolled back with its batch",
    BROKEN: "failed and not rolled back",
    LOST: "lost",
    WAITING: "not changed yet",
}
# By what was done with the service of a gateway, what a rollout does and did.
RELOADED = ("read again", "read again")
GATEWAYS = {DONE[RESTART]: (RESTART, DONE[RESTART]), DONE[START]: (START, DONE[START]), DONE[NONE]: RELOADED}


def gateways(found: Mapping[str, Mapping[str, Any]], check: bool = False) -> list[str]:
    """The lines for gateways that change; *found*: by host action and reason of its service, as far as they are known.

    Without a restart a gateway reads its configuration again. *check*: nothing was done yet.
    """
    rows = [
        (host, GATEWAYS[str(service["action"])][0 if check else 1], str(service["reason"]))
        for host, service in found.items()
        if service.get("reason") and service.get("action") in GATEWAYS
    ]
    return columns([("gateway", "what" if check else "outcome", "why"), *rows]) if rows else []


def summary(
    rollout: str,
    batches: Sequence[Sequence[str]],
    started: Sequence[str],
    hosts: Mapping[str, Mapping[str, Any]],
    stale: Sequence[str] = (),
) -> list[str]:
    """The lines for *rollout* (its id). *hosts*: by host its outcome, seconds and why.

    *stale*: the hosts on which nothing changes but that replicas are removed.

    No outcome (None) is that of a host whose batch did not begin; an empty one of a host that was lost in its batch.
    """
    planned = [("-", host, LOST) for host in started]
    planned += [(str(number), host, WAITING) for number, batch in enumerate(batches, 1) for host in batch]
    planned += [("-", host, WAITING) for host in stale]
    rows = [HEAD]
    counts: Counter[str] = Counter()
    for label, host, otherwise in planned:
        found = hosts.get(host, {})
        outcome = found.get("outcome")
        words = OUTCOMES[otherwise if outcome is None else str(outcome) or LOST]
        counts[words] += 1
        why = " ".join(str(found.get("why") or "").split())
        rows.append((label, host, words, str(found.get("seconds") or ""), why))
    if not planned:
        return [f"Rollout {rollout}: no host had to be changed."]
    totals = ", ".join(f"{counts[words]} {words}" for words in OUTCOMES.values() if counts[words])
    rest = (
        ""
        if set(counts) <= {OUTCOMES[word] for word in (PASSED, STARTED, BUILT, REMOVED)}
        else " Run it again to go on from here."
    )
    return [*columns(rows), f"Rollout {rollout}: {totals}.{rest}"]
