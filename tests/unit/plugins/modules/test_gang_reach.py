# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that listens for the other nodes of its replicas, asks them, and leaves nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import reach
from ansible_collections.trtllm.fleet.plugins.modules import triton_gang_reach
from unit import modules
from unit.systemd_fakes import FakeSystemd

NODES = [{"name": "g1", "address": "127.0.0.1"}, {"name": "g2", "address": "127.0.0.2"}]


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSystemd]:
    monkeypatch.setattr(reach, "HOME", tmp_path / "reach")
    fake = FakeSystemd(tmp_path / "systemd", monkeypatch)
    yield fake
    fake.kill()


def call(node: int, port: int, state: str, check: bool = False) -> dict[str, Any]:
    replica = {"name": "big-0", "nodes": NODES, "node": node, "gang_port": port}
    plain = {"name": "small-0", "gpus": [0]}
    found = modules.call("triton_gang_reach", {"replicas": [replica, plain], "state": state}, check=check)
    return {key: value for key, value in found.items() if key != "invocation"}


def test_listening_asking_and_its_end_four_ways(systemd: FakeSystemd, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1]) % 20000 + 30000
    assert call(1, port, "listening", check=True) == {"changed": False, "problems": []}
    assert systemd.running() == [] and not (tmp_path / "reach").exists()
    for _time in range(2):
        assert call(1, port, "listening") == {"changed": False, "problems": []}
        assert systemd.running() == [f"host-{triton_gang_reach.UNIT}"], "one that listened before is ended first"
    assert call(0, port, "asked", check=True)["asked"] == {}
    (about,) = call(0, port, "asked")["asked"]["big-0"]
    assert (about["node"], about["unreached"]) == ("g2", []) and about["there"] is not None
    call(0, port, "absent", check=True)
    assert systemd.running() != []
    for _time in range(2):
        assert call(0, port, "absent") == {"changed": False}
        assert systemd.running() == [] and not (tmp_path / "reach").exists()
    (about,) = call(0, port, "asked")["asked"]["big-0"]
    assert about["unreached"] == [f"127.0.0.2:{port + 2} (Connection refused)"]


def test_a_host_without_such_a_replica_does_nothing(systemd: FakeSystemd) -> None:
    assert modules.call("triton_gang_reach", {"replicas": [{"name": "m-0"}], "state": "listening"})["problems"] == []
    assert modules.call("triton_gang_reach", {})["asked"] == {} and systemd.running() == []


def test_a_unit_that_cannot_be_started_is_one_sentence(systemd: FakeSystemd, tmp_path: Path) -> None:
    (tmp_path / "systemd/commands/systemd-run").write_text("#!/bin/sh\necho no bus >&2\nexit 1\n")
    replica = {"name": "m-0", "nodes": NODES, "node": 1, "gang_port": 39000}
    failed = modules.call("triton_gang_reach", {"replicas": [replica], "state": "listening"})
    assert failed["msg"] == f"{triton_gang_reach.UNIT} does not begin: no bus." and failed["failed"]
