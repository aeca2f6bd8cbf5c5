# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service of a gateway's host that follows jobs, put there and taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

from .._base.background import UNIT
from .._base.command import Answer, run_command
from .._base.errors import FleetError
from .._base.files import remove, write_atomically
from .._base.names import check_path
from .._base.pyz import closure, pyz
from . import follow

HOME = "/etc/trtllm/slurm"
PROGRAM, SPEC = f"{HOME}/follow.pyz", f"{HOME}/follow.json"
SERVICE = "trtllm-slurm-follow.service"
UNIT_FILE = f"/etc/systemd/system/{SERVICE}"
MAIN = follow.__name__.split(".module_utils.")[1]

Run = Callable[[Sequence[str]], Answer]


def unit(python: str) -> str:
    """The unit's text."""
    settings = {**UNIT, "NoNewPrivileges": "yes", "Restart": "always", "RestartSec": "5"}
    return (
        "# Managed by trtllm.fleet.\n"
        "[Unit]\n"
        "Description=The gateway goes where Slurm's jobs go\n\n"
        "[Service]\n"
        f"ExecStart={python} -I {PROGRAM} {SPEC}\n"
        + "".join(f"{key}={value}\n" for key, value in settings.items())
        + "\n[Install]\nWantedBy=multi-user.target\n"
    )


class Follower:
    """The service on one host; *root* and *run* are the host's own but in tests."""

    def __init__(self, python: str, root: Path = Path("/"), run: Run = run_command) -> None:
        self.python, self.root, self.run = python, root, run

    def present(self, config: str, jobs: Sequence[Mapping[str, str]], directory: str, check: bool) -> dict[str, Any]:
        """Have *jobs* followed in *config*, where this host sees their *directory*; as without jobs otherwise."""
        for path, what in ((config, "config"), (directory, "directory"), *((job["file"], "file") for job in jobs)):
            check_path(path, what)
        if not jobs or not (self.root / directory.lstrip("/")).is_dir():
            return self.absent(check)
        program = pyz("trtllm", closure(MAIN), MAIN)
        spec, text = follow.told(config, jobs), unit(self.python)
        before = self._files()
        there = [self._read(name) for name in (SPEC, PROGRAM, UNIT_FILE)]
        changed = there != [spec.encode(), program, text.encode()] or not self._runs()
        if changed and not check:
            # It writes what it is told again where a job has moved.
            self._stop()
            for name, content in ((SPEC, spec.encode()), (PROGRAM, program), (UNIT_FILE, text.encode())):
                write_atomically(self._path(name), content)
            self._do("daemon-reload")
            self._do("enable", "--quiet", "--now", SERVICE)
        return self._result(changed, True, before, f"{text}{spec}")

    def absent(self, check: bool) -> dict[str, Any]:
        """Have nothing followed any more."""
        before = self._files()
        changed = bool(before)
        if changed and not check:
            self._stop()
            remove(self._path(UNIT_FILE))
            remove(self._path(HOME))
            self._do("daemon-reload")
        return self._result(changed, False, before, "")

    def _path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def _read(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return b""

    def _files(self) -> str:
        return (self._read(UNIT_FILE) + self._read(SPEC)).decode()

    @staticmethod
    def _result(changed: bool, follows: bool, before: str, after: str) -> dict[str, Any]:
        return {"changed": changed, "follows": follows, "diff": {"before": before, "after": after}}

    def _stop(self) -> None:
        if self._read(UNIT_FILE):
            self._do("disable", "--quiet", "--now", SERVICE)

    def _runs(self) -> bool:
        return all(self.run(["systemctl", asked, "--quiet", SERVICE]).rc == 0 for asked in ("is-active", "is-enabled"))

    def _do(self, *argv: str) -> None:
        answer = self.run(["systemctl", *argv])
        if answer.rc:
            said = " ".join((answer.err or answer.out).split())
            raise FleetError(f"`systemctl {' '.join(argv)}` failed: {said}; see journalctl -u {SERVICE}.")
