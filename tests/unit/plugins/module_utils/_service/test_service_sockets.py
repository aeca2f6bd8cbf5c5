# SPDX-License-Identifier: GPL-3.0-or-later
"""Sockets that outlive their service's restarts, and files that a service reads again itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.ports import Listener, Owner
from ansible_collections.trtllm.fleet.plugins.module_utils._service import quadlet
from ansible_collections.trtllm.fleet.plugins.module_utils._service.manager import ServiceManager
from ansible_collections.trtllm.fleet.plugins.module_utils._service.types import Service, Settings
from unit.service_fakes import IMAGE, QUADLETS, FakeHost, deploy, record, service

SOCKET = "/etc/systemd/system/a.socket"
LIVE = "/etc/own/a.yml"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def described(address: str = "0.0.0.0:8000", **more: Any) -> Service:
    made = service("a", **more)
    return dataclasses.replace(made, unit={**made.unit, "Socket": {"ListenStream": address}})


def back(host: FakeHost) -> dict[str, dict[str, Any]]:
    manager = ServiceManager(host, Settings())
    return manager.apply(manager.plan_rollback(["a"]))


@pytest.mark.parametrize("podman", ["4.3.1", "4.4.0", "5.4.2"])
def test_a_socket_is_a_unit_beside_the_service_with_every_podman(podman: str) -> None:
    unit = {"Unit": {"Description": "A", "After": "x.target"}, "Container": {"Image": IMAGE}}
    rendered = quadlet.render("a", {**unit, "Socket": {"ListenStream": "[::]:8000", "Backlog": 7}}, podman)
    assert rendered.socket == (
        f"{quadlet.HEADER}\n[Unit]\nDescription=A (socket)\n\n[Socket]\nListenStream=[::]:8000\nBacklog=7\n"
    )
    assert "\nRequires=a.socket\n" in rendered.text and "\nAfter=x.target\nAfter=a.socket\n" in rendered.text
    assert rendered.files == {rendered.path: rendered.text, SOCKET: rendered.socket}
    assert quadlet.listens(rendered.socket) == [("::", 8000)]
    assert "socket" not in quadlet.render("a", unit, podman).text


def test_a_socket_that_stays_is_left_alone_when_its_service_restarts(host: FakeHost) -> None:
    deploy(host, described())
    assert host.path(SOCKET).exists()
    assert host.done() == ["daemon-reload", "stop a.socket a", "start a"]
    assert deploy(host, described())["a"]["action"] == "none"
    host.done()
    deploy(host, described(container={"Environment": {"X": "1"}}))
    assert host.done() == ["daemon-reload", "restart a"], "who connects meanwhile waits"


def test_another_address_is_bound_while_the_service_is_stopped(host: FakeHost) -> None:
    deploy(host, described())
    host.done()
    deploy(host, described("0.0.0.0:8001"))
    assert host.done() == ["daemon-reload", "stop a.socket a", "restart a"]
    deploy(host, service("a"))
    assert not host.path(SOCKET).exists()
    assert host.done() == ["daemon-reload", "stop a.socket a", "restart a"]


def test_a_socket_goes_with_its_service(host: FakeHost) -> None:
    deploy(host, described())
    host.done()
    manager = ServiceManager(host, Settings())
    manager.apply(manager.plan([], absent=["a"]))
    assert host.done() == ["stop a.socket a", "daemon-reload", "reset-failed a.socket a"]
    assert not host.path(SOCKET).exists() and not host.path(f"{QUADLETS}/a.container").exists()


def test_a_port_that_systemd_holds_for_the_service_is_its_own(host: FakeHost) -> None:
    deploy(host, described())
    host.sockets = {Listener("0.0.0.0", 8000, 7): Owner(1, "systemd", None)}
    assert deploy(host, described(container={"Environment": {"X": "1"}}))["a"]["action"] == "restarted"
    with pytest.raises(FleetError, match="port 8000 of 127.0.0.1 .* is held by a, a replica of ours|held by systemd"):
        deploy(host, service("b"))


def test_a_rollback_brings_the_socket_back_too(host: FakeHost) -> None:
    deploy(host, service("a"))
    deploy(host, described())
    back(host)
    assert not host.path(SOCKET).exists()
    deploy(host, described())
    deploy(host, service("a"))
    back(host)
    assert "ListenStream=0.0.0.0:8000" in host.path(SOCKET).read_text()


def test_a_file_that_is_read_again_is_written_without_a_restart(host: FakeHost) -> None:
    deploy(host, service("a", live_files={LIVE: "one"}))
    host.done()
    manager = ServiceManager(host, Settings(check=True))
    planned = manager.plan([service("a", live_files={LIVE: "two"})])
    (shown, _) = manager.diff(planned)
    assert (shown["before"], shown["after"], shown["after_header"]) == ("one", "two", LIVE)
    assert host.path(LIVE).read_text() == "one"
    outcome = deploy(host, service("a", live_files={LIVE: "two"}))["a"]
    assert (outcome["action"], outcome["reason"]) == ("none", "what it reads again itself changed")
    assert host.path(LIVE).read_text() == "two" and host.done() == []
    assert [line["live_files"] for line in record(host, "a")] == [{LIVE: "one"}, {LIVE: "two"}]
    assert deploy(host, service("a", live_files={LIVE: "two"}))["a"]["reason"] == ""
    assert len(record(host, "a")) == 2


def test_what_does_not_come_up_gets_its_files_back(host: FakeHost) -> None:
    deploy(host, service("a", live_files={LIVE: "one"}))
    broken = {"container": {"Environment": {"X": "broken"}}}
    with pytest.raises(FleetError, match="serves again"):
        deploy(host, service("a", live_files={LIVE: "two", "/etc/own/new": "x"}, **broken))
    assert host.path(LIVE).read_text() == "one" and not host.path("/etc/own/new").exists()


def test_a_rollback_goes_through_what_was_read_again(host: FakeHost) -> None:
    """Another configuration is a release too, though no unit changed for it."""
    deploy(host, service("a", live_files={LIVE: "one"}))
    deploy(host, service("a", live_files={LIVE: "two"}))
    deploy(host, service("a", live_files={LIVE: "three"}, container={"Environment": {"X": "1"}}))
    back(host)
    assert host.path(LIVE).read_text() == "two" and "X" not in host.text("a")
    back(host)
    assert host.path(LIVE).read_text() == "one"
