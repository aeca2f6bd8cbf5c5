# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica whose ranks are on several hosts: which rank is where, what its nodes share, and how they reach each other.

One node leads: it runs mpirun, and its first rank serves. The others wait for its call. What both do is told in the
script itself, roles/triton/files/gang.py.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from .._base.errors import FleetError
from .._base.files import write_atomically
from .._base.names import show

Replica = Mapping[str, Any]
Item = dict[str, Any]

SCRIPT = "gang.py"
GANGS_DIR = "/etc/trtllm/gangs"
SECRET = "secret"
# Each replica of a model has a hundred ports of its own from here on, of which these are used.
GANG_PORT, PORTS_PER_GANG = 18700, 100
DAEMON_OFFSET, RANKS_OFFSET, RANK_PORTS = 1, 10, 50
# What the leader's script needs at most to end the ranks on all nodes once the first has ended.
END_SECONDS = 7
# Rank by rank what Open MPI 4 needs so that its daemons are started by a call and found at known ports. Values in
# braces are those of the replica. Networks and not interfaces, as these may have other names on each node.
ENVIRONMENT = {
    "OMPI_MCA_plm_rsh_agent": "{python} {script} call",
    # The leader calls every worker itself, and the call lasts as long as the ranks do.
    "OMPI_MCA_plm_rsh_no_tree_spawn": "1",
    "OMPI_MCA_orte_leave_session_attached": "1",
    # Addresses are the names of nodes.
    "OMPI_MCA_orte_keep_fqdn_hostnames": "1",
    "OMPI_MCA_btl": "self,vader,tcp",
    "OMPI_MCA_oob_tcp_if_include": "{network}",
    "OMPI_MCA_btl_tcp_if_include": "{network}",
    "OMPI_MCA_btl_tcp_disable_family": "6",
    # A static port is taken again at once after a kill; of dynamic ones each is listened on, and rests for a minute.
    "OMPI_MCA_oob_tcp_static_ipv4_ports": "{daemon_port}",
    "OMPI_MCA_btl_tcp_port_min_v4": "{rank_port}",
    "OMPI_MCA_btl_tcp_port_range_v4": "{rank_ports}",
}
PYTHON = ("python3", "-I", "-S")
# What differs between the nodes of a replica.
OF_ONE_NODE = (
    "node", "gpus", "address", "http_port", "grpc_port", "metrics_port", "scripts", "checkpoint_dirs", "host_rdma",
)  # fmt: skip
# What clients of ranks after the first would use; a host may serve something else on those ports.
SILENT = ("--allow-http=false", "--allow-grpc=false", "--allow-metrics=false")


def is_gang(replica: Replica) -> bool:
    """Whether the ranks of a replica are on several hosts."""
    return bool(replica.get("nodes"))


def is_worker(replica: Replica) -> bool:
    """Whether this host is a node of the replica that nobody asks."""
    return is_gang(replica) and int(replica.get("node") or 0) > 0


def node_names(replica: Replica) -> list[str]:
    """The nodes as the inventory calls them, the leader first."""
    return [str(node["name"]) for node in replica.get("nodes") or []]


def addresses(replica: Replica) -> list[str]:
    """The addresses at which the nodes reach each other."""
    return [str(node["address"]) for node in replica["nodes"]]


def check_gang(replica: Replica) -> None:
    """Refuse nodes that cannot share the ranks of a replica."""
    name = replica["name"]
    for node in replica["nodes"]:
        if not isinstance(node, Mapping) or not {"name", "address"} <= node.keys():
            raise FleetError(f"{name}: nodes has {show(node)}; give each with its name and address.")
    names = node_names(replica)
    if len(names) < 2:
        raise FleetError(f"{name}: nodes has one host, {names[0]}; name two or more, or leave nodes out.")
    for node in names:
        if names.count(node) > 1:
            raise FleetError(f"{name}: nodes has {node} twice; name each host once, its GPUs are in gpus.")
    for node in replica["nodes"]:
        check_address(str(node["address"]), f"{name}: the address of {node['name']}")
    ranks = int(replica["world_size"])
    if ranks % len(names):
        raise FleetError(
            f"{name}: the engine has {ranks} ranks (tp_size * pp_size * cp_size), which do not split evenly over "
            f"{len(names)} nodes ({', '.join(names)}); choose sizes whose product is a multiple of {len(names)}."
        )
    if not 0 <= int(replica.get("node") or 0) < len(names):
        raise FleetError(f"{name}: node is {replica['node']}; its {len(names)} nodes are numbered from 0 on.")


