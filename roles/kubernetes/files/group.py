# SPDX-License-Identifier: GPL-3.0-or-later
"""Process 1 of a pod of a LeaderWorkerSet, until it knows who the others are: group.py COMMAND...

A replica on several hosts is told the addresses of its nodes (gang.py), but pods get theirs as they start. What it was
told names addresses of 192.0.2.0/24 (RFC 5737) in their place, the leader's first; here each is replaced in COMMAND and
in the environment, and COMMAND takes the place of this program. The pods of a group end and begin together, so that no
address changes while one of them runs. LWS_LEADER_ADDRESS, LWS_GROUP_SIZE and LWS_WORKER_INDEX are the controller's.

Python 3.8, the standard library.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import sys
import time

PLACEHOLDER = re.compile(r"\b192\.0\.2\.([0-9]{1,3})\b")
TOLD = "TRTLLM_GANG"
# What follows from all addresses.
NETWORKS = ("OMPI_MCA_oob_tcp_if_include", "OMPI_MCA_btl_tcp_if_include")
PAUSE = 1.0


def names(leader: str, size: int) -> list[str]:
    """The names of the pods of a group: LEADER.SUBDOMAIN, and LEADER-1.SUBDOMAIN and so on for the others."""
    pod, dot, rest = leader.partition(".")
    return [leader, *(f"{pod}-{number}{dot}{rest}" for number in range(1, size))]


def address(name: str) -> str:
    """The IPv4 address of a pod, once it has one."""
    said = False
    while True:
        try:
            return str(socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
        except OSError as error:
            if not said:
                print(f"group: waiting for {name} ({error})", flush=True)
            said = True
            time.sleep(PAUSE)


def network(addresses: list[str]) -> str:
    """The smallest IPv4 network that has all of them."""
    found = [ipaddress.IPv4Address(one) for one in addresses]
    least = ipaddress.IPv4Network((found[0], 32))
    while not all(one in least for one in found):
        least = least.supernet()
    return str(least)


def replaced(text: str, addresses: list[str]) -> str:
    """*text* with the address of each pod in its place."""
    return PLACEHOLDER.sub(lambda match: addresses[int(match.group(1)) - 1], text)


def told(text: str, index: int, addresses: list[str]) -> str:
    """What the node *index* of the group is told, from what its leader is."""
    found = json.loads(text)
    share = len(found["ranks"])
    found.update(nodes=addresses, node=index, ranks=list(range(index * share, (index + 1) * share)))
    return json.dumps(found, sort_keys=True)


def main(command: list[str]) -> None:
    """Take the place of this program."""
    size, index = int(os.environ["LWS_GROUP_SIZE"]), int(os.environ["LWS_WORKER_INDEX"])
    addresses = [address(name) for name in names(os.environ["LWS_LEADER_ADDRESS"], size)]
    environment = {key: replaced(value, addresses) for key, value in os.environ.items()}
    environment[TOLD] = told(os.environ[TOLD], index, addresses)
    for name in NETWORKS:
        if name in environment:
            environment[name] = network(addresses)
    words = [replaced(word, addresses) for word in command]
    os.execvpe(words[0], words, environment)


if __name__ == "__main__":
    main(sys.argv[1:])
