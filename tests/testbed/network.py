# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts' network."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from pathlib import Path
from typing import Any

from . import outer
from .errors import TestbedError
from .settings import LABEL, NETWORK, Settings

# podman's default network: hosts have one of their own inside, with the same subnet
NESTED = ipaddress.IPv4Network("10.88.0.0/16")
INTERFACES = Path("/sys/class/net")
GIVEN = "3"  # addr_assign_type of an interface whose address was set by hand: NET_ADDR_SET of linux/netdevice.h


def mac(ip: str) -> str:
    """A locally administered MAC address for an IPv4 address."""
    return "02:42:" + ":".join(f"{int(part):02x}" for part in ip.split("."))


def ensure(settings: Settings, client: Any) -> None:
    """Make the network if it is not there. Raises TestbedError if its subnet is used otherwise."""
    for network in client.networks.list(names=[NETWORK]):
        subnet = network.attrs["IPAM"]["Config"][0]["Subnet"]
        if subnet != str(settings.subnet):
            raise TestbedError(
                f"the test hosts' network has the subnet {subnet}, not {settings.subnet}; unset TRTLLM_TESTBED_SUBNET "
                "or run `testbed down --all` with the old one first."
            )
        return
    clash = clashing(settings.subnet, _routes())
    if clash:
        raise TestbedError(
            f"{settings.subnet}, the test hosts' subnet, overlaps with {clash} of this machine; give another in "
            "TRTLLM_TESTBED_SUBNET."
        )
    # the CLI: the API of podman 4.3 has no way to give the gateway and the mtu
    mtu = outer.machine().mtu
    options = [] if mtu == 1500 else ["--opt", f"mtu={mtu}"]
    outer.podman(
        settings, "network", "create", "--label", f"{LABEL}=network", "--subnet", str(settings.subnet),
        "--gateway", settings.gateway, *options, NETWORK,
    )  # fmt: skip


def keep_address(settings: Settings) -> None:
    """Give the machine's end of the network a MAC address of its own, once the first host has made it.

    A bridge without one takes the lowest of its ports', so that with each host that comes or goes it may be another:
    what the other hosts know of the machine is wrong then, and their connections to it stand still for up to a minute.
    """
    for interface in _asked(["addr", "show", "to", settings.gateway]):
        name = interface["ifname"]
        if (INTERFACES / name / "addr_assign_type").read_text(encoding="ascii").strip() != GIVEN:
            subprocess.run(["ip", "link", "set", "dev", name, "address", mac(settings.gateway)], check=True)


def remove(client: Any) -> None:
    """Remove the network, if it is there."""
    for network in client.networks.list(names=[NETWORK]):
        network.remove()


def clashing(subnet: ipaddress.IPv4Network, routes: list[dict[str, str]]) -> str | None:
    """The first route ("10.0.0.0/8 on eth0") that overlaps with the subnet, or None."""
    if subnet.overlaps(NESTED):
        return f"{NESTED}, podman's default inside the hosts,"
    for route in routes:
        if route["dst"] == "default":
            continue
        if subnet.overlaps(ipaddress.IPv4Network(route["dst"], strict=False)):
            return f"{route['dst']} on {route.get('dev', 'another interface')}"
    return None


def _routes() -> list[dict[str, str]]:
    return _asked(["route"])


def _asked(question: list[str]) -> list[dict[str, str]]:
    output = subprocess.run(["ip", "-4", "-json", *question], text=True, capture_output=True, check=False).stdout
    answer: list[dict[str, str]] = json.loads(output or "[]")
    return answer
