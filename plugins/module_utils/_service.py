# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Container services of one host: make the units be what is described, and only what changed is restarted.

A service counts as started when systemd says so, which (with ``Notify=healthy``) is when its health probe
passed. One that does not come up is taken back to the unit that it had before, and the error quotes its
journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from ansible_collections.trtllm.fleet.plugins.module_utils import _ports, _quadlet, _service_record
from ansible_collections.trtllm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._files import write_atomically
from ansible_collections.trtllm.fleet.plugins.module_utils._names import check_name
from ansible_collections.trtllm.fleet.plugins.module_utils._service_host import ServiceHost, UnitState, error_line
from ansible_collections.trtllm.fleet.plugins.module_utils._service_record import ReleaseRecord
from ansible_collections.trtllm.fleet.plugins.module_utils._sizes import GIB

# Growing pauses between restarts, and the first systemd that has them; an older one gets a fixed pause.
BACK_OFF = ("RestartSteps", "RestartMaxDelaySec")
BACK_OFF_FIRST = 254
FIXED_PAUSE = 5
START, RESTART, NONE, REMOVE = "start", "restart", "none", "remove"
DONE = {START: "started", RESTART: "restarted", NONE: "none", REMOVE: "removed"}


@dataclass(frozen=True)
class Listen:
    """An address that a service listens on; *what* is for messages."""

    address: str
    port: int
    what: str = "its port"

    def __post_init__(self) -> None:
        try:
            ipaddress.ip_address(self.address)
        except ValueError as error:
            raise FleetError(f"{self.address!r} is no IP address to listen on; give one, e.g. 127.0.0.1.") from error


@dataclass(frozen=True)
class Service:
    """One service as described. *load_paths*: what it reads at start, which sets its time limit.

    *record*: what the release record says of it beside the unit.
    """

    name: str
    unit: Mapping[str, Mapping[str, Any]]
    listen: tuple[Listen, ...] = ()
    load_paths: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """How services are managed. *prune_prefix*: services so named belong to this call; others of the prefix
    are stale, and removed where *prune* is set. *podman_version*: instead of asking the host."""

    releases_dir: str = "/var/lib/trtllm/releases"
    start_timeout: int = 120
    start_seconds_per_gib: int = 10
    podman_version: Optional[str] = None
    prune_prefix: Optional[str] = None
    prune: bool = False
    check: bool = False


