# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ports a replica listens on: the one rule, for the plan of a fleet and for a role used alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._errors import FleetError

# The order is that of the offsets: a replica's ports are three in a row where nothing else is said.
PORTS = (("http_port", "HTTP"), ("grpc_port", "gRPC"), ("metrics_port", "metrics"))
PORT_BASE, PORTS_PER_REPLICA = 8000, 10


def give_ports(replicas: Sequence[dict[str, Any]], base: int = PORT_BASE) -> None:
    """Fill in the ports that are not given, and refuse one given twice.

    gRPC and metrics follow a given HTTP port; else a replica gets the next ten ports from *base* on that none of
    those given is in.
    """
    taken = {int(replica[key]) for replica in replicas for key, _what in PORTS if replica.get(key) is not None}
    for replica in replicas:
        missing = {key: offset for offset, (key, _what) in enumerate(PORTS) if replica.get(key) is None}
        first = replica.get("http_port")
        if missing and (first is None or taken & {int(first) + offset for offset in missing.values()}):
            while taken & {base + offset for offset in range(len(PORTS))}:
                base += PORTS_PER_REPLICA
            first = base
        replica.update({key: int(first) + offset for key, offset in missing.items() if first is not None})
        taken |= {int(replica[key]) for key in missing}
    _refuse_conflicts(replicas)


def _refuse_conflicts(replicas: Sequence[Mapping[str, Any]]) -> None:
    seen: dict[int, str] = {}
    for replica in replicas:
        for key, _what in PORTS:
            port, owner = int(replica[key]), f"{replica['name']}.{key}"
            if not 1 <= port <= 65535:
                raise FleetError(f"{owner} is {port}; a port is a number from 1 to 65535.")
            if port in seen:
                raise FleetError(f"Port {port} is given to {seen[port]} and to {owner}; give each a port of its own.")
            seen[port] = owner
