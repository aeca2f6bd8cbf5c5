# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pruning did on each host, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._base.sizes import gib
from .._base.tables import columns

HEAD = ("host", "what", "kind", "name", "size", "why")


def prune_table(found: Mapping[str, Mapping[str, Any]], whole: bool = False) -> list[str]:
    """What goes from each host, with *whole* what stays as well and why, and how many bytes that frees."""
    rows = [HEAD]
    sums = []
    for host, told in sorted(found.items()):
        lists = [("removed", told["removed"]), ("kept", told["kept"] if whole else [])]
        for what, things in lists:
            rows += [
                (host, what, thing["kind"], thing["name"], gib(thing["size"]), thing.get("why", "nothing names it"))
                for thing in things
            ]
        if told["reason"]:
            sums.append(f"{host}: nothing is removed, as {told['reason']}.")
        elif told["removed"]:
            sums.append(f"{host}: {len(told['removed'])} removed, {gib(told['freed'])}; {len(told['kept'])} kept.")
    lines = columns(rows) if len(rows) > 1 else []
    return [*lines, *sums] or ["Nothing is to be removed."]
