# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a report on the fleet says in numbers: as a node exporter reads it from its textfile directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

PREFIX = "trtllm_fleet"


def metrics(report: Mapping[str, Any], now: float) -> str:
    """The text of *report*, which was made *now* (seconds of the epoch)."""
    return "\n".join(_lines(report, now)) + "\n"


def _lines(report: Mapping[str, Any], now: float) -> Iterator[str]:
    yield from _metric("report_timestamp_seconds", "When the fleet was looked at.", [({}, now)])
    hosts = [({"host": host["name"], "state": host["state"]}, 1.0) for host in report["hosts"]]
    yield from _metric("host", "Hosts by their state.", hosts)
    found = Counter((one["host"], one["about"], one["severity"]) for one in report["attention"])
    findings = [
        ({"host": host, "about": about or host or "the fleet", "severity": severity}, float(count))
        for (host, about, severity), count in sorted(found.items())
    ]
    yield from _metric("findings", "What somebody should look at.", findings)


def _metric(name: str, text: str, samples: list[tuple[Mapping[str, Any], float]]) -> Iterator[str]:
    yield f"# HELP {PREFIX}_{name} {text}"
    yield f"# TYPE {PREFIX}_{name} gauge"
    for labels, value in samples:
        told = ",".join(f'{key}="{_escaped(str(item))}"' for key, item in labels.items())
        yield f"{PREFIX}_{name}{'{' + told + '}' if told else ''} {value:.3f}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
