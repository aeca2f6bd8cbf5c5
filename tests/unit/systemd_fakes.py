# SPDX-License-Identifier: GPL-3.0-or-later
"""``systemd-run`` and ``systemctl`` for a machine without systemd: real processes, known by the name of their unit.

$TEST_HOST is the host that they are called on, as several have units of the same name.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

RUN = """#!/bin/sh
# Starts what stands after -- and notes its process under the name of the unit, and all that it was told.
for word; do
    case $word in --unit=*) unit=${word#--unit=};; esac
done
echo "$@" >> @UNITS@/arguments
while [ "$1" != -- ]; do shift; done
shift
setsid "$@" >> @UNITS@/output 2>&1 &
echo $! > "@UNITS@/$TEST_HOST-$unit"
"""
CTL = """#!/bin/sh
verb=$1; unit=$3; file="@UNITS@/$TEST_HOST-$unit"
alive() { [ -f "$file" ] && kill -0 "$(cat "$file")" 2>/dev/null && ! grep -q ' Z ' /proc/$(cat "$file")/stat; }
case $verb in
is-active) if alive; then echo active; else echo inactive; exit 3; fi;;
stop) if alive; then kill "$(cat "$file")"; while alive; do sleep 0.05; done; fi;;
esac
"""


class FakeSystemd:
    """The units that were started."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.units, commands = home / "units", home / "commands"
        self.units.mkdir(parents=True)
        commands.mkdir()
        for name, text in (("systemd-run", RUN), ("systemctl", CTL)):
            (commands / name).write_text(text.replace("@UNITS@", str(self.units)))
            (commands / name).chmod(0o755)
        monkeypatch.setenv("TEST_HOST", "host")
        monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")

    def _pids(self) -> dict[str, int]:
        return {file.name: int(file.read_text()) for file in self.units.glob("*.service")}

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kill all of them."""
        for pid in self._pids().values():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def running(self) -> list[str]:
        """HOST-UNIT of those whose process lives."""
        found = []
        for unit, pid in self._pids().items():
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state != "Z":
                found.append(unit)
        return found

    def arguments(self) -> str:
        """Every word that systemd-run was given."""
        file = self.units / "arguments"
        return file.read_text() if file.exists() else ""
