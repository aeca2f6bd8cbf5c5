# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the nodes of a replica reach each other, before anything of it is started, and what their clocks say.

Each node listens for a while where the replica will, and on a port beside, on which it says what time it is; then each
asks every other. Where the replica runs already, it listens itself. Nothing here needs more than Python 3.9.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

HOME, SPEC, STATUS = Path("/run/trtllm-gang-reach"), "spec.json", "status.json"
# From the first port of a replica: where its workers wait, and Open MPI's daemons listen; and where the time is told.
WAIT, DAEMON, CLOCK = 0, 1, 2
TIMEOUT = 5.0  # seconds for a connection, and for an answer
ANSWER = 4096  # bytes

Item = dict[str, Any]


def ports(replica: Mapping[str, Any], node: int) -> list[int]:
    """Where the node listens for the others of its replica."""
    first = int(replica["gang_port"])
    return [*([first + WAIT] if node else []), first + DAEMON, first + CLOCK]


def address(replica: Mapping[str, Any], node: int) -> str:
    """At which the others reach it."""
    return str(replica["nodes"][node]["address"])


# -- one that listens ---------------------------------------------------------------------------------------------


def listen(replicas: Sequence[Mapping[str, Any]]) -> tuple[list[socket.socket], list[str]]:
    """Sockets for all ports of this host that are free, and why others cannot be had."""
    found: list[socket.socket] = []
    problems = []
    for replica in replicas:
        for port in ports(replica, int(replica["node"])):
            where = (address(replica, int(replica["node"])), port)
            try:
                found.append(socket.create_server(where))
            except OSError as error:
                # What has the port may be the replica; whoever has it, he listens.
                if error.errno != errno.EADDRINUSE:
                    problems.append(f"{replica['name']}: {where[0]} cannot be listened on: {_why(error)}")
    return found, list(dict.fromkeys(problems))


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error) or "no answer"


def answer(sockets: Sequence[socket.socket], seconds: float) -> None:
    """Tell everybody who comes what time it is, and which ports are listened on here, for so long."""
    end = time.monotonic() + seconds
    ports_here = sorted({int(one.getsockname()[1]) for one in sockets})
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            selector.register(one, selectors.EVENT_READ)
        while (left := end - time.monotonic()) > 0:
            for key, _events in selector.select(left):
                shop: Any = key.fileobj
                with contextlib.suppress(OSError):
                    connection, _caller = shop.accept()
                    with connection:
                        connection.settimeout(1)
                        connection.sendall(json.dumps({"time": time.time(), "ports": ports_here}).encode() + b"\n")


def main(directory: str) -> int:
    """The process: *directory* has its spec, ``replicas`` and ``seconds``, and gets its status."""
    home = Path(directory)
    spec = json.loads((home / SPEC).read_text(encoding="utf-8"))
    sockets, problems = listen(spec["replicas"])
    (home / f"{STATUS}.new").write_text(json.dumps({"problems": problems}), encoding="utf-8")
    (home / f"{STATUS}.new").replace(home / STATUS)
    answer(sockets, spec["seconds"])
    return 0


# -- one that asks ------------------------------------------------------------------------------------------------


def ask(replica: Mapping[str, Any]) -> list[Item]:
    """What became of asking each other node: ``node``, ``unreached`` (addresses with why), ``here`` and ``there``,
    the time of both at the same moment where it was told.
    """
    own, found = int(replica["node"]), []
    for number, node in enumerate(replica["nodes"]):
        if number == own:
            continue
        about: Item = {"node": str(node["name"]), "unreached": [], "here": None, "there": None}
        where, clock = address(replica, number), int(replica["gang_port"]) + CLOCK
        listened: list[int] = []
        # Where ranks of the replica run by now, their ports are theirs, and are left alone.
        for port in dict.fromkeys([clock, *ports(replica, number)]):
            if port != clock and port not in listened:
                continue
            try:
                said = _told(where, port)
            except OSError as error:
                about["unreached"].append(f"{where}:{port} ({_why(error)})")
                continue
            if port == clock and said:
                about["here"], about["there"] = said["here"], said["time"]
                listened = [one for one in said["ports"] if one != clock]
        found.append(about)
    return found


