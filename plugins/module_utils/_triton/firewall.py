# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who reaches Triton's ports: a table of nftables of our own, beside whatever other rules a host has.

The table holds one chain, which says nothing of any port but Triton's. It is replaced in one transaction, and a unit
loads it at boot. A packet passes only what all tables of a host accept, so a firewall of the operator's stays as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

from .._base.command import Answer, find, run_command
from .._base.errors import FleetError
from .._base.files import remove, write_atomically
from .._base.names import show
from .._base.ports import connected
from .ports import PORTS

TABLE = "trtllm_fleet"
SERVICE = "trtllm-firewall.service"
RULES_FILE = "/etc/trtllm/firewall.nft"
UNIT_FILE = f"/etc/systemd/system/{SERVICE}"
# What tells the connection of a session to every process in it.
SSH = ("SSH_CONNECTION", "SSH_CLIENT")
# From a module to the process that sshd has started, at most.
PARENTS = 30

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
Run = Callable[[Sequence[str]], Answer]


class Files(NamedTuple):
    """What is written: the rules, and the unit that loads them."""

    rules: str
    unit: str


def networks(given: Iterable[Any], what: str) -> list[Network]:
    """Addresses and networks, each once, and the same in each run; raises `FleetError`."""
    found = []
    for one in given:
        try:
            network = ipaddress.ip_network(str(one), strict=False)
        except ValueError as error:
            raise FleetError(
                f"{what} has {show(one)}; give addresses such as 10.0.0.5 and networks such as 10.0.0.0/24."
            ) from error
        found.append(_plain(network))
    four = [one for one in found if isinstance(one, ipaddress.IPv4Network)]
    six = [one for one in found if isinstance(one, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]


def _plain(network: Network) -> Network:
    """An IPv4 address that is written as one of IPv6, as ssh may have it."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return ipaddress.ip_network(mapped) if mapped and network.prefixlen == 128 else network


def rules(ports: Iterable[int], allowed: Sequence[Network]) -> tuple[str, str]:
    """The rules, as ``nft -f`` takes them, and the name of their chain, which follows from them."""
    own = f"tcp dport {{ {', '.join(str(port) for port in sorted(set(ports)))} }}"
    lines = ['iif "lo" accept']
    for family, version in (("ip", 4), ("ip6", 6)):
        found = [str(network) for network in allowed if network.version == version]
        if found:
            lines.append(f"{own} {family} saddr {{ {', '.join(found)} }} accept")
    lines.append(f"{own} counter reject with tcp reset")
    body = "".join(f"        {line}\n" for line in lines)
    chain = f"triton_{hashlib.sha256(body.encode()).hexdigest()[:12]}"
    text = (
        "# Written by Ansible: the role trtllm.fleet.triton.\n"
        # Removing what may not be there is an error, unless it is made first.
        f"table inet {TABLE}\ndelete table inet {TABLE}\n"
        f"table inet {TABLE} {{\n    chain {chain} {{\n"
        "        type filter hook input priority -10; policy accept;\n"
        f"{body}    }}\n}}\n"
    )
    return text, chain


def unit(nft: str) -> str:
    """The unit that loads the rules at boot, and again whenever the system's own service has flushed all rules."""
    return (
        "# Written by Ansible: the role trtllm.fleet.triton.\n"
        "[Unit]\n"
        "Description=Who reaches Triton's ports\n"
        "DefaultDependencies=no\n"
        "Wants=network-pre.target\n"
        "Before=network-pre.target shutdown.target\n"
        "Conflicts=shutdown.target\n"
        "After=nftables.service\n"
        "PartOf=nftables.service\n"
        "ReloadPropagatedFrom=nftables.service\n\n"
        "[Service]\n"
        "Type=oneshot\n"
        "RemainAfterExit=yes\n"
        f"ExecStart={nft} -f {RULES_FILE}\n"
        f"ExecReload={nft} -f {RULES_FILE}\n"
        f"ExecStop=-{nft} delete table inet {TABLE}\n\n"
        "[Install]\n"
        "WantedBy=sysinit.target\n"
    )


def ports_of(replicas: Iterable[Mapping[str, Any]]) -> list[int]:
    """All ports on which clients ask these replicas; a worker of a replica on several hosts has none."""
    found = {int(replica[key]) for replica in replicas for key, _what in PORTS if replica.get(key) is not None}
    return sorted(found)


def controller(proc: Path = Path("/proc"), process: Optional[int] = None) -> Optional[str]:
    """The address from which Ansible has come to this host over ssh; None where it is the host itself.

    Programs such as sudo take it from the environment, but not from that of the processes before them.
    """
    current = os.getpid() if process is None else process
    for _parent in range(PARENTS):
        with contextlib.suppress(OSError):
            for entry in (proc / str(current) / "environ").read_bytes().split(b"\0"):
                name, _sign, value = entry.decode("utf-8", "replace").partition("=")
                if name in SSH and value.split():
                    return value.split()[0]
        try:
            current = int((proc / str(current) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return None
        if current < 2:
            return None
    return None


class Firewall:
    """The rules of one host; *root* and *run* are the host's own but in tests."""

    def __init__(self, root: Path = Path("/"), run: Run = run_command) -> None:
        self.root, self.run = root, run

    def files(self) -> Files:
        """What is written by now; empty texts where nothing is."""
        return Files(self._read(RULES_FILE), self._read(UNIT_FILE))

    def _path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def _read(self, name: str) -> str:
        try:
            return self._path(name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def close(
        self, ports: Sequence[int], allowed: Sequence[Network], cuts: bool, check: bool
    ) -> tuple[bool, Files, Files]:
        """Let only *allowed* reach *ports*: whether that changes something, and the files before and after it.

        Raises `FleetError`, with nothing changed, where somebody else is connected and *cuts* is not asked for.
        """
        nft = find("nft") if self.root == Path("/") else "/usr/sbin/nft"
        if nft is None:
            raise FleetError(
                "The host has no nft, which closes Triton's ports; install its package nftables, or leave "
                "triton_firewall at unmanaged."
            )
        text, chain = rules(ports, allowed)
        before, after = self.files(), Files(text, unit(nft))
        loaded = self.run(["nft", "list", "chain", "inet", TABLE, chain]).rc == 0
        if before == after and loaded and self._enabled():
            return False, before, after
        if not cuts:
            self._refuse_to_cut(ports, allowed)
        if not check:
            self._write(before, after)
        return True, before, after

    def _write(self, before: Files, after: Files) -> None:
        trial = self._path(f"{RULES_FILE}.new")
        write_atomically(trial, after.rules.encode(), 0o600)
        try:
            self._do(["nft", "--check", "--file", str(trial)])
        finally:
            remove(trial)
        write_atomically(self._path(RULES_FILE), after.rules.encode(), 0o600)
        if before.unit != after.unit:
            write_atomically(self._path(UNIT_FILE), after.unit.encode())
            self._do(["systemctl", "daemon-reload"])
        self._do(["systemctl", "enable", "--quiet", SERVICE])
        self._do(["systemctl", "reload-or-restart", SERVICE])

    def open(self, check: bool) -> tuple[bool, Files, Files]:
        """Take the rules away: whether there were any, and the files before and after it."""
        before, after = self.files(), Files("", "")
        loaded = self.run(["nft", "list", "table", "inet", TABLE]).rc == 0
        changed = before != after or loaded
        if changed and not check:
            if before.unit:
                self._do(["systemctl", "disable", "--quiet", "--now", SERVICE])
            if self.run(["nft", "list", "table", "inet", TABLE]).rc == 0:
                self._do(["nft", "delete", "table", "inet", TABLE])
            for name in (UNIT_FILE, RULES_FILE):
                remove(self._path(name))
            self._do(["systemctl", "daemon-reload"])
        return changed, before, after

    def _enabled(self) -> bool:
        return all(self.run(["systemctl", asked, "--quiet", SERVICE]).rc == 0 for asked in ("is-active", "is-enabled"))

    def _refuse_to_cut(self, ports: Sequence[int], allowed: Sequence[Network]) -> None:
        known = [ipaddress.ip_address(peer) for peer in connected(ports, self.root / "proc")]
        strangers = sorted({str(peer) for peer in known if not any(peer in network for network in allowed)})
        if strangers:
            raise FleetError(
                f"{', '.join(strangers)} is connected to Triton's ports and is neither a gateway of the inventory nor "
                f"the controller; add it to triton_firewall_allow, or set triton_firewall_cuts to have it cut off."
            )

    def _do(self, argv: Sequence[str]) -> None:
        answer = self.run(argv)
        if answer.rc != 0:
            said = (answer.err or answer.out).strip()
            raise FleetError(f"`{' '.join(argv)}` failed: {said}; see that nftables works on this host.")
