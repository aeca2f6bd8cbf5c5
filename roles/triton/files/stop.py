# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends a replica from within its container, which ends this program too: stop.py SECONDS HTTP_PORT [STATE_DIRECTORY]

Every tritonserver is asked, and not mpirun: that would kill its ranks after a moment. Requests in flight have so many
seconds to finish. Connections that clients keep open for their next request are closed meanwhile, as servers do that
end. Triton waits for its clients to do that, and goes on to answer on them.

A connection is idle when no request is in flight on it. Triton does not read from a connection while it works on its
request, so such a connection is not in the set that its thread waits on (/proc/PID/fdinfo of an epoll). A stream in
progress is in that set, and so only what was silent for a while is closed. Both sides see an orderly end: what was sent
arrives first.

The host hands this program to the container as it stops it, so that it need not be the one that the container knows.
Python 3.8, Linux 5.6; where a socket of another process cannot be had, nothing is closed, and Triton waits.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
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


def signal_servers(number: signal.Signals) -> None:
    """Send a signal to every tritonserver."""
    for pid in servers():
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def main() -> None:
    seconds, port = float(sys.argv[1]), int(sys.argv[2])
    state = sys.argv[3] if len(sys.argv) > 3 else "/tmp"
    # From here on the probe does not judge, and an end is no failure.
    with open(f"{state}/.stopping", "w", encoding="ascii"):
        pass
    signal_servers(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for pid in servers():
            with contextlib.suppress(OSError):  # it is gone, or a connection is
                close_idle(pid, port)
        time.sleep(PAUSE)
    print(f"stop: not ended after {seconds:g} s; what is in flight ends here", flush=True)
    signal_servers(signal.SIGKILL)
    time.sleep(10)


if __name__ == "__main__":
    main()
