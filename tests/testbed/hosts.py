# SPDX-License-Identifier: GPL-3.0-or-later
"""Test hosts: bring up, take down, list, pause."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import engine, files, network, outer, rootfs
from .errors import TestbedError
from .settings import DYNAMIC_RANGE, LABEL, NETWORK, REGISTRY_HOST, REGISTRY_VOLUME, SUITE, SUITES, Settings

# A host has started what it serves before it counts as booted, and others use the processors meanwhile.
BOOT_SECONDS = 300
SPEC_LABEL = f"{LABEL}.spec"
IMAGE_LABEL = f"{LABEL}.image"


@dataclass(frozen=True)
class Host:
    """What the user asks for."""

    name: str
    ip: str | None = None
    gpu: bool = True
    volumes: tuple[str, ...] = ()
    """SRC:DST[:ro], as podman has it; SRC a path or the name of a volume."""
    tmpfs: tuple[str, ...] = ()
    """DST[:OPTIONS]."""
    registry: bool = field(default=False, repr=False)
    suite: str = SUITE
    """Release of Debian."""

    @property
    def storage(self) -> str:
        """Volume that holds the host's own images and containers."""
        return f"{self.name}-containers"

    def spec(self) -> str:
        """What is compared with a host that runs already; no address asked for is any address."""
        # The image says of which release a host is.
        return json.dumps({k: v for k, v in asdict(self).items() if k not in ("ip", "suite")}, sort_keys=True)


@dataclass
class Boot:
    """How a host came up."""

    name: str
    ip: str
    container: Any
    created: bool
    state: str = ""
    failed_units: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def parse(text: str, settings: Settings, **options: Any) -> Host:
    """Read NAME or NAME=IP."""
    name, _, ip = text.partition("=")
    valid = name.replace("-", "").replace("_", "").isalnum() and name.isascii() and len(name) <= 63
    if not valid or not name[0].isalnum():
        raise TestbedError(f"{name!r} cannot be a host's name; use letters, digits, - and _ (NAME or NAME=IP).")
    if options.get("suite", SUITE) not in SUITES:
        raise TestbedError(f"{options['suite']!r} is no release that a host can be made of; use {' or '.join(SUITES)}.")
    for volume in options.get("volumes", ()):
        _check_volume(volume)
    return Host(name, settings.address(ip) if ip else None, **options)


def _check_volume(text: str) -> None:
    """Raise for a volume that the API would take, by making an empty directory for a source that is not there."""
    source, colon, target = text.partition(":")
    if not colon or not target.startswith("/"):
        raise TestbedError(f"{text!r} is no volume; give SRC:DST or SRC:DST:ro with DST an absolute path.")
    if "/" in source and not (source.startswith("/") and Path(source).exists()):
        raise TestbedError(f"{source}, to be mounted on {target}, is no absolute path of something that exists.")


def up(settings: Settings, hosts: Sequence[Host], recreate: bool = False) -> list[Boot]:
    """Bring the hosts up together. If one fails, those that this call made are removed again."""
    if not rootfs.exists(settings, rootfs.current_image(settings)):
        raise TestbedError("the image of the test hosts is missing or older than this checkout; run `testbed prepare`.")
    for suite in {host.suite for host in hosts} - {SUITE}:
        rootfs.prepare(settings, suite=suite)
    client = engine.connect(settings)
    outer.ensure_inotify()
    boots: list[Boot] = []
    try:
        with files.lock(settings.cache / "hosts.lock"):
            network.ensure(settings, client)
            existing = {c.name: c for c in client.containers.list(all=True)}
            for host in hosts:
                (settings.off / host.name).unlink(missing_ok=True)
                image = rootfs.current_image(settings, host.suite)
                boots.append(_place(settings, client, host, image, existing, recreate))
        with ThreadPoolExecutor(max_workers=max(len(boots), 1)) as pool:
            for _ in pool.map(lambda boot: _boot(settings, boot), boots):
                pass
    except BaseException as error:
        for boot in boots:
            if boot.created:
                _keep_journal(settings, boot)
                _remove(client, boot.container)
        if isinstance(error, Exception) and engine.reason(error):
            names = ", ".join(host.name for host in hosts)
            raise TestbedError(f"podman could not bring up {names}: {engine.reason(error)}") from error
        raise
    return boots


