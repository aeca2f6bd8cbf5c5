# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who listens on a TCP port of this host, from /proc alone: a host needs no ss or lsof for it."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Optional

LISTEN = "0A"  # include/net/tcp_states.h


class Listener(NamedTuple):
    """A listening socket: its address in the usual notation, port and inode."""

    address: str
    port: int
    inode: int


class Owner(NamedTuple):
    """The process behind a socket; *unit* is the systemd unit in whose cgroup it runs, if any."""

    pid: int
    name: str
    unit: Optional[str]

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid}{', ' + self.unit if self.unit else ''})"


def listeners(proc: Path = Path("/proc")) -> list[Listener]:
    """Every listening TCP socket of the network namespace that this process is in."""
    found: list[Listener] = []
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in lines:
            words = line.split()
            if words[3] == LISTEN:
                address, _colon, port = words[1].partition(":")
                found.append(Listener(_address(address), int(port, 16), int(words[9])))
    return found


def _address(digits: str) -> str:
    """``0100007F`` -> ``127.0.0.1``: 32-bit words of the kernel, each in the machine's byte order."""
    words = [bytes.fromhex(digits[start : start + 8])[::-1] for start in range(0, len(digits), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def overlap(wanted: str, listening: str) -> bool:
    """Whether a server could not bind *wanted* while another listens on *listening*."""
    left, right = ipaddress.ip_address(wanted), ipaddress.ip_address(listening)
    if left == right:
        return True
    mapped = right.ipv4_mapped if isinstance(right, ipaddress.IPv6Address) else None
    if left == mapped:
        return True
    # The IPv6 wildcard takes IPv4 too, as both are bound with the kernel's defaults.
    return any(
        one.is_unspecified and (one.version == 6 or other.version == 4) for one, other in ((left, right), (right, left))
    )


def conflicts(address: str, port: int, among: Iterable[Listener]) -> list[Listener]:
    """The sockets that keep a server from listening on *address* and *port*."""
    return [socket for socket in among if socket.port == port and overlap(address, socket.address)]


def owners(inodes: Iterable[int], proc: Path = Path("/proc")) -> dict[int, Owner]:
    """The owner of each socket inode; a socket of a process that we may not look into is left out."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, Owner] = {}
    if not wanted:
        return found
    for entry in sorted(proc.iterdir(), key=lambda path: path.name):
        if not entry.name.isdigit():
            continue
        for link in _links(entry / "fd"):
            inode = wanted.get(link)
            if inode is not None and inode not in found:
                found[inode] = Owner(int(entry.name), _read(entry / "comm"), unit_of(_read(entry / "cgroup")))
    return found


def _links(directory: Path) -> list[str]:
    links: list[str] = []
    try:
        names = os.listdir(directory)
    except OSError:  # the process is gone, or not ours to look into
        return links
    for name in names:
        try:
            links.append(os.readlink(directory / name))
        except OSError:
            continue
    return links


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def unit_of(cgroup: str) -> Optional[str]:
    """The innermost service or scope of systemd that ``/proc/PID/cgroup`` tells of."""
    named: list[str] = re.findall(r"/([^/\n]+\.service)(?=/|$)", cgroup, re.M)
    return named[-1] if named else None
