# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a rollout goes on after a batch, from what became of all hosts of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from .options import count_of

# failed: it went back; broken: it could not even do that; returned: it passed, and went back with its batch.
PASSED, FAILED, BROKEN, RETURNED, LOST = "passed", "failed", "broken", "returned", "lost"
# Nothing served that changed; or the host only builds, for others.
STARTED, BUILT = "started", "built"
# Nothing changed but that replicas went which are not described.
REMOVED = "removed"


@dataclass(frozen=True)
class Verdict:
    """*roll_back*: the hosts of the batch that still have to go back. *end*: why no batch follows, or ""."""

    failed: Sequence[str]
    lost: Sequence[str]
    roll_back: Sequence[str]
    end: str


def judge(
    batch: Sequence[str],
    outcomes: Mapping[str, str],
    failed_before: int,
    max_failed: Any,
    together: Optional[Mapping[str, Sequence[str]]] = None,
) -> Verdict:
    """Judge a batch. A host without an outcome is lost: it stopped answering on the way.

    A host that failed was rolled back already. While no more than *max_failed* of the whole rollout have failed, the
    others of its batch stay and the rollout goes on; beyond that the whole batch goes back. Lost hosts are counted
    elsewhere (``trtllm_max_lost``).

    *together*: by host those that can only go back together, nodes of one replica. One of these that failed was not
    rolled back yet, and goes back with the others whatever may fail.
    """
    allowed = count_of(max_failed, "rollout_max_failed", "hosts")
    state = {host: outcomes.get(host, LOST) for host in batch}
    failed = [host for host in batch if state[host] in (FAILED, BROKEN)]
    lost = [host for host in batch if state[host] == LOST]
    groups = [group for host in failed for group in [(together or {}).get(host, ())] if len(group) > 1]
    nodes = [host for host in batch if any(host in group for group in groups) and state[host] != LOST]
    if not failed or failed_before + len(failed) <= allowed:
        return Verdict(failed, lost, nodes, "")
    passed = [host for host in batch if state[host] == PASSED]
    total = failed_before + len(failed)
    back = [host for host in failed if state[host] == FAILED or host in nodes]
    broken = [host for host in failed if host not in back]
    told = [
        f"{', '.join(broken)} failed and could not go back" if broken else "",
        f"{', '.join(back)} failed and {'is' if len(back) == 1 else 'are'} rolled back" if back else "",
        f"{', '.join(passed)} of the same batch {'goes' if len(passed) == 1 else 'go'} back too" if passed else "",
        f"{total} failed in all, and rollout_max_failed allows {allowed}",
    ]
    end = f"{'; '.join(filter(None, told))}. Mend what failed and run the rollout again: it goes on from here."
    return Verdict(failed, lost, [host for host in batch if host in passed or host in nodes], end)
