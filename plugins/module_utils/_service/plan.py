# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be done so that the services of a host are as described; nothing is touched."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from .._base.errors import FleetError
from .._base.names import check_name
from .._base.sizes import GIB
from . import quadlet as service_quadlet
from . import record as service_record
from . import refusals
from .host import ServiceHost, UnitState
from .record import ReleaseRecord
from .running import differences, lasting_note
from .types import NONE, REMOVE, RESTART, START, Planned, Service, Settings
from .units import changed_keys, container_name, mounts, own_units, unit_files, unit_text, without_label

# Growing pauses between restarts, and the first systemd that has them; an older one gets a fixed pause.
BACK_OFF = ("RestartSteps", "RestartMaxDelaySec")
BACK_OFF_FIRST = 254
FIXED_PAUSE = 5


def _check_names(what: str, names: Sequence[str]) -> None:
    for name in names:
        check_name(name, what)


class Planner:
    """Compares what is described with what is there."""

    def __init__(self, host: ServiceHost, settings: Settings) -> None:
        self.host = host
        self.settings = settings
        self.notes: list[str] = []
        self.stale: list[str] = []
        self._images: dict[str, str] = {}

    def plan(self, services: Sequence[Service], absent: Sequence[str] = ()) -> list[Planned]:
        """What has to be done, after all checks; nothing is touched. Raises `FleetError` for a refusal."""
        _check_names("services[].name", [service.name for service in services])
        _check_names("absent", absent)
        _check_names("prune_prefix", [self.settings.prune_prefix] if self.settings.prune_prefix is not None else [])
        version = self._podman_version()
        systemd = self.host.systemd_version()
        names = [service.name for service in services]
        prefix = self.settings.prune_prefix
        self.stale = [] if prefix is None else sorted(set(own_units(self.host, prefix)) - set(names))
        gone = sorted({*absent, *(self.stale if self.settings.prune else [])})
        states = self.host.states([*names, *gone, *self.stale])
        planned = [self._plan_one(service, version, systemd, states[service.name]) for service in services]
        planned += [
            Planned(name, REMOVE, states[name], before=before, reason="it is not described")
            for name in gone
            for before in [unit_files(self.host, name)]
            if before or states[name].loaded
        ]
        removed = {item.name for item in planned if item.action == REMOVE}
        staying = [name for name in self.stale if name not in removed and states[name].active != "inactive"]
        refusals.check(self.host, self.settings, planned, staying)
        return planned

    def _podman_version(self) -> Optional[str]:
        version = self.settings.podman_version or self.host.podman_version()
        if version is None and not self.settings.check:
            raise FleetError("podman is not installed on this host; run the podman role first.")
        if version is None:
            major, minor = service_quadlet.podman_version(None)
            self.notes.append(
                f"podman is not installed on this host yet; units are shown as podman {major}.{minor} gets them."
            )
        return version

    def _plan_one(self, service: Service, version: Optional[str], systemd: int, state: UnitState) -> Planned:
        unit = self._unit(service, systemd)
        rendered = service_quadlet.render(service.name, unit, version)
        self.notes += [f"{service.name}: {note}" for note in rendered.notes]
        before = unit_files(self.host, service.name)
        container = unit["Container"]
        record = {
            **service.record,
            "image": container["Image"],
            "mounts": mounts(container.get("Volume")),
            "listen": [f"{listen.address}:{listen.port}" for listen in service.listen],
        }
        # What a rollback has to bring back beside the unit.
        beside = {"socket": rendered.socket, "live_files": dict(service.live_files)}
        record.update({key: value for key, value in beside.items() if value})
        files = {path: text for path, text in service.files.items() if self._text(path) != text}
        item = Planned(
            service.name, NONE, state, rendered, before, service.listen, record, container=container, files=files
        )
        self._set_live_files(item, service.live_files)
        self._decide(item)
        return item

    def _set_live_files(self, item: Planned, wanted: Mapping[str, str]) -> None:
        there = {path: self._text(path) for path in wanted}
        item.live_files = {path: text for path, text in wanted.items() if there[path] != text}
        item.live_before = {path: there[path] for path in item.live_files}

    def _decide(self, item: Planned) -> None:
        """Set what is to be done with a described service, and why."""
        active = item.state.active in ("active", "activating", "reloading")
        if item.file_changes:
            item.action = RESTART if active else START
            keys = changed_keys(item.before, item.rendered.files if item.rendered else {})
            item.reason = f"its unit changed{': ' if keys else ''}{', '.join(keys)}" if item.before else "it is new"
        elif item.state.active != "active":
            item.action, item.reason = START, f"it is {item.state.active}"
        elif self._written(item.new_path) > item.state.started + 1:
            # A run was cut off between writing the unit and restarting.
            item.action, item.reason = RESTART, "it was started before its unit was written"
        else:
            self._compare(item)

    def _compare(self, item: Planned) -> None:
        """Judge a service that runs and has the right unit."""
        name = container_name(item.name, item.container)
        record = ReleaseRecord(self.host.path(self.settings.releases_dir), item.name)
        found = differences(self.host, item.container, self.host.containers([name]).get(name))
        # What differs ever since the unit was started does so again after a restart.
        lasting = record.differs(item.new_text)
        item.differences = [difference for difference in found if difference.what not in lasting]
        self.notes += [lasting_note(item.name, difference) for difference in found if difference.what in lasting]
        if item.differences:
            item.action, item.reason = RESTART, "; ".join(difference.what for difference in item.differences)
        elif item.container.get("HealthCmd") and not self.host.healthy(name):
            item.action, item.reason = RESTART, "its health probe fails"
        elif item.live_files:
            item.record_again, item.reason = True, "what it reads again itself changed"
        elif not record.tells(item.new_text, item.record):
            item.record_again, item.reason = True, "its release record does not tell of it"
        elif item.files:
            item.reason = "a file of it is missing or was changed"

    def plan_rollback(self, names: Sequence[str], to: Optional[Mapping[str, str]] = None) -> list[Planned]:
        """Bring back what served before the present units; raises `FleetError` where nothing can come back.

        *to*: for some of the services the sha256 of the unit that shall serve, empty for none at all.
        """
        _check_names("names", names)
        version = self._podman_version()
        states = self.host.states(names)
        wanted = dict(to or {})
        planned = [self._plan_back(name, states[name], version, wanted.get(name)) for name in names]
        planned = [item for item in planned if item.rendered or item.before]  # the others are gone already
        if not self.settings.check:
            refusals.check_parts(self.host, [item for item in planned if item.action != REMOVE])
        return planned

    def _plan_back(self, name: str, state: UnitState, version: Optional[str], to: Optional[str]) -> Planned:
        before = unit_files(self.host, name)
        if to == "":
            return Planned(name, REMOVE, state, None, before, reason="it did not exist then")
        record = ReleaseRecord(self.host.path(self.settings.releases_dir), name)
        found = record.before(unit_text(before)) if to is None else record.served(str(to))
        if found is None:
            what = "no unit that served before this one" if to is None else f"no unit {str(to)[:12]} that served"
            raise FleetError(f"{name}: the release record knows {what}.")
        if found["unit_path"] != service_quadlet.unit_path(name, version):
            raise FleetError(
                f"{name}: the unit of {found['time']} was made for another podman ({found['unit_path']}); deploy that "
                "release again instead."
            )
        quadlet = found["unit_path"].endswith(".container")
        socket = str(found.get("socket") or "")
        rendered = service_quadlet.RenderedUnit(found["unit_path"], found["unit"], quadlet, [], socket)
        runs = state.active in ("active", "activating", "reloading")
        there = runs and before == rendered.files
        action = NONE if there and to is not None else RESTART if runs else START
        kept = {key: value for key, value in found.items() if key not in service_record.OWN_KEYS}
        item = Planned(
            name, action, state, rendered, before, (), kept, service_record.ROLLED_BACK, reason="it is taken back"
        )
        self._set_live_files(item, found.get("live_files") or {})
        return item

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

    def _text(self, path: str) -> Optional[str]:
        try:
            return self.host.path(path).read_text(errors="replace")
        except OSError:
            return None

    def _written(self, path: str) -> float:
        return self.host.path(path).stat().st_mtime
