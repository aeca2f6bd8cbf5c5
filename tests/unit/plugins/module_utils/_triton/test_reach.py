# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that ask each other before anything is started: over loopback, with real sockets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.pyz import pyz
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import reach

VERDICT = {"host": "g2", "ok": True, "reasons": [], "todo": [], "cells": {}, "facts": {}}


def replica(node: int, first: int, *addresses: str) -> dict[str, Any]:
    nodes = [{"name": f"g{number + 1}", "address": address} for number, address in enumerate(addresses)]
    return {"name": "big-0", "nodes": nodes, "node": node, "gang_port": first, "gpus": [0]}


@pytest.fixture
def first() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1]) % 20000 + 30000


@contextmanager
def listening(one: dict[str, Any], seconds: float = 20) -> Iterator[list[str]]:
    sockets, problems = reach.listen([one])
    threading.Thread(target=reach.answer, args=(sockets, seconds), daemon=True).start()
    yield problems
    for each in sockets:
        each.close()


def test_each_node_hears_the_others_and_their_clocks(first: int) -> None:
    addresses = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    with listening(replica(1, first, *addresses)) as one, listening(replica(2, first, *addresses)) as other:
        assert one == other == []
        asked = reach.ask(replica(0, first, *addresses))
    assert [about["node"] for about in asked] == ["g2", "g3"]
    for about in asked:
        assert about["unreached"] == [] and abs(about["there"] - about["here"]) < 5


def test_who_does_not_listen_is_named_with_address_and_reason(first: int) -> None:
    (about,) = reach.ask(replica(0, first, "127.0.0.1", "127.0.0.2"))
    assert about["unreached"] == [f"127.0.0.2:{first + 2} (Connection refused)"] and about["there"] is None


def test_a_port_that_is_shut_is_named(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a firewall does it, which lets one port through and not another."""
    create = socket.create_connection

    def firewall(address: tuple[str, int], *more: Any) -> socket.socket:
        if address[1] == first:
            raise socket.timeout("timed out")
        return create(address, *more)

    with listening(replica(1, first, "127.0.0.1", "127.0.0.2")):
        monkeypatch.setattr(reach.socket, "create_connection", firewall)
        (about,) = reach.ask(replica(0, first, "127.0.0.1", "127.0.0.2"))
    assert about["unreached"] == [f"127.0.0.2:{first} (timed out)"] and about["there"] is not None


def test_a_replica_that_runs_keeps_its_ports_and_is_not_disturbed(first: int) -> None:
    with socket.create_server(("127.0.0.2", first)) as worker, socket.create_server(("127.0.0.2", first + 1)):
        worker.settimeout(0.2)
        with listening(replica(1, first, "127.0.0.1", "127.0.0.2")) as problems:
            assert problems == []
            (about,) = reach.ask(replica(0, first, "127.0.0.1", "127.0.0.2"))
        assert about["unreached"] == []
        with pytest.raises(socket.timeout):
            worker.accept()


def test_an_address_that_is_none_of_this_host(first: int) -> None:
    with listening(replica(1, first, "127.0.0.1", "203.0.113.7")) as problems:
        assert problems == ["big-0: 203.0.113.7 cannot be listened on: Cannot assign requested address"]


def test_the_process_of_a_host_needs_nothing_of_the_run(tmp_path: Path, first: int) -> None:
    (tmp_path / "reach.pyz").write_bytes(pyz("trtllm_reach", ("_triton.reach",), "_triton.reach"))
    spec = {"replicas": [replica(1, first, "127.0.0.1", "127.0.0.2")], "seconds": 30}
    (tmp_path / reach.SPEC).write_text(json.dumps(spec))
    process = subprocess.Popen([sys.executable, "-I", str(tmp_path / "reach.pyz"), str(tmp_path)])
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / reach.STATUS).exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        assert json.loads((tmp_path / reach.STATUS).read_text()) == {"problems": []}
        (about,) = reach.ask(replica(0, first, "127.0.0.1", "127.0.0.2"))
        assert about["unreached"] == [] and about["there"] is not None
    finally:
        process.kill()
        process.wait()


def gpu(name: str, index: int = 0) -> dict[str, Any]:
    return {"gpus": [{"index": index, "uuid": f"GPU-{index}", "name": name, "compute_capability": "9.0"}]}


def judged(told: dict[str, Any], **seen: Any) -> list[str]:
    found = reach.judged(VERDICT, [replica(1, 18700, "10.0.0.1", "10.0.0.2")], seen, told, 5)
    assert found["ok"] is (not found["reasons"])
    return list(found["reasons"])


def test_what_hinders_is_a_reason_of_the_host() -> None:
    fine = {"node": "g1", "unreached": [], "here": 1000.0, "there": 1004.9}
    assert judged({"problems": [], "asked": {"big-0": [fine]}}, g1=gpu("NVIDIA H100"), g2=gpu("NVIDIA H100")) == []
    assert judged({}, g1=gpu("NVIDIA H100"), g2=gpu("NVIDIA A100")) == [
        "big-0: its GPU is NVIDIA A100 (9.0) on g2 and NVIDIA H100 (9.0) on g1; all nodes of a replica need the same"
    ]
    assert judged({"asked": {"big-0": [{**fine, "there": 1093.2}]}}) == [
        "big-0: it is 00:16:40.0 UTC on g2 and 00:18:13.2 UTC on g1 at the same moment, 93.2 s apart, and 5 s are "
        "allowed; keep both in time"
    ]
    away = {**fine, "unreached": ["10.0.0.1:18701 (timed out)"]}
    assert judged({"asked": {"big-0": [away]}}) == [
        "big-0: g2 does not reach g1 at 10.0.0.1:18701 (timed out); let the nodes reach each other there, or set "
        "trtllm_node_address"
    ]
    assert judged({"problems": ["big-0: 10.0.0.2 cannot be listened on: no"]}) == [
        "big-0: 10.0.0.2 cannot be listened on: no"
    ]
