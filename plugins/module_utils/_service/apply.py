# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does what was planned: units written and removed, services started, and taken back where they do not come up."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from .._base.errors import FleetError
from .._base.files import write_atomically
from . import record as service_record
from .host import ServiceHost, UnitState, error_line
from .record import ReleaseRecord
from .running import differences, lasting_note
from .types import DONE, NONE, REMOVE, RESTART, START, Planned, ServiceFailed, Settings
from .units import container_name, unit_files


class Applier:
    """Brings the services of a host to what was planned."""

    def __init__(self, host: ServiceHost, settings: Settings) -> None:
        self.host = host
        self.settings = settings
        self.notes: list[str] = []

    def apply(self, planned: Sequence[Planned]) -> dict[str, dict[str, Any]]:
        """Do what was planned and return what was done; raises `ServiceFailed` when a service did not come up."""
        lock = service_record.releases_lock(self.host.path(self.settings.releases_dir))
        with lock if any(item.changes for item in planned) else contextlib.nullcontext():
            self._remove([item for item in planned if item.action == REMOVE])
            self._write([item for item in planned if item.action != REMOVE])
            self._run(planned)
            for item in planned:
                if item.record_again:
                    self._record(item, item.outcome, item.new_path, item.new_text)
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
                "path": item.new_path,
                "action": "failed" if item.error else DONE[item.action],
                "reason": item.reason,
                "active": states[item.name].active if item.name in states else "inactive",
                "since": states[item.name].since if item.name in states else 0,
                "unit_sha256": service_record.checksum(item.new_text) if item.new_text else "",
                "before_sha256": service_record.checksum(item.old_text) if item.old_text else "",
                "error": item.error,
            }
            for item in planned
        }

    def _remove(self, items: Sequence[Planned]) -> None:
        if not items:
            return
        units = _units(items)
        self.host.systemctl(["stop", "--", *units])
        for item in items:
            self._disable(item)
            self._unlink(item.before)
        self._reload()
        self.host.systemctl(["reset-failed", "--", *units])
        for item in items:
            self._record_old(item, service_record.REMOVED)

    def _write(self, items: Sequence[Planned]) -> None:
        for item in items:
            self._write_texts({**item.files, **item.live_files})
        changed = [item for item in items if item.file_changes and item.rendered]
        for item in changed:
            self._put_files(item, item.rendered.files if item.rendered else {})
        if changed or any(item.state.needs_reload for item in items):
            self._reload()
        for item in items:
            self._enable(item)

    def _put_files(self, item: Planned, files: Mapping[str, str]) -> None:
        self._write_texts(files)
        self._unlink([path for path in unit_files(self.host, item.name) if path not in files])

    def _write_texts(self, files: Mapping[str, str]) -> None:
        for path, text in files.items():
            write_atomically(self.host.path(path), text.encode())

    def _unlink(self, paths: Mapping[str, str] | Sequence[str]) -> None:
        for path in paths:
            self.host.path(path).unlink(missing_ok=True)

    def _enable(self, item: Planned) -> None:
        """A plain service is started at boot only when enabled; the generator does that for a Quadlet."""
        if item.rendered and not item.rendered.quadlet and item.state.enabled != "enabled":
            self._systemctl("enable", f"{item.name}.service")

    def _disable(self, item: Planned) -> None:
        if item.state.enabled == "enabled":
            self.host.systemctl(["disable", "--", f"{item.name}.service"])

    def _reload(self) -> None:
        done = self.host.systemctl(["daemon-reload"])
        if done.returncode:
            raise FleetError(f"'systemctl daemon-reload' failed: {done.stderr.strip()}")

    def _systemctl(self, verb: str, *names: str) -> None:
        done = self.host.systemctl([verb, "--", *names])
        if done.returncode:
            raise FleetError(f"'systemctl {verb} {' '.join(names)}' failed: {done.stderr.strip()}")

    def _run(self, planned: Sequence[Planned]) -> None:
        """Start together what is not running; restart one by one what is, so that its fellows serve on."""
        starting = [item for item in planned if item.action == START]
        restarting = [item for item in planned if item.action == RESTART]
        first = sorted({name for item in [*starting, *restarting] for name in item.stop_first})
        if first:
            self._systemctl("stop", *_units([item for item in planned if item.name in first]))
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
        # A socket that stays keeps who connects meanwhile.
        anew = [item for item in items if item.socket_changes]
        if anew:
            self.host.systemctl(["stop", "--", *_units(anew)])
        done = self.host.systemctl([verb, "--", *(f"{item.name}.service" for item in items)])
        states = self.host.states([item.name for item in items])
        for item in items:
            if states[item.name].active == "active":
                self._record(item, item.outcome, item.new_path, item.new_text, **self._lasting(item))
            else:
                self._take_back(item, states[item.name], done.stderr, since)

    def _lasting(self, item: Planned) -> dict[str, Any]:
        """What the record says of differences that are there right after the start."""
        if not item.container:
            return {}
        name = container_name(item.name, item.container)
        found = differences(self.host, item.container, self.host.containers([name]).get(name))
        self.notes += [lasting_note(item.name, difference) for difference in found]
        return {"differs": [difference.what for difference in found]} if found else {}

    def _take_back(self, item: Planned, state: UnitState, stderr: str, since: float) -> None:
        """Put the previous unit of a service back, or remove a unit that never served."""
        reason = self._reason(item, state, stderr, since)
        self._record(item, service_record.FAILED, item.new_path, item.new_text, error=reason)
        self.host.systemctl(["stop", "--", *_units([item])])
        item.error = f"{item.name} did not come up: {reason}. {self._restore(item)}"

    def _restore(self, item: Planned) -> str:
        """Files and state as before; returns the sentence that says what became of the service."""
        self._write_texts({path: text for path, text in item.live_before.items() if text is not None})
        self._unlink([path for path, text in item.live_before.items() if text is None])
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
        self._record_old(item, service_record.PUT_BACK)
        return "Its previous unit was put back and serves again."

    def _take_all_back(self, items: Sequence[Planned]) -> None:
        """When ports changed hands, a service cannot go back alone: another has its port by now."""
        self.host.systemctl(["stop", "--", *_units(items)])
        for item in items:
            sentence = self._restore(item)
            known = item.error or f"{item.name} was taken back too, as ports changed hands."
            item.error = f"{known.split(' Its ')[0]} {sentence}"

    def _reason(self, item: Planned, state: UnitState, stderr: str, since: float) -> str:
        if not state.loaded:
            return f"systemd does not know the unit, so podman's generator refused {item.new_path}"
        line = error_line(self.host.journal(item.name, since))
        late = " (it was not healthy in time)" if state.result == "timeout" or "timeout" in stderr else ""
        return f'"{line}"{late}'

    def _record_old(self, item: Planned, outcome: str) -> None:
        """A line about the unit that there was, with what an earlier line told of it."""
        record = ReleaseRecord(self.host.path(self.settings.releases_dir), item.name)
        path, text, now = next(iter(item.before), ""), item.old_text, self.host.now()
        record.append(service_record.entry(outcome, path, text, now, {"service": item.name, **record.known(text)}))

    def _record(self, item: Planned, outcome: str, path: str, text: str, **more: Any) -> None:
        extra = {"service": item.name, **item.record, **more}
        record = ReleaseRecord(self.host.path(self.settings.releases_dir), item.name)
        record.append(service_record.entry(outcome, path, text, self.host.now(), extra))


def _units(items: Sequence[Planned]) -> list[str]:
    """The services, and the sockets that would start them again."""
    sockets = [f"{item.name}.socket" for item in items if item.has_socket]
    return [*sockets, *(f"{item.name}.service" for item in items)]
