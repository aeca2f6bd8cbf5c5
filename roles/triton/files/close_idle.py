# SPDX-License-Identifier: GPL-3.0-or-later
"""Close the idle HTTP connections of every tritonserver in sight until there are no more of them: close_idle.py PORT

A server that ends closes its idle connections; Triton waits for its clients to do that. A connection is idle when no
request is in flight on it. Triton does not read from a connection while it works on its request, so such a connection
is not in the set that its thread waits on (/proc/PID/fdinfo of an epoll). A stream in progress is in that set, and so
only what was silent for a while is closed. Both sides see an orderly end: what was sent arrives first.

Python 3.8 and Linux 5.6; where a socket cannot be had of another process, nothing is closed, and Triton waits.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
import sys
import time

SILENT_MS = 10_000
PAUSE = 0.5
PIDFD_OPEN, PIDFD_GETFD = 434, 438  # the same on all architectures
EPOLLIN = 1
# tcpi_last_data_sent and tcpi_last_data_recv of struct tcp_info (linux/tcp.h).
LAST_SENT, LAST_RECEIVED, TCP_INFO_SIZE = 44, 52, 104


def servers() -> list[int]:
    """The processes called tritonserver."""
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/comm", encoding="ascii") as comm:
                if name.isdigit() and comm.read().strip() == "tritonserver":
                    found.append(int(name))
        except OSError:
            continue
    return found


def links(pid: int) -> dict[int, str]:
    """What each file descriptor of a process is."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
    return found


def read_from(pid: int, descriptors: dict[int, str]) -> set[int]:
    """The descriptors that the process waits on to read from."""
    found = set()
    for descriptor, link in descriptors.items():
        if link == "anon_inode:[eventpoll]":
            with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as info:
                for target, events in re.findall(r"tfd:\s*(\d+)\s+events:\s*([0-9a-f]+)", info.read()):
                    if int(events, 16) & EPOLLIN:
                        found.add(int(target))
    return found


def is_idle(connection: socket.socket, port: int) -> bool:
    """Whether it is a client's connection to *port* on which nothing has come or gone for a while."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.getsockname()[1] != port:
        return False
    try:
        connection.getpeername()
    except OSError:  # the listening socket
        return False
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    sent, received = (struct.unpack_from("I", info, offset)[0] for offset in (LAST_SENT, LAST_RECEIVED))
    return bool(min(sent, received) >= SILENT_MS)


def close_idle(pid: int, port: int) -> None:
    """One look at a server."""
    system = ctypes.CDLL(None, use_errno=True)
    descriptors = links(pid)
    waiting = read_from(pid, descriptors)
    handle = system.syscall(PIDFD_OPEN, pid, 0)
    if handle < 0:
        return
    try:
        for descriptor in waiting:
            if not descriptors.get(descriptor, "").startswith("socket:"):
                continue
            copy = system.syscall(PIDFD_GETFD, handle, descriptor, 0)
            if copy < 0:
                continue
            with socket.socket(fileno=copy) as connection:
                if is_idle(connection, port):
                    connection.shutdown(socket.SHUT_RDWR)
    finally:
        os.close(handle)


def main() -> None:
    port = int(sys.argv[1])
    while True:
        for pid in servers():
            try:
                close_idle(pid, port)
            except OSError:  # it is gone, or a connection is
                continue
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
