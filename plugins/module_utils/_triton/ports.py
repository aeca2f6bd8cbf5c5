# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ports a replica listens on: the one rule, for the plan of a fleet and for a role used alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from .._base.errors import FleetError

# The order is that of the offsets: a replica's ports are three in a row where nothing else is said.
PORTS = (("http_port", "HTTP"), ("grpc_port", "gRPC"), ("metrics_port", "metrics"))
PORT_BASE, PORTS_PER_REPLICA = 8000, 10


# How Triton is told, in the command of a unit.
# trtllm-serve has one port, and calls it so.
FLAG = re.compile(r"--(?:(http|grpc|metrics)-)?port=(\d+)")

# By the name of a replica, the port of each kind.
Held = Mapping[str, Mapping[str, int]]


def held_ports(units: Mapping[str, str], prefix: str) -> dict[str, dict[str, int]]:
    """The ports that replicas have, from the texts of the units of a host: the unit decides what serves, and is
    there when the release record is lost."""
    found: dict[str, dict[str, int]] = {}
    for service, text in units.items():
        commands = [line for line in text.splitlines() if line.startswith(("Exec=", "ExecStart="))]
        ports = {f"{kind or 'http'}_port": int(port) for kind, port in FLAG.findall("\n".join(commands))}
        if len(ports) in (1, len(PORTS)):
            found[service.removeprefix(prefix)] = ports
    return found


def assign_ports(replicas: Sequence[dict[str, Any]], base: int = PORT_BASE, held: Optional[Held] = None) -> None:
    """Fill in the ports that are not given, and refuse one given twice.

    A replica keeps the ports that it holds. Else gRPC and metrics follow a given HTTP port, or it gets the next ten
    ports from *base* on that no replica was given, holds, or held last under a name that is not described any more.
    """
    held = held or {}
    kept: dict[str, set[str]] = {}
    claimed: set[int] = set()
    for replica in replicas:
        name = str(replica["name"])
        own = held.get(name, {})
        # The unit of a stopped replica may name the ports of another; the first keeps them.
        kept[name] = _keep(replica, {} if claimed & set(own.values()) else own)
        claimed |= {int(replica[key]) for key in kept[name]}
    taken = {int(replica[key]) for replica in replicas for key, _what in PORTS if replica.get(key) is not None}
    reserved = {port for ports in held.values() for port in ports.values()}
    for replica in replicas:
        missing = {key: offset for offset, (key, _what) in enumerate(PORTS) if replica.get(key) is None}
        first = replica.get("http_port")
        if missing and (first is None or taken & {int(first) + offset for offset in missing.values()}):
            while (taken | reserved) & {base + offset for offset in range(len(PORTS))}:
                base += PORTS_PER_REPLICA
            first = base
        replica.update({key: int(first) + offset for key, offset in missing.items() if first is not None})
        taken |= {int(replica[key]) for key in missing}
    _refuse_conflicts(replicas, kept)


def _keep(replica: dict[str, Any], own: Mapping[str, int]) -> set[str]:
    """Give a replica what it holds and was not given; returns which. One that moves to another HTTP port keeps none."""
    given = {key: int(replica[key]) for key, _what in PORTS if replica.get(key) is not None}
    kept = {key: port for key, port in own.items() if key not in given}
    if given.get("http_port", own.get("http_port")) != own.get("http_port") or set(kept.values()) & set(given.values()):
        return set()
    replica.update(kept)
    return set(kept)


def _refuse_conflicts(replicas: Sequence[Mapping[str, Any]], kept: Mapping[str, set[str]]) -> None:
    seen: dict[int, tuple[str, str]] = {}
    for replica in replicas:
        for key, _what in PORTS:
            port, owner = int(replica[key]), (str(replica["name"]), key)
            if not 1 <= port <= 65535:
                raise FleetError(f"{'.'.join(owner)} is {port}; a port is a number from 1 to 65535.")
            if port in seen:
                raise FleetError(_conflict(port, seen[port], owner, kept))
            seen[port] = owner


def _conflict(port: int, one: tuple[str, str], other: tuple[str, str], kept: Mapping[str, set[str]]) -> str:
    for holder, wants in ((one, other), (other, one)):
        if holder[1] in kept[holder[0]] and wants[1] not in kept[wants[0]]:
            return (
                f"Port {port} is given to {'.'.join(wants)}, but {holder[0]} has it on this host, as its {holder[1]}; "
                f"give {wants[0]} another port, or {holder[0]} one of its own."
            )
    return f"Port {port} is given to {'.'.join(one)} and to {'.'.join(other)}; give each a port of its own."
