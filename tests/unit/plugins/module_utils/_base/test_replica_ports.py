# SPDX-License-Identifier: GPL-3.0-or-later
"""A port that somebody else holds is found, with the name of who holds it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base import ports


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_real_listener_and_its_process_are_found(taken: int) -> None:
    found = ports.conflicts("127.0.0.1", taken, ports.listeners())
    assert [(listener.address, listener.port) for listener in found] == [("127.0.0.1", taken)]
    owner = ports.owners([found[0].inode])[found[0].inode]
    assert owner.pid == os.getpid()
    assert f"process {os.getpid()}" in str(owner)


def test_a_free_port_has_no_conflict(taken: int) -> None:
    assert ports.conflicts("127.0.0.2", taken, ports.listeners()) == []


@pytest.mark.parametrize(
    ("wanted", "listening", "answer"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("0.0.0.0", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::", True),
        ("::1", "0.0.0.0", False),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("::", "127.0.0.1", True),
    ],
)
def test_addresses_that_exclude_each_other(wanted: str, listening: str, answer: bool) -> None:
    assert ports.overlap(wanted, listening) is answer


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/triton-a-0.service/libpod-payload-1f\n", "triton-a-0.service"),
        ("12:pids:/x\n1:name=systemd:/system.slice/nginx.service\n0::/\n", "nginx.service"),
        ("0::/user.slice/user-0.slice/session-1.scope", None),
    ],
)
def test_the_unit_of_a_process(cgroup: str, unit: str) -> None:
    assert ports.unit_of(cgroup) == unit