def address(container: Any) -> str:
    """The address that a host was made with."""
    return str(container.labels.get(f"{LABEL}.ip", ""))


def _place(settings: Settings, client: Any, host: Host, image: str, existing: dict[str, Any], recreate: bool) -> Boot:
    """Create the host's container, or take the one that is there. Called under the lock."""
    there = existing.get(host.name)
    if there is not None:
        if LABEL not in there.labels:
            raise TestbedError(f"a container named {host.name} exists that is no test host; choose another name.")
        differs = _differences(there, host, image)
        if not differs:
            return Boot(host.name, address(there), there, created=False)
        if not recreate:
            raise TestbedError(
                f"host {host.name} exists with another {' and '.join(differs)}; give --recreate to replace it or "
                f"`testbed down {host.name}` first."
            )
        _remove(client, there)
        del existing[host.name]
    taken = {address(c): c.name for c in existing.values() if LABEL in c.labels}
    ip = host.ip or _free_address(settings, taken)
    if ip in taken:
        raise TestbedError(f"{ip}, asked for {host.name}, is the address of host {taken[ip]}; give another.")
    if ip == settings.registry_ip and not host.registry:
        raise TestbedError(f"{ip}, asked for {host.name}, is reserved for the registry; give another.")
    container = client.containers.create(image, **_arguments(client, host, image, ip))
    existing[host.name] = container
    return Boot(host.name, ip, container, created=True)


def _differences(container: Any, host: Host, image: str) -> list[str]:
    """What the existing container has otherwise than asked for."""
    differs = []
    if container.labels.get(IMAGE_LABEL) != image:
        differs.append("image")
    if host.ip and host.ip != address(container):
        differs.append("address")
    if container.labels.get(SPEC_LABEL) != host.spec():
        differs.append("set of options")
    return differs


def _free_address(settings: Settings, taken: dict[str, str]) -> str:
    for offset in DYNAMIC_RANGE:
        if str(settings.subnet[offset]) not in taken:
            return str(settings.subnet[offset])
    raise TestbedError(
        f"all addresses of {settings.subnet} for hosts without one of their own are taken; take some down."
    )


def _arguments(client: Any, host: Host, image: str, ip: str) -> dict[str, Any]:
    """Arguments of docker's containers.create."""
    labels = {
        LABEL: "registry" if host.registry else "host",
        f"{LABEL}.ip": ip,
        IMAGE_LABEL: image,
        SPEC_LABEL: host.spec(),
    }
    environment = {"TESTBED_GPU": str(int(host.gpu)), "TESTBED_REGISTRY": str(int(host.registry))}
    return {
        "name": host.name,
        "hostname": host.name,
        "labels": labels,
        "environment": environment,
        "privileged": True,
        "network": NETWORK,
        # a MAC address of its own: with another after each restart, ARP caches would be wrong for up to 30 s
        "networking_config": {NETWORK: client.api.create_endpoint_config(ipv4_address=ip, mac_address=network.mac(ip))},
        # a reboot ends the container, podman starts it again
        "restart_policy": {"Name": "always"},
        "volumes": [f"{host.storage}:/var/lib/containers", *host.volumes],
        "tmpfs": dict(entry.partition(":")[::2] for entry in host.tmpfs),
    }


def _boot(settings: Settings, boot: Boot) -> None:
    """Start the container and wait until systemd and sshd are there."""
    started = time.monotonic()
    if boot.container.status == "paused":
        boot.container.unpause()
    elif boot.container.status != "running":
        boot.container.start()
    network.keep_address(settings)
    boot.seconds["start"] = time.monotonic() - started
    deadline = started + BOOT_SECONDS
    boot.container.reload()
    boot.state = _until(deadline, lambda: system_state(boot.container), f"systemd of {boot.name}", boot)
    boot.seconds["systemd"] = time.monotonic() - started
    _until(deadline, lambda: ssh_banner(boot.ip), f"ssh of {boot.name} ({boot.ip}:22)", boot)
    boot.seconds["ssh"] = time.monotonic() - started
    if boot.state == "degraded":
        listed = _inside(boot.container, "systemctl", "list-units", "--failed", "--plain", "--no-legend")
        boot.failed_units = tuple(line.split()[0] for line in listed.splitlines())


