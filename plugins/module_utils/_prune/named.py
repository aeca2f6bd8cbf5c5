# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What names things on a host: units, the last releases of each service, containers, builds and transfers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .._artifact.transfer_unit import TransferUnit
from .._base.errors import FleetError
from .._base.names import DEFAULT_RELEASES
from .._podman import stock
from .._rollout.state import RolloutState
from .._service.host import ServiceHost
from .._service.record import Entry, ReleaseRecord
from .._service.units import PLACES, unit_files, unit_text
from .._triton.held import gateway_config
from .rule import Names


def release_directories(host: ServiceHost, root: Path) -> list[Path]:
    """Where release records are: a gateway keeps its own below the default root, whatever that of the fleet is."""
    found = dict.fromkeys([root / "releases", Path(DEFAULT_RELEASES)])
    return [directory for path in found if (directory := host.path(str(path))).is_dir()]


def records(host: ServiceHost, root: Path) -> Iterator[tuple[str, ReleaseRecord]]:
    """Each service that has a record."""
    for directory in release_directories(host, root):
        for path in sorted(directory.glob("*.jsonl")):
            yield path.stem, ReleaseRecord(directory, path.stem)


def names_on(host: ServiceHost, root: Path, keep: int, described: Sequence[str]) -> Names:
    """All that is named on the host, and by the description."""
    found = Names()
    for text in described:
        found.add("the description names it", text)
    for path, text in _units(host):
        found.add(f"{path} names it", text)
    found.add("the gateway's configuration names it", gateway_config(host))
    for service, record in records(host, root):
        now = unit_text(unit_files(host, service))
        for line in record.last(keep, now):
            found.add(f"the release of {line['time']} of {service} names it", json.dumps(line))
    for service, line in _unsettled(host, root):
        found.add(f"a rollout of {service} that was interrupted would go back to it", json.dumps(line))
    for name, text in stock.containers().items():
        found.add(f"the container {name} uses it", text, lasts=False)
    for job in sorted(host.path(str(root / "jobs")).glob("*/*")):
        # A build makes the partial of its engine.
        named = f"{job.name} {job.name}.partial {text_of(job / 'spec.json')}"
        found.add("a build works on it", named, lasts=False)
    for fingerprint in _transferred(host, root):
        found.add("it is being transferred", f"{fingerprint} {fingerprint}.incoming", lasts=False)
    return found


def _units(host: ServiceHost) -> Iterator[tuple[str, str]]:
    """Every unit, drop-in and socket beside which ours stand, whoever wrote it."""
    for place, _suffix in PLACES:
        for directory, _directories, files in os.walk(host.path(place)):
            for file in sorted(files):
                path = Path(directory, file)
                yield f"/{path.relative_to(host.path('/'))}", text_of(path)


def _unsettled(host: ServiceHost, root: Path) -> Iterator[tuple[str, Entry]]:
    known = dict(records(host, root))
    for service, sha256 in RolloutState(host.path(str(root))).unsettled().items():
        line = known[service].served(sha256) if service in known and sha256 else None
        if line is not None:
            yield service, line


def _transferred(host: ServiceHost, root: Path) -> Iterator[str]:
    """The artefacts that a transfer works on or hands out now."""
    for path in sorted(host.path(str(root / "transfers")).glob("*/spec.json")):
        spec = _json(text_of(path))
        try:
            unit = TransferUnit(str(root), str(spec["kind"]), str(spec["name"]), str(spec["fingerprint"]))
        except (FleetError, KeyError):
            continue
        if unit.running():
            yield unit.fingerprint


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def text_of(path: Path) -> str:
    """What a file says; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
