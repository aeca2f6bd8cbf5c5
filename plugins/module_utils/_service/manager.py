# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Container services of one host: make the units be what is described, and only what changed is restarted.

A service counts as started when systemd says so, which (with ``Notify=healthy``) is when its health probe
passed. One that does not come up is taken back to the unit that it had before, and the error quotes its
journal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from . import quadlet
from .apply import Applier
from .host import ServiceHost
from .plan import Planner
from .types import Planned, Service, Settings
from .units import socket_text


class ServiceManager:
    """Brings the services of a host to what is described: planned first, after all refusals, and then done."""

    def __init__(self, host: ServiceHost, settings: Settings) -> None:
        self._planner = Planner(host, settings)
        self._applier = Applier(host, settings)

    @property
    def notes(self) -> list[str]:
        """What the operator should know beside the result."""
        return [*self._planner.notes, *self._applier.notes]

    @property
    def stale(self) -> list[str]:
        """Services of the prefix that are there and not described."""
        return self._planner.stale

    def plan(self, services: Sequence[Service], absent: Sequence[str] = ()) -> list[Planned]:
        """See `Planner.plan`."""
        return self._planner.plan(services, absent)

    def plan_rollback(self, names: Sequence[str], to: Optional[Mapping[str, str]] = None) -> list[Planned]:
        """See `Planner.plan_rollback`."""
        return self._planner.plan_rollback(names, to)

    def apply(self, planned: Sequence[Planned]) -> dict[str, dict[str, Any]]:
        """See `Applier.apply`."""
        return self._applier.apply(planned)

    def outcomes(self, planned: Sequence[Planned]) -> dict[str, dict[str, Any]]:
        """See `Applier.outcomes`."""
        return self._applier.outcomes(planned)

    @staticmethod
    def diff(planned: Sequence[Planned]) -> list[dict[str, str]]:
        """Before and after of all that changes, as Ansible shows them."""
        return [diff for item in planned for diff in _diffs(item)]


def _diffs(item: Planned) -> Iterator[dict[str, str]]:
    if item.file_changes:
        yield {
            "before": item.old_text,
            "after": item.new_text,
            "before_header": next(iter(item.before), item.name),
            "after_header": item.new_path or f"{item.name} (removed)",
        }
        old, new = socket_text(item.before), item.rendered.socket if item.rendered else ""
        if old != new:
            path = quadlet.socket_path(item.name)
            yield {"before": old, "after": new, "before_header": path, "after_header": path}
    for path, text in item.files.items():
        yield {"before": "", "after": text, "before_header": path, "after_header": path}
    for path, text in item.live_files.items():
        yield {"before": item.live_before[path] or "", "after": text, "before_header": path, "after_header": path}
    if item.differences:
        yield {
            "before": "".join(f"{difference.runs}\n" for difference in item.differences),
            "after": "".join(f"{difference.wanted}\n" for difference in item.differences),
            "before_header": f"{item.name} as it runs",
            "after_header": f"{item.name} as its unit says",
        }
    if item.record_again:
        yield {
            "before": "",
            "after": json.dumps(item.record, indent=2, sort_keys=True) + "\n",
            "before_header": f"{item.name} in the release record",
            "after_header": f"{item.name} in the release record",
        }
