# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of the replicas of a host, also where something of them was lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import state
from unit.service_fakes import FakeHost, deploy, service

RELEASES = "/var/lib/trtllm/releases"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    monkeypatch.setattr(state, "container_health", dict)
    made = FakeHost(tmp_path)
    deploy(made, service("triton-a", record={"replica": "a", "http": "127.0.0.1:8000", "metrics": "127.0.0.1:8002"}))
    return made


def problem(host: FakeHost) -> str:
    (found,) = state.replicas(host, RELEASES, metrics=False)
    return str(found["problem"])


def test_a_replica_that_serves_can_be_asked(host: FakeHost) -> None:
    assert problem(host) == ""


def test_a_replica_that_stopped_says_where_to_look(host: FakeHost) -> None:
    host.systemctl(["stop", "triton-a"])
    assert problem(host) == "triton-a is inactive (dead); 'journalctl -u triton-a' on the host says why."


def test_a_replica_whose_record_was_lost_says_so_until_it_is_deployed_again(host: FakeHost) -> None:
    host.path(f"{RELEASES}/triton-a.jsonl").unlink()
    assert "its ports are not known; run serve.yml" in problem(host)
    deploy(host, service("triton-a", record={"replica": "a", "http": "127.0.0.1:8000"}))
    assert problem(host) == ""
