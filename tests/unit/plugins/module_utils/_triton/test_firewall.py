# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of Triton's ports: only those ports, the same in each run, in place as a whole, and nobody cut off."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.command import Answer
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.ports import connected
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.firewall import (
    RULES_FILE,
    SERVICE,
    UNIT_FILE,
    Firewall,
    controller,
    networks,
    ports_of,
    rules,
    unit,
)

PORTS = [8000, 8001, 8002]
ALLOWED = networks(["10.0.0.5", "10.1.0.0/16", "fd00::1"], "allow")
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


class Host:
    """What systemd and nftables of a host would have, from what they are told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.chain = ""
        self.enabled = self.active = False
        self.done: list[str] = []

    def run(self, argv: Sequence[str]) -> Answer:
        words = list(argv)
        if words[:2] == ["nft", "list"]:
            return Answer(0 if self.chain and words[-1] in (self.chain, "trtllm_fleet") else 1, "")
        if words[0] == "systemctl" and words[1].startswith("is-"):
            return Answer(0 if {"is-active": self.active, "is-enabled": self.enabled}[words[1]] else 1, "")
        self.done.append(" ".join(words[:2]))
        if words[1] == "enable":
            self.enabled = True
        elif words[1] == "reload-or-restart":
            text = (self.root / RULES_FILE.lstrip("/")).read_text()
            self.chain, self.active = text.split("chain ")[1].split()[0], True
        elif words[1] == "disable":
            self.enabled = self.active = False
            self.chain = ""
        elif words[:2] == ["nft", "delete"]:
            self.chain = ""
        return Answer(0, "")

    def connect(self, *lines: str) -> None:
        net = self.root / "proc" / "net"
        net.mkdir(parents=True, exist_ok=True)
        (net / "tcp").write_text(HEAD + "".join(f"{line}\n" for line in lines))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    for name in (RULES_FILE, UNIT_FILE):
        (tmp_path / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
    found = Host(tmp_path)
    found.connect()
    return found


def close(host: Host, allowed: Sequence[str] = ("10.0.0.5",), cuts: bool = False, check: bool = False) -> bool:
    return Firewall(host.root, host.run).close(PORTS, networks(allowed, "allow"), cuts, check)[0]


def test_rules_speak_of_these_ports_alone() -> None:
    text, chain = rules([8001, 8000], ALLOWED)
    spoken = [line.strip() for line in text.splitlines() if "tcp dport" in line]
    assert all(line.startswith("tcp dport { 8000, 8001 }") for line in spoken) and len(spoken) == 3
    assert "policy accept" in text and chain in text
    assert rules([8000, 8001], list(ALLOWED)) == (text, chain)
    assert rules([8000], ALLOWED)[1] != chain != rules([8000, 8001], ALLOWED[:1])[1]


def test_nftables_takes_them_again_and_again(tmp_path: Path) -> None:
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin")
    if nft is None or shutil.which("unshare") is None:
        pytest.skip("nft or unshare is not installed; molecule/firewall loads the rules on a real host")
    file = tmp_path / "rules"
    script = f"set -e; cd {tmp_path}; "
    for number, allowed in enumerate((ALLOWED, ALLOWED[:1], [])):
        (tmp_path / str(number)).write_text(rules(PORTS, allowed)[0])
        script += f"{nft} -f {number}; {nft} -f {number}; "
    file.write_text(script + f"{nft} list tables")
    done = subprocess.run(
        ["unshare", "--net", "--map-root-user", "sh", str(file)], capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("only root makes a network namespace here; molecule/firewall loads the rules on a real host")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "table inet trtllm_fleet"


def test_four_ways_and_back(host: Host) -> None:
    assert close(host, check=True) and not host.done
    assert close(host) and host.active and host.enabled
    host.done.clear()
    assert not close(host, check=True) and not close(host) and not host.done
    firewall = Firewall(host.root, host.run)
    assert firewall.open(check=True)[0] and host.active
    assert firewall.open(check=False)[0] and not host.chain
    assert not firewall.open(check=True)[0] and not firewall.open(check=False)[0]
    assert not (host.root / RULES_FILE.lstrip("/")).exists() and not (host.root / UNIT_FILE.lstrip("/")).exists()


def test_what_is_lost_is_brought_back(host: Host) -> None:
    close(host)
    host.chain = ""  # somebody flushed all rules
    assert close(host) and host.chain
    host.enabled = False
    assert close(host) and host.enabled
    (host.root / RULES_FILE.lstrip("/")).write_text("")
    assert close(host) and not close(host)


def test_a_change_is_loaded_without_a_moment_between(host: Host) -> None:
    close(host)
    host.done.clear()
    assert close(host, ["10.0.0.5", "10.0.0.6"])
    assert "systemctl reload-or-restart" in host.done and "systemctl restart" not in host.done
    assert "systemctl daemon-reload" not in host.done


def test_who_is_connected_is_not_cut_off_unasked(host: Host) -> None:
    # 10.0.0.9:40000 to 10.0.0.1:8000, the host to itself, a client of another port, and one that waits to be closed.
    host.connect(
        "0: 0100000A:1F40 0900000A:9C40 01 0:0 0:0 0 0 0 1",
        "1: 0100000A:1F40 0100000A:9C41 01 0:0 0:0 0 0 0 2",
        "2: 0100000A:0BB8 0A00000A:9C42 01 0:0 0:0 0 0 0 3",
        "3: 0100000A:1F40 0B00000A:9C43 06 0:0 0:0 0 0 0 4",
    )
    assert connected(PORTS, host.root / "proc") == {"10.0.0.9"}
    with pytest.raises(FleetError, match=r"10\.0\.0\.9 is connected .* triton_firewall_allow"):
        close(host)
    assert not host.done and not host.chain
    assert close(host, ["10.0.0.0/24"])
    assert close(host, cuts=True)


def test_the_controller_is_found_behind_sudo(tmp_path: Path) -> None:
    def process(number: int, parent: int, environ: bytes) -> None:
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "environ").write_bytes(environ)
        (tmp_path / str(number) / "stat").write_text(f"{number} (a ) b) S {parent} 1 1")

    process(30, 20, b"PATH=/usr/bin\0")
    process(20, 10, b"HOME=/root\0SSH_CONNECTION=::ffff:10.0.0.7 40000 10.0.0.1 22\0")
    process(10, 1, b"")
    found = controller(tmp_path, 30)
    assert found == "::ffff:10.0.0.7"
    assert networks([found], "allow") == [ipaddress.ip_network("10.0.0.7/32")]
    assert controller(tmp_path, 10) is None


@pytest.mark.parametrize("wrong", ["gateway.example", "10.0.0.1; reboot", "", "10.0.0.0/33", "10.0.0.1\n", None])
def test_what_is_no_address_is_refused(wrong: object) -> None:
    with pytest.raises(FleetError, match="give addresses such as"):
        networks([wrong], "triton_firewall_allow")


def test_ports_of_replicas() -> None:
    leader = {"http_port": 8000, "grpc_port": 8001, "metrics_port": 8002}
    assert ports_of([leader, {"http_port": "8010", "grpc_port": 8011, "metrics_port": 8012}, {"node": 1}]) == [
        8000, 8001, 8002, 8010, 8011, 8012,
    ]  # fmt: skip


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("this machine has no systemd; molecule/firewall starts the unit on a real host")
    file = tmp_path / SERVICE
    file.write_text(unit("/bin/true"))
    done = subprocess.run([analyze, "verify", "--man=no", str(file)], capture_output=True, text=True, check=False)
    assert SERVICE not in done.stderr, done.stderr
