# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The RDMA devices of a host (InfiniBand, RoCE, EFA), as the kernel shows them below /sys/class/infiniband."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Optional

from .system import System

CLASS, VERBS = "/sys/class/infiniband", "/sys/class/infiniband_verbs"
# What a program talks to a device through, and to the manager of all connections.
NODES, MANAGER = "/dev/infiniband", "/dev/infiniband/rdma_cm"
_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def read(system: System, specs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``devices`` and ``manager``, the node of the connection manager, empty where there is none.

    *specs* are the CDI specifications of `cdi.read`: they say by which names a device can be handed to a container.
    """
    verbs = {system.text(f"{VERBS}/{name}/ibdev"): f"{NODES}/{name}" for name in system.names(VERBS)}
    found = []
    for name in system.names(CLASS):
        node = verbs.get(name, "")
        there = [node] if node and system.exists(node) else []
        address = system.link_name(f"{CLASS}/{name}/device") or ""
        found.append(
            {
                "name": name,
                "pci_address": address if _PCI.fullmatch(address) else None,
                "nodes": there,
                "cdi": [device for spec in specs for device, nodes in spec["nodes"].items() if node and node in nodes],
                "ports": [_port(system, name, port) for port in system.names(f"{CLASS}/{name}/ports")],
                "interfaces": system.names(f"{CLASS}/{name}/device/net"),
                "numa_node": _number(system.text(f"{CLASS}/{name}/device/numa_node")),
            }
        )
    return {"devices": found, "manager": MANAGER if system.exists(MANAGER) else ""}


def _port(system: System, device: str, port: str) -> dict[str, Any]:
    """``state`` is ``4: ACTIVE`` in the kernel's words."""
    where = f"{CLASS}/{device}/ports/{port}"
    return {
        "port": _number(port),
        "state": (system.text(f"{where}/state") or "").partition(": ")[2],
        "link_layer": system.text(f"{where}/link_layer") or "",
        "rate": system.text(f"{where}/rate") or "",
    }


def _number(text: Optional[str]) -> Optional[int]:
    """-1 is the kernel's word for none."""
    return int(text) if text and text.isdigit() else None
