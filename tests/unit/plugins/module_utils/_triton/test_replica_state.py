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


def test_requests_are_those_that_triton_counts_or_trtllm_serve(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {
        "http://127.0.0.1:8002": 'nv_inference_request_success{model="e",version="1"} 3',
        "http://127.0.0.1:8010/prometheus": 'trtllm_request_success_total{model_name="undefined"} 7.0',
        "http://127.0.0.1:8020/prometheus": "# TYPE trtllm_request_success_total counter",
    }

    def get(_client: object, path: str, base: str) -> str:
        assert path == "/metrics"
        if base not in pages:
            raise state.TritonError("Not Found", 404)
        return pages[base]

    monkeypatch.setattr(state.GenerateClient, "get", get)
    for number, name in enumerate("bcd", 1):
        record = {"replica": name, "http": f"127.0.0.1:80{number}0", "api": "openai"}
        deploy(host, service(f"triton-{name}", record=record))
    found = {one["replica"]: one["requests"] for one in state.replicas(host, RELEASES)}
    assert found == {"a": 3, "b": 7, "c": None, "d": None}, "c has answered none yet, and d has no such metrics"