def _told(where: str, port: int) -> Item:
    """What is told at a port, and the time ``here`` at that moment; nothing where another program listens there.

    Raises OSError where nobody listens.
    """
    with socket.create_connection((where, port), TIMEOUT) as connection:
        connection.settimeout(TIMEOUT)
        before = time.time()
        try:
            said = json.loads(connection.recv(ANSWER))
            return {"here": (before + time.time()) / 2, "time": float(said["time"]), "ports": list(said["ports"])}
        except (OSError, ValueError, TypeError, KeyError):
            return {}


# -- what it means ------------------------------------------------------------------------------------------------


def reasons(
    host: str,
    replicas: Sequence[Mapping[str, Any]],
    seen: Mapping[str, Any],
    asked: Mapping[str, Sequence[Mapping[str, Any]]],
    bound: float,
) -> list[str]:
    """Why replicas on several hosts cannot start, as far as *host* sees it; none where they can.

    *seen*: the facts of all hosts that were looked at; *asked*: by replica what `ask` gave; *bound*: seconds that
    clocks may differ.
    """
    found = []
    for replica in replicas:
        name, nodes = str(replica["name"]), [str(node["name"]) for node in replica["nodes"]]
        if host != nodes[0]:
            found += _other_gpus(name, replica, host, nodes[0], seen)
        for about in asked.get(name, []):
            if about["unreached"]:
                found.append(
                    f"{name}: {host} does not reach {about['node']} at {', '.join(about['unreached'])}; let the nodes "
                    "reach each other there, or set trtllm_node_address"
                )
            here, there = about["here"], about["there"]
            if here is not None and there is not None and abs(there - here) > bound:
                found.append(
                    f"{name}: it is {_clock(here)} on {host} and {_clock(there)} on {about['node']} at the same "
                    f"moment, {abs(there - here):.1f} s apart, and {bound:g} s are allowed; keep both in time"
                )
    return found


def judged(
    verdict: Mapping[str, Any],
    replicas: Sequence[Mapping[str, Any]],
    seen: Mapping[str, Any],
    told: Mapping[str, Any],
    bound: float,
) -> Item:
    """The *verdict* on a host (`_host.verdict`) with what hinders its replicas on several hosts.

    *told*: what the module returned when it listened and asked, joined.
    """
    found = list(told.get("problems") or [])
    found += reasons(str(verdict["host"]), replicas, seen, told.get("asked") or {}, bound)
    return {**verdict, "ok": verdict["ok"] and not found, "reasons": [*verdict["reasons"], *found]}


def _other_gpus(name: str, replica: Mapping[str, Any], host: str, leader: str, seen: Mapping[str, Any]) -> list[str]:
    own, other = _gpus(replica, seen.get(host)), _gpus(replica, seen.get(leader))
    if not own or not other or own == other:
        return []
    return [f"{name}: its GPU is {own} on {host} and {other} on {leader}; all nodes of a replica need the same"]


def _gpus(replica: Mapping[str, Any], facts: Optional[Mapping[str, Any]]) -> str:
    """The GPUs of a replica on a host: names and compute capabilities, empty where they are not known."""
    named = {str(gpu).partition(":")[0] for gpu in replica.get("gpus") or []}
    chosen = [
        gpu for gpu in (facts or {}).get("gpus") or []
        if gpu["name"] and ({str(gpu["index"]), gpu["uuid"]} & named or len(named) != len(replica.get("gpus") or []))
    ]  # fmt: skip
    return ", ".join(sorted({f"{gpu['name']} ({gpu['compute_capability']})" for gpu in chosen}))


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 10) % 10} UTC"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