@dataclass
class Planned:
    """What is to be done with one service. *before* holds the unit files that are there, by path."""

    name: str
    action: str
    state: UnitState
    rendered: Optional[_quadlet.RenderedUnit] = None
    before: dict[str, str] = field(default_factory=dict)
    listen: tuple[Listen, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = _service_record.SERVING
    stop_first: set[str] = field(default_factory=set)
    error: str = ""

    @property
    def old_text(self) -> str:
        """The unit that there was, empty for none."""
        return next(iter(self.before.values()), "")

    @property
    def new_text(self) -> str:
        """The unit that there shall be, empty for none."""
        return self.rendered.text if self.rendered else ""

    @property
    def file_changes(self) -> bool:
        """Whether unit files are written or removed."""
        wanted = {self.rendered.path: self.rendered.text} if self.rendered else {}
        return self.before != wanted


class ServiceFailed(FleetError):
    """At least one service did not come up. *outcomes* say for every service what was done."""

    def __init__(self, message: str, outcomes: dict[str, dict[str, Any]]) -> None:
        super().__init__(message, {"services": outcomes})
        self.outcomes = outcomes


class ServiceManager:
    """Brings the services of a host to what is described."""

    def __init__(self, host: ServiceHost, settings: Settings) -> None:
        self.host = host
        self.settings = settings
        self.notes: list[str] = []
        self.stale: list[str] = []
        self._images: dict[str, str] = {}

    # -- planning ---------------------------------------------------------------------------------------

    def plan(self, services: Sequence[Service], absent: Sequence[str] = ()) -> list[Planned]:
        """What has to be done, after all checks; nothing is touched. Raises `FleetError` for a refusal."""
        _check_names("services[].name", [service.name for service in services])
        _check_names("absent", absent)
        _check_names("prune_prefix", [self.settings.prune_prefix] if self.settings.prune_prefix is not None else [])
        version = self._podman_version()
        systemd = self.host.systemd_version()
        names = [service.name for service in services]
        self.stale = sorted(set(self._present(self.settings.prune_prefix)) - set(names))
        gone = sorted({*absent, *(self.stale if self.settings.prune else [])})
        states = self.host.states([*names, *gone, *self.stale])
        planned = [self._plan_one(service, version, systemd, states[service.name]) for service in services]
        planned += [
            Planned(name, REMOVE, states[name], before=before)
            for name in gone
            for before in [self._unit_files(name)]
            if before or states[name].loaded
        ]
        self._check(planned, states)
        return planned

    def _podman_version(self) -> Optional[str]:
        version = self.settings.podman_version or self.host.podman_version()
        if version is None and not self.settings.check:
            raise FleetError("podman is not installed on this host; run the podman role first.")
        if version is None:
            major, minor = _quadlet.podman_version(None)
            self.notes.append(
                f"podman is not installed on this host yet; units are shown as podman {major}.{minor} gets them."
            )
        return version

    def _plan_one(self, service: Service, version: Optional[str], systemd: int, state: UnitState) -> Planned:
        unit = self._unit(service, systemd)
        rendered = _quadlet.render(service.name, unit, version)
        self.notes += [f"{service.name}: {note}" for note in rendered.notes]
        before = self._unit_files(service.name)
        if before != {rendered.path: rendered.text}:
            action = RESTART if state.active in ("active", "activating", "reloading") else START
        elif state.active != "active":
            action = START
        elif service.unit["Container"].get("HealthCmd") and not self.host.healthy(container_name(service)):
            action = RESTART
        else:
            # A run that was cut off between writing the unit and restarting left an older service running.
            action = RESTART if self._written(rendered.path) > state.started + 1 else NONE
        container = unit["Container"]
        record = {
            **service.record,
            "image": container["Image"],
            "mounts": mounts(container.get("Volume")),
            "listen": [f"{listen.address}:{listen.port}" for listen in service.listen],
        }
        return Planned(service.name, action, state, rendered, before, service.listen, record)

    def plan_rollback(self, names: Sequence[str]) -> list[Planned]:
        """Bring back what served before the present units; raises `FleetError` where nothing can come back."""
        _check_names("names", names)
        version = self._podman_version()
        states = self.host.states(names)
        planned = [self._plan_back(name, states[name], version) for name in names]
        if not self.settings.check:
            self._check_parts(planned)
        return planned

    def _plan_back(self, name: str, state: UnitState, version: Optional[str]) -> Planned:
        before = self._unit_files(name)
        found = ReleaseRecord(self.host.path(self.settings.releases_dir), name).before("".join(before.values()))
        if found is None:
            raise FleetError(f"{name}: the release record knows no unit that served before this one.")
        if found["unit_path"] != _quadlet.unit_path(name, version):
            raise FleetError(
                f"{name}: the unit of {found['time']} was made for another podman ({found['unit_path']}); deploy that "
                "release again instead."
            )
        quadlet = found["unit_path"].endswith(".container")
        rendered = _quadlet.RenderedUnit(found["unit_path"], found["unit"], quadlet, [])
        action = RESTART if state.active in ("active", "activating", "reloading") else START
        record = {key: value for key, value in found.items() if key not in _service_record.OWN_KEYS}
        return Planned(name, action, state, rendered, before, (), record, _service_record.ROLLED_BACK)

    def _unit(self, service: Service, systemd: int) -> dict[str, Mapping[str, Any]]:
        unit = {section: dict(keys) for section, keys in service.unit.items()}
        settings = unit.setdefault("Service", {})
        dropped = [settings.pop(key, None) for key in BACK_OFF] if systemd < BACK_OFF_FIRST else []
        if any(dropped):
            settings["RestartSec"] = FIXED_PAUSE
        settings.setdefault("TimeoutStartSec", self._start_timeout(service))
        volumes = unit["Container"].get("Volume")
        if volumes and not self.host.selinux():
            volumes = volumes if isinstance(volumes, (list, tuple)) else [volumes]
            unit["Container"]["Volume"] = [without_label(volume) for volume in volumes]
        unit["Container"]["Image"] = self._immutable(str(unit["Container"]["Image"]))
        return {section: keys for section, keys in unit.items() if keys}

    def _immutable(self, image: str) -> str:
        """A name by digest or id, so that the unit changes when the image does. A name by tag is looked up."""
        if re.search(r"(^|@)sha256:[0-9a-f]{64}$", image):
            return image
        if image not in self._images:
            self._images[image] = self.host.image_id(image) or image
        return self._images[image]

    def _start_timeout(self, service: Service) -> int:
        """Seconds: a fixed part, and one for every GiB to load, in steps so that it does not change for a byte."""
        seconds = self.host.size(service.load_paths) / GIB * self.settings.start_seconds_per_gib
        return self.settings.start_timeout + 30 * math.ceil(seconds / 30)

    def _unit_files(self, name: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in (f"{_quadlet.QUADLET_DIR}/{name}.container", f"{_quadlet.SERVICE_DIR}/{name}.service"):
            with contextlib.suppress(FileNotFoundError):
                found[path] = self.host.path(path).read_text()
        return found

    def _present(self, prefix: Optional[str]) -> list[str]:
        if prefix is None:
            return []
        found: set[str] = set()
        for directory, suffix in ((_quadlet.QUADLET_DIR, ".container"), (_quadlet.SERVICE_DIR, ".service")):
            for path in self.host.path(directory).glob(f"{prefix}*{suffix}"):
                if path.read_text().startswith(_quadlet.HEADER):
                    found.add(path.name.removesuffix(suffix))
        return sorted(found)

    def _written(self, path: str) -> float:
        return self.host.path(path).stat().st_mtime

    # -- refusals ---------------------------------------------------------------------------------------

    def _check(self, planned: Sequence[Planned], states: Mapping[str, UnitState]) -> None:
        starting = [item for item in planned if item.action in (START, RESTART)]
        if not starting:
            return
        removed = {item.name for item in planned if item.action == REMOVE}
        running = [name for name in self.stale if name not in removed and states[name].active != "inactive"]
        self._check_devices(starting, running)
        self._check_ports(starting, removed)
        if not self.settings.check:
            self._check_parts(starting)

    def _check_devices(self, starting: Sequence[Planned], stale: Sequence[str]) -> None:
        for name in stale:
            text = "".join(self._unit_files(name).values())
            for item in starting:
                shared = sorted(devices(text) & devices(item.new_text))
                if shared:
                    raise FleetError(
                        f"{item.name}: {', '.join(shared)} is in use by {name}, which is not described any more; "
                        "have stale services removed, or give it other devices. Nothing was changed."
                    )

    def _check_ports(self, starting: Sequence[Planned], removed: set[str]) -> None:
        sockets = self.host.listeners()
        held = [
            (item, listen, socket)
            for item in starting
            for listen in item.listen
            for socket in _ports.conflicts(listen.address, listen.port, sockets)
        ]
        owners = self.host.owners({socket.inode for _item, _listen, socket in held}) if held else {}
        by_unit = {f"{item.name}.service": item for item in starting}
        for item, listen, socket in held:
            owner = owners.get(socket.inode)
            unit = owner.unit if owner else None
            if unit == f"{item.name}.service" or (unit or "").removesuffix(".service") in removed:
                continue
            other = by_unit.get(unit or "")
            if other is not None and not _wants(other, listen):
                item.stop_first.add(other.name)  # ports change hands between services of this call
                continue
            raise FleetError(
                f"{item.name}: port {listen.port} of {listen.address} ({listen.what}) is held by "
                f"{owner or 'a process that cannot be seen'}; stop that, or give {item.name} another port. "
                "Nothing was changed."
            )

    def _check_parts(self, starting: Sequence[Planned]) -> None:
        images = {str(item.record["image"]): item.name for item in starting}
        for image, name in images.items():
            if self.host.image_id(image) is None:
                raise FleetError(
                    f"{name}: the image {image} is not on this host, and units never pull; bring it there first."
                )
        for item in starting:
            for path in item.record["mounts"]:
                if not self.host.path(path).exists():
                    raise FleetError(f"{item.name}: {path} does not exist on this host; make it first.")

    # -- doing ------------------------------------------------------------------------------------------

    def apply(self, planned: Sequence[Planned]) -> dict[str, dict[str, Any]]:
        """Do what was planned and return what was done; raises `ServiceFailed` when a service did not come up."""
        todo = [item for item in planned if item.action != NONE or item.file_changes]
        with self._lock() if todo else contextlib.nullcontext():
            self._remove([item for item in planned if item.action == REMOVE])
            self._write([item for item in planned if item.action != REMOVE])
            self._run(planned)
        failed = [item for item in planned if item.error]
        outcomes = self.outcomes(planned)
        if failed:
            raise ServiceFailed(" ".join(item.error for item in failed), outcomes)
        return outcomes

    def outcomes(self, planned: Sequence[Planned]) -> dict[str, dict[str, Any]]:
        """For every service: its unit, what was (or would be) done, and its state."""
        names = [item.name for item in planned if item.action != REMOVE]
        acted = any(item.action != NONE for item in planned) and not self.settings.check
        states = self.host.states(names) if acted else {item.name: item.state for item in planned}
        return {
            item.name: {
                "unit": f"{item.name}.service",
                "path": item.rendered.path if item.rendered else "",
                "action": "failed" if item.error else DONE[item.action],
                "active": states[item.name].active if item.name in states else "inactive",
                "since": states[item.name].since if item.name in states else 0,
                "unit_sha256": _service_record.checksum(item.new_text) if item.new_text else "",
                "error": item.error,
            }
            for item in planned
        }

    @staticmethod
    def diff(planned: Sequence[Planned]) -> list[dict[str, str]]:
        """Before and after of every unit file that changes, as Ansible shows them."""
        return [
            {
                "before": item.old_text,
                "after": item.new_text,
                "before_header": next(iter(item.before), item.name),
                "after_header": item.rendered.path if item.rendered else f"{item.name} (removed)",
            }
            for item in planned
            if item.file_changes
        ]

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        directory = self.host.path(self.settings.releases_dir)
        directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        with open(directory / ".lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _remove(self, items: Sequence[Planned]) -> None:
        if not items:
            return
        units = [f"{item.name}.service" for item in items]
        self.host.systemctl(["stop", "--", *units])
        for item in items:
            self._disable(item)
            self._unlink(item.before)
        self._reload()
        self.host.systemctl(["reset-failed", "--", *units])
        for item in items:
            self._record_old(item, _service_record.REMOVED)

    def _write(self, items: Sequence[Planned]) -> None:
        changed = [item for item in items if item.file_changes and item.rendered]
        for item in changed:
            self._put_files(item, {item.rendered.path: item.rendered.text} if item.rendered else {})
        if changed or any(item.state.needs_reload for item in items):
            self._reload()
        for item in items:
            self._enable(item)

    def _put_files(self, item: Planned, files: Mapping[str, str]) -> None:
        for path, text in files.items():
            write_atomically(self.host.path(path), text.encode())
        self._unlink([path for path in self._unit_files(item.name) if path not in files])

    def _unlink(self, paths: Mapping[str, str] | Sequence[str]) -> None:
        for path in paths:
            self.host.path(path).unlink(missing_ok=True)

    def _enable(self, item: Planned) -> None:
        """A plain service is started at boot only when enabled; the generator does that for a Quadlet."""
        if item.rendered and not item.rendered.quadlet and item.state.enabled != "enabled":
            self._systemctl("enable", item.name)

    def _disable(self, item: Planned) -> None:
        if item.state.enabled == "enabled":
            self.host.systemctl(["disable", "--", f"{item.name}.service"])

    def _reload(self) -> None:
        done = self.host.systemctl(["daemon-reload"])
        if done.returncode:
            raise FleetError(f"'systemctl daemon-reload' failed: {done.stderr.strip()}")

    def _systemctl(self, verb: str, *names: str) -> None:
        done = self.host.systemctl([verb, "--", *(f"{name}.service" for name in names)])
        if done.returncode:
            raise FleetError(f"'systemctl {verb} {' '.join(names)}' failed: {done.stderr.strip()}")

    def _run(self, planned: Sequence[Planned]) -> None:
        """Start together what is not running; restart one by one what is, so that its fellows serve on."""
        starting = [item for item in planned if item.action == START]
        restarting = [item for item in planned if item.action == RESTART]
        first = sorted({name for item in [*starting, *restarting] for name in item.stop_first})
        if first:
            self._systemctl("stop", *first)
        groups = [[item] for item in restarting]
        groups.insert(0, starting)
        for group in groups:
            if group and not any(item.error for item in planned):
                self._come_up(group)
        if first and any(item.error for item in planned):
            self._take_all_back([*starting, *restarting])

    def _come_up(self, items: Sequence[Planned]) -> None:
        since = self.host.now()
        verb = "restart" if items[0].action == RESTART else "start"
        done = self.host.systemctl([verb, "--", *(f"{item.name}.service" for item in items)])
        states = self.host.states([item.name for item in items])
        for item in items:
            if states[item.name].active == "active":
                self._record(item, item.outcome, item.rendered.path if item.rendered else "", item.new_text)
            else:
                self._take_back(item, states[item.name], done.stderr, since)

    def _take_back(self, item: Planned, state: UnitState, stderr: str, since: float) -> None:
        """Put the previous unit of a service back, or remove a unit that never served."""
        reason = self._reason(item, state, stderr, since)
        path = item.rendered.path if item.rendered else ""
        self._record(item, _service_record.FAILED, path, item.new_text, error=reason)
        self.host.systemctl(["stop", "--", f"{item.name}.service"])
        item.error = f"{item.name} did not come up: {reason}. {self._restore(item)}"

    def _restore(self, item: Planned) -> str:
        """Files and state as before; returns the sentence that says what became of the service."""
        if not item.file_changes:
            return "Its unit is unchanged and stopped."
        self._put_files(item, item.before)
        self._reload()
        if not item.before:
            self.host.systemctl(["reset-failed", "--", f"{item.name}.service"])
            return "Its unit was removed again."
        if item.action != RESTART:
            return "Its previous unit was put back, stopped as it was."
        if self.host.systemctl(["start", "--", f"{item.name}.service"]).returncode:
            return f"Its previous unit was put back and did not come up either; see journalctl -u {item.name}."
        self._record_old(item, _service_record.PUT_BACK)
        return "Its previous unit was put back and serves again."

    def _take_all_back(self, items: Sequence[Planned]) -> None:
        """When ports changed hands, a service cannot go back alone: another has its port by now."""
        self.host.systemctl(["stop", "--", *(f"{item.name}.service" for item in items)])
        for item in items:
            sentence = self._restore(item)
            known = item.error or f"{item.name} was taken back too, as ports changed hands."
            item.error = f"{known.split(' Its ')[0]} {sentence}"

    def _reason(self, item: Planned, state: UnitState, stderr: str, since: float) -> str:
        if not state.loaded:
            path = item.rendered.path if item.rendered else ""
            return f"systemd does not know the unit, so podman's generator refused {path}"
        line = error_line(self.host.journal(item.name, since))
        late = " (it was not healthy in time)" if state.result == "timeout" or "timeout" in stderr else ""
        return f'"{line}"{late}'

    def _record_old(self, item: Planned, outcome: str) -> None:
        """A line about the unit that there was, with what an earlier line told of it."""
        record = ReleaseRecord(self.host.path(self.settings.releases_dir), item.name)
        path, text, now = next(iter(item.before), ""), item.old_text, self.host.now()
        record.append(_service_record.entry(outcome, path, text, now, {"service": item.name, **record.known(text)}))

    def _record(self, item: Planned, outcome: str, path: str, text: str, **more: Any) -> None:
        extra = {"service": item.name, **item.record, **more}
        record = ReleaseRecord(self.host.path(self.settings.releases_dir), item.name)
        record.append(_service_record.entry(outcome, path, text, self.host.now(), extra))


def _check_names(what: str, names: Sequence[str]) -> None:
    for name in names:
        check_name(name, what)


def _wants(item: Planned, listen: Listen) -> bool:
    """Whether the new unit of *item* listens where *listen* does."""
    return any(own.port == listen.port and _ports.overlap(own.address, listen.address) for own in item.listen)


def container_name(service: Service) -> str:
    """The container of a service."""
    return str(service.unit["Container"].get("ContainerName") or f"systemd-{service.name}")


def without_label(volume: str) -> str:
    """A volume without its request to relabel, for hosts that have no SELinux."""
    parts = volume.split(":")
    if len(parts) < 3:
        return volume
    options = [option for option in parts[2].split(",") if option not in ("z", "Z")]
    return ":".join(parts[:2] + ([",".join(options)] if options else []))


def mounts(volumes: Any) -> list[str]:
    """The directories of the host among the volumes of a unit."""
    listed = volumes if isinstance(volumes, (list, tuple)) else [volumes] if volumes else []
    return [source for source in (str(volume).split(":")[0] for volume in listed) if source.startswith("/")]


def devices(unit: str) -> set[str]:
    """The devices that a unit's text hands out."""
    return set(re.findall(r"(?:^AddDevice=|--device[= ])\"?([^\s\"]+)", unit, re.M))
