# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who listens on a TCP port of this host, and who is connected to one, from /proc alone: no ss or lsof is needed."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Optional

LISTEN, ESTABLISHED = "0A", "01"  # include/net/tcp_states.h


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
    return [
        Listener(_address(local), port, inode)
        for state, local, port, _remote, inode in _sockets(proc)
        if state == LISTEN
    ]


def connected(ports: Iterable[int], proc: Path = Path("/proc")) -> set[str]:
    """The addresses of all others that are connected to one of *ports*; the host itself is not among them."""
    wanted = set(ports)
    return {
        str(getattr(ipaddress.ip_address(peer), "ipv4_mapped", None) or peer)
        for state, local, port, remote, _inode in _sockets(proc)
        if state == ESTABLISHED and port in wanted and remote != local
        for peer in [_address(remote)]
    }


def _sockets(proc: Path) -> Iterator[tuple[str, str, int, str, int]]:
    """Of every TCP socket its state, address and port, the other side's address, both as the kernel writes them, and
    its inode.
    """
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in lines:
            words = line.split()
            address, _colon, port = words[1].partition(":")
            yield words[3], address, int(port, 16), words[2].partition(":")[0], int(words[9])


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