def check_address(address: str, what: str) -> str:
    """*address* where other hosts reach it over IPv4."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        found = None
    if found is None or found.version != 4 or found.is_loopback or found.is_unspecified:
        raise FleetError(
            f"{what} is {address!r}; the nodes of a replica reach each other at IPv4 addresses that are not those of "
            "the host itself: set trtllm_node_address of that host."
        )
    return address


def ranks_per_node(replica: Replica) -> int:
    """How many ranks each node has; all of them where there is one host."""
    return int(replica["world_size"]) // max(1, len(replica.get("nodes") or []))


def own_ranks(replica: Replica) -> list[int]:
    """The ranks of this node: they follow the order of the nodes."""
    share, node = ranks_per_node(replica), int(replica.get("node") or 0)
    return list(range(node * share, (node + 1) * share))


def hosts_by_rank(replica: Replica) -> tuple[str, ...]:
    """By rank the address of its node."""
    return tuple(address for address in addresses(replica) for _rank in range(ranks_per_node(replica)))


def network(of: Sequence[str]) -> str:
    """The smallest IPv4 network that has all these addresses."""
    found = [ipaddress.IPv4Address(address) for address in of]
    least = ipaddress.IPv4Network((found[0], 32))
    while not all(address in least for address in found):
        least = least.supernet()
    return str(least)


def environment(replica: Replica, scripts_dir: str) -> dict[str, str]:
    """What mpirun of the leader is told; it tells its daemons itself."""
    port = int(replica["gang_port"])
    values = {
        "python": " ".join(PYTHON),
        "script": f"{scripts_dir}/{SCRIPT}",
        "network": network(addresses(replica)),
        "daemon_port": port + DAEMON_OFFSET,
        "rank_port": port + RANKS_OFFSET,
        "rank_ports": RANK_PORTS,
    }
    return {name: value.format(**values) for name, value in ENVIRONMENT.items()}


def rdma_devices(replica: Replica) -> list[str]:
    """What of the RDMA devices of this node (``host_rdma``, as `_host.rdma` reads them) its container is handed.

    Raises `FleetError` for one that the node does not have.
    """
    host, asked = replica.get("host_rdma") or {}, replica.get("rdma")
    there = {str(device["name"]): list(device["nodes"]) for device in host.get("devices") or [] if device["nodes"]}
    named = [str(name) for name in (there if asked is None else asked)]
    missing = [name for name in named if "=" not in name and name not in there]
    if missing and "devices" in host:
        own = node_names(replica)[int(replica.get("node") or 0)]
        raise FleetError(
            f"{replica['name']}: rdma has {', '.join(missing)}, which {own} does not have; it has "
            f"{', '.join(there) or 'no RDMA device'}."
        )
    found = [node for name in named for node in ([name] if "=" in name else there.get(name, []))]
    return [*found, str(host["manager"])] if found and host.get("manager") else found


def network_environment(replica: Replica) -> dict[str, str]:
    """NCCL sees all RDMA devices of the host, also those that it was not given: it is told which it has."""
    named = [str(name) for name in replica.get("rdma") or [] if "=" not in str(name)]
    return {"NCCL_IB_HCA": f"={','.join(named)}"} if named else {}


def secret_dir(service: str) -> str:
    """Where the secret of a replica is, on each of its nodes and in their containers."""
    return f"{GANGS_DIR}/{service}"


def keep_secret(directory: Path, given: Optional[str], check: bool = False) -> tuple[bool, str]:
    """Whether the secret of a replica in *directory* changes, and what it is: the *given* one, or that of before."""
    path = directory / SECRET
    try:
        found = path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        found = ""
    wanted = found if given is None else given
    if wanted and wanted == found:
        return False, found
    if check:
        return True, wanted
    if given is not None and not given:
        raise FleetError(f"The secret for {path} is empty; the leader has to make one first.")
    wanted = wanted or secrets.token_hex(32)
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    write_atomically(path, f"{wanted}\n".encode(), 0o600)
    return True, wanted


def shared(replica: Replica, scripts: str) -> dict[str, str]:
    """What must be the same on all nodes, by its name: what of it is not known yet, in check mode, is left out."""
    found = {
        "image": replica.get("image"),
        "release": replica.get("release"),
        "repository": replica.get("repository_dir"),
        "engine": ", ".join(str(path) for path in replica.get("engine_dirs") or [] if path),
        "nodes": ", ".join(node_names(replica)),
        "gang_port": replica["gang_port"],
        "scripts": scripts,
    }
    return {key: str(value) for key, value in found.items() if value}


def told(replica: Replica, service: str, scripts: str) -> str:
    """What the script of a node is told."""
    return json.dumps(
        {
            "nodes": addresses(replica),
            "node": int(replica.get("node") or 0),
            "port": int(replica["gang_port"]),
            "secret": f"{secret_dir(service)}/{SECRET}",
            "is": shared(replica, scripts),
            "ranks": own_ranks(replica),
            "engines": [str(path) for path in replica.get("engine_dirs") or []],
            "settings": _settings(replica),
        },
        sort_keys=True,
    )


def _settings(replica: Replica) -> str:
    """A digest of all that the nodes were told alike, so that the units of all of them change together, and go back
    together. Environments may differ, as devices are called otherwise on each host, so nothing is compared.
    """
    known = {key: value for key, value in replica.items() if key not in OF_ONE_NODE}
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:16]


def listens(replica: Replica) -> list[Item]:
    """Where a node listens for the others."""
    port, own = int(replica["gang_port"]), addresses(replica)[int(replica.get("node") or 0)]
    daemon = {"address": "0.0.0.0", "port": port + DAEMON_OFFSET, "what": "Open MPI's daemon"}
    wait = {"address": own, "port": port, "what": "the call of its leader"}
    return [wait, daemon] if is_worker(replica) else [daemon]


def check_gang_ports(replicas: Sequence[Replica]) -> None:
    """Refuse ports between nodes that two replicas of a host would have."""
    taken: dict[int, str] = {}
    for replica in replicas:
        if is_gang(replica):
            first = int(replica["gang_port"])
            if not 1024 <= first <= 65535 - PORTS_PER_GANG:
                raise FleetError(
                    f"{replica['name']}.gang_port is {first}; give a port from 1024 to {65535 - PORTS_PER_GANG}."
                )
            for port, owner in taken.items():
                if abs(port - first) < PORTS_PER_GANG:
                    raise FleetError(
                        f"{replica['name']} and {owner} have the ports between their nodes from {first} and from "
                        f"{port} on; give one of them another gang_port, {PORTS_PER_GANG} apart."
                    )
            taken[first] = str(replica["name"])


def gang_problem(name: str, own: Mapping[str, Any], told_by: Mapping[str, Any]) -> str:
    """Why a replica is not started on any of its nodes, empty where it may be.

    *own*: what this node would serve (see `shared`, with ``nodes`` by name). *told_by*: by node what each would, by
    replica; no dictionary where it was not asked or is lost.
    """
    for node in own["nodes"]:
        other = told_by.get(node)
        if not isinstance(other, Mapping) or name not in other:
            return (
                f"{name}: its node {node} is lost, or is not in this run, so whether it has the same is not known; "
                "mend it, or add it to --limit. Nothing of the replica was changed."
            )
        first, here = told_by[own["nodes"][0]][name]["is"], other[name]["is"]
        for key, value in here.items():
            if key in first and first[key] != value:
                return (
                    f"{name}: {key} is {first[key]} on {own['nodes'][0]} and {value} on {node}, but both are nodes of "
                    "one replica; make them the same. Nothing of the replica was changed."
                )
    return ""
