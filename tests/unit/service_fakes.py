# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with systemd and podman that remembers what was asked of it, and services to deploy there."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Optional

from ansible_collections.trtllm.fleet.plugins.module_utils._base.ports import Listener, Owner
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.cli import ContainerState
from ansible_collections.trtllm.fleet.plugins.module_utils._service.host import Identity, ServiceHost, UnitState
from ansible_collections.trtllm.fleet.plugins.module_utils._service.manager import ServiceManager
from ansible_collections.trtllm.fleet.plugins.module_utils._service.running import bind_mounts
from ansible_collections.trtllm.fleet.plugins.module_utils._service.types import Listen, Service, Settings

NOW = 2_000_000_000.0
IMAGE = "sha256:" + "1" * 64
QUADLETS = "/etc/containers/systemd"


class FakeHost(ServiceHost):
    """A host with systemd, of which a unit with the word ``broken`` never comes up."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.podman: Optional[str] = "5.4.2"
        self.systemd = 257
        self.running: dict[str, UnitState] = {}
        self.calls: list[str] = []
        self.sockets: dict[Listener, Owner] = {}
        self.log = ["I1120 starting", "E1120 13:00:00.1 1 model.cc:44] cannot read config.pbtxt", "mpirun has exited"]
        self.images = {IMAGE: IMAGE, "triton:1": "sha256:" + "2" * 64}
        self.unhealthy: set[str] = set()
        self.started: dict[str, ContainerState] = {}
        self.held: dict[tuple[int, str], Identity] = {}
        self.drop_in: dict[str, str] = {}  # environment that something beside the units gives
        self.with_selinux = False

    def podman_version(self) -> Optional[str]:
        return self.podman

    def systemd_version(self) -> int:
        return self.systemd

    def text(self, name: str) -> str:
        for path in (f"{QUADLETS}/{name}.container", f"/etc/systemd/system/{name}.service"):
            if self.path(path).exists():
                return self.path(path).read_text()
        return ""

    def systemctl(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        names = [word.removesuffix(".service") for word in arguments[1:] if word != "--"]
        self.calls.append(" ".join([arguments[0], *names]))
        code = 0
        for name in names:
            if arguments[0] in ("start", "restart"):
                broken = "broken" in self.text(name)
                self.start_container(name)
                code |= broken
                self.running[name] = UnitState(
                    True, "failed" if broken else "active", result="exit-code" if broken else "success",
                    started=int(NOW) + 10, since=int(NOW) + 10, enabled="generated",
                )  # fmt: skip
            elif arguments[0] == "stop":
                self.running[name] = UnitState(loaded=bool(self.text(name)))
        return subprocess.CompletedProcess(list(arguments), code, "", "Job failed" if code else "")

    def start_container(self, name: str) -> None:
        """What podman makes of the unit: the container holds what is at its volumes' paths by now."""
        text, pid = self.text(name), len(self.started) + 1
        settings = [line.partition("=")[::2] for line in text.splitlines() if "=" in line]
        given = dict(value.partition("=")[::2] for key, value in settings if key == "Environment")
        image = next((value for key, value in settings if key == "Image"), IMAGE)
        self.started[name] = ContainerState(
            name, "1f", "running", 0, False, self.images.get(image, image),
            command=tuple(shlex.split(dict(settings).get("Exec", ""))),
            environment={**given, **self.drop_in},
            pid=pid,
        )  # fmt: skip
        for source, target in bind_mounts([value for key, value in settings if key == "Volume"]):
            identity = self.identity(source)
            if identity:
                self.held[pid, target] = identity

    def containers(self, names: Sequence[str]) -> dict[str, ContainerState]:
        return {name: self.started[name] for name in names if name in self.started}

    def identity_in_container(self, pid: int, target: str) -> Optional[Identity]:
        return self.held.get((pid, target))

    def states(self, names: Sequence[str]) -> dict[str, UnitState]:
        return {name: self.running.get(name, UnitState(loaded=bool(self.text(name)))) for name in names}

    def journal(self, name: str, since: float, lines: int = 2000) -> list[str]:
        return self.log

    def listeners(self) -> list[Listener]:
        return list(self.sockets)

    def owners(self, inodes: Iterable[int]) -> dict[int, Owner]:
        return {socket.inode: owner for socket, owner in self.sockets.items() if socket.inode in set(inodes)}

    def selinux(self) -> bool:
        return self.with_selinux

    def image_id(self, reference: str) -> Optional[str]:
        return self.images.get(reference)

    def healthy(self, container: str) -> bool:
        return container not in self.unhealthy

    def now(self) -> float:
        return NOW

    def done(self) -> list[str]:
        """What was asked of systemd since the last time, but for looking."""
        calls, self.calls = self.calls, []
        return calls


def service(name: str, port: int = 8000, **more: Any) -> Service:
    container: dict[str, Any] = {"ContainerName": name, "Image": IMAGE, "Exec": ["serve", f"--port={port}"]}
    unit = {"Container": {**container, **more.pop("container", {})}, "Service": {"Restart": "on-failure"}}
    return Service(name, unit, (Listen("127.0.0.1", port, "HTTP"),), **more)


def deploy(host: FakeHost, *services: Service, **settings: Any) -> dict[str, dict[str, Any]]:
    manager = ServiceManager(host, Settings(**settings))
    planned = manager.plan(services)
    return manager.outcomes(planned) if settings.get("check") else manager.apply(planned)


def record(host: FakeHost, name: str) -> list[dict[str, Any]]:
    path = host.path(f"/var/lib/trtllm/releases/{name}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
