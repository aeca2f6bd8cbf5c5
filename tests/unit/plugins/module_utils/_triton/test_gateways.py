# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of the gateways of a host: what they front, by the file that their unit names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.filter.serving import gateway_checks, gateway_table
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import held, state
from ansible_collections.trtllm.fleet.plugins.plugin_utils._gateway import gateway_config
from unit.service_fakes import FakeHost, deploy, service

RELEASES = "/var/lib/trtllm/releases"
FILE = "/etc/trtllm/openai-gateway/0123.yml"
CONFIG = "port: 3000\nmodels:\n- name: a\n  urls: [http://10.0.0.1:8000, http://10.0.0.2:8000]\n"


@pytest.fixture(params=["5.4.2", "4.3.1"], ids=["quadlet", "plain service"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> FakeHost:
    made = FakeHost(tmp_path)
    made.podman = request.param
    made.path(FILE).parent.mkdir(parents=True)
    made.path(FILE).write_text(CONFIG)
    record = {"models": ["a"], "listen": ["0.0.0.0:3000"]}
    deploy(made, service("openai-gateway", container={"Exec": ["--config", FILE]}, record=record))
    return made


def test_the_configuration_is_the_file_that_the_unit_names(host: FakeHost) -> None:
    assert held.gateway_config(host) == CONFIG
    assert state.gateways(host, RELEASES)[0]["config"] == CONFIG


def test_a_gateway_is_found_where_it_listens_and_by_what_it_speaks(host: FakeHost) -> None:
    assert state.gateways(host, RELEASES)[0]["url"] == "http://127.0.0.1:8000"
    record = {"models": ["a"], "scheme": "https"}
    deploy(host, service("openai-gateway", port=3443, record=record))
    assert state.gateways(host, RELEASES)[0]["url"] == "https://127.0.0.1:3443"


def test_a_model_that_came_without_a_new_unit_is_told(host: FakeHost) -> None:
    """The record is of the unit, which a new configuration does not change."""
    host.path(FILE).write_text(CONFIG + "- name: b\n  urls: [http://10.0.0.1:8010]\n")
    assert state.gateways(host, RELEASES)[0]["models"] == ["a", "b"]
    host.path(FILE).write_text("models: &x [")
    assert state.gateways(host, RELEASES)[0]["models"] == ["a"]


def test_a_host_without_gateway_or_without_its_file_tells_nothing(host: FakeHost, tmp_path: Path) -> None:
    host.path(FILE).unlink()
    assert held.gateway_config(host) == ""
    assert held.gateway_config(FakeHost(tmp_path / "other")) == ""


@pytest.mark.parametrize("text", [None, "", "a: [", "port: 3000", "models: 3", "models: [{name: a}]", "- 1"])
def test_a_text_that_is_no_configuration_tells_nothing(text: Any) -> None:
    assert gateway_config(text) is None


def test_gateways_are_shown_with_what_they_front() -> None:
    found = {
        "w1": [{"service": "openai-gateway", "active": "active", "models": ["a"], "config": CONFIG}],
        "w2": [{"service": "openai-gateway", "active": "failed", "models": ["a"], "config": ""}],
        "g1": [],
    }
    assert gateway_table(found) == [
        "host  gateway         state   model  replicas",
        "w1    openai-gateway  active  a      10.0.0.1:8000, 10.0.0.2:8000",
        "w2    openai-gateway  failed  a      -",
    ]


def test_weights_that_say_something_are_shown() -> None:
    urls = ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]
    config = json.dumps({"models": [{"name": "a", "urls": urls, "weights": {urls[0]: 9}}]})
    found = {"w1": [{"service": "openai-gateway", "active": "active", "models": ["a"], "config": config}]}
    assert gateway_table(found)[1].endswith("a      10.0.0.1:8000 (weight 9), 10.0.0.2:8000")


def test_a_gateway_is_asked_for_the_models_that_no_replica_of_its_host_serves() -> None:
    gateways = [{"url": "http://127.0.0.1:3000", "models": ["a", "b"]}]
    assert gateway_checks({"replicas": [{"model": "a"}], "gateways": gateways}) == [
        {"replica": "gateway, b", "model": "b", "gateway_url": "http://127.0.0.1:3000"}
    ]
    assert gateway_checks({"unreachable": True}) == []


def test_a_gateway_is_asked_by_the_name_that_its_clients_use() -> None:
    """Other flavours than the collection's own know no name but Triton's."""
    gateways = [{"url": "http://127.0.0.1:3000", "models": ["a", "b"], "names": {"b": "ensemble"}}]
    assert [check["model"] for check in gateway_checks({"gateways": gateways})] == ["a", "ensemble"]