def _until(deadline: float, question: Callable[[], str], what: str, boot: Boot) -> str:
    """Ask until the answer is not empty."""
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TestbedError(f"{what} did not answer within {BOOT_SECONDS} s; see `testbed logs {boot.name}`.")
        time.sleep(0.05)


def _inside(container: Any, *argv: str) -> str:
    """Run a command in the host's namespaces. nsenter costs a tenth of an exec through podman."""
    process = container.attrs["State"]["Pid"]
    if not process:
        return ""
    enter = ["nsenter", f"--target={process}", "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
    return subprocess.run([*enter, *argv], text=True, capture_output=True, check=False).stdout.strip()


def system_state(container: Any) -> str:
    """Answer "running" or "degraded" once systemd has started everything, "" before."""
    state = _inside(container, "systemctl", "is-system-running")
    if not state:
        container.reload()  # one that reboots meanwhile has another process
    return state if state in ("running", "degraded") else ""


def ssh_banner(ip: str) -> str:
    """What sshd says first, or ""."""
    try:
        with socket.create_connection((ip, 22), timeout=1) as connection:
            return connection.recv(64).decode(errors="replace").strip()
    except OSError:
        return ""


def _keep_journal(settings: Settings, boot: Boot) -> None:
    """Save the journal of a host that is about to be removed because it did not come up."""
    boot.container.reload()
    text = _inside(boot.container, "journalctl", "-b", "--no-pager")
    if text:
        files.write(settings.logs / f"{boot.name}.journal", text)


def _remove(client: Any, container: Any) -> None:
    """Remove a host with its storage."""
    import docker.errors

    try:
        container.remove(force=True, v=True)
        client.volumes.get(f"{container.name}-containers").remove(force=True)
    except docker.errors.NotFound:
        pass


def find(client: Any, names: Iterable[str] | None = None) -> list[Any]:
    """The testbed's containers, all or those named. Raises TestbedError for a name that is no test host."""
    found = {c.name: c for c in client.containers.list(all=True, filters={"label": LABEL})}
    if names is None:
        return list(found.values())
    unknown = [name for name in names if name not in found]
    if unknown:
        there = ", ".join(sorted(found)) or "none"
        raise TestbedError(f"there is no test host {unknown[0]}; there are: {there}.")
    return [found[name] for name in names]


def down(settings: Settings, names: Iterable[str] | None) -> list[str]:
    """Remove the named hosts (those that are not there are no error), or all, registry, network and service too."""
    client = engine.connect(settings)
    with files.lock(settings.cache / "hosts.lock"):
        wanted = None if names is None else set(names)
        gone = [c for c in find(client) if wanted is None or c.name in wanted]
        with ThreadPoolExecutor(max_workers=max(len(gone), 1)) as pool:
            for _ in pool.map(lambda container: _remove(client, container), gone):
                pass
        if names is None:
            network.remove(client)
            client.close()
            engine.stop(settings)
    return [c.name for c in gone]


def act(settings: Settings, action: str, names: Sequence[str]) -> None:
    """stop, cut, start, pause or unpause hosts: a node that is lost and comes back."""
    client = engine.connect(settings)

    def one(container: Any) -> None:
        off = settings.off / container.name
        if action == "start":
            off.unlink(missing_ok=True)
            _boot(settings, Boot(container.name, address(container), container, created=False))
        elif action in ("stop", "cut"):
            # so that nobody takes it for one that rebooted and did not come back
            off.parent.mkdir(exist_ok=True)
            off.touch()
            container.stop(timeout=10 if action == "stop" else 0)
        else:
            getattr(container, action)()

    found = find(client, names)
    with ThreadPoolExecutor(max_workers=max(len(found), 1)) as pool:
        for _ in pool.map(one, found):
            pass


def table(settings: Settings) -> list[dict[str, str]]:
    """Name, address, state and kind of every host."""
    client = engine.connect(settings)
    return [
        {"name": c.name, "ip": address(c), "state": c.status, "kind": c.labels[LABEL]}
        for c in sorted(find(client), key=lambda c: [int(part) for part in address(c).split(".")])
    ]


def registry(settings: Settings) -> Boot:
    """Bring up the host that is the registry; what was pushed survives it."""
    host = Host(
        REGISTRY_HOST, settings.registry_ip, gpu=False, registry=True,
        volumes=(f"{REGISTRY_VOLUME}:/var/lib/docker-registry",),
    )  # fmt: skip
    return up(settings, [host], recreate=True)[0]
