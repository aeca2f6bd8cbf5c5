# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the management of services asks of a host: systemd, the journal, sizes, listeners.

Everything that has an effect goes through `ServiceHost`, so that tests can stand in for a host.
"""

from __future__ import annotations

import calendar
import os
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .._base import ports
from .._base.errors import FleetError
from .._podman import cli

PROPERTIES = [
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "NRestarts",
    "UnitFileState",
    "NeedDaemonReload",
    "InactiveExitTimestamp",
    "ActiveEnterTimestamp",
    "MainPID",
]
LONGEST = 400
# What systemctl says while systemd is executed anew, as by an upgrade of it: nobody takes its call, or its wait is cut.
NOT_REACHED = re.compile(r"Failed to connect to .*bus|Failed to get D-Bus connection")
CUT = re.compile(
    r"Failed to wait for response|Connection reset by peer|Transport endpoint is not connected|disconnected"
)
PATIENCE, PAUSE = 20.0, 0.5  # seconds
# A directory or a file: device and inode.
Identity = tuple[int, int]
# An error line of glog (Triton), of a program's options, of a replica's probe, of a Python program, of podman, of a
# shell, of mpirun.
ERROR_PATTERNS = [
    r"^E\d{4} .*\] ",
    r": (unrecognized|invalid|ambiguous) option\b",
    r"^Bad option: ",
    r"^\[TensorRT-LLM\]\[ERROR\]",
    r"^probe: ",
    r"^(\w+\.)*\w*(Error|Exception)\b.*:",
    r"\berror: ",
    r"^Error: ",
    r"^ERROR\b",
    r"mpirun (has exited|noticed|was unable)",
]
# After which the line that follows says what is wrong with it, as of a value of tritonserver's options.
NEXT_TOO = r"^Bad option: "
# Noise that every server without some device or option prints, the sums after the first error, and the last words of
# the server before this one, which are in the journal too.
NOT_THE_ERROR = [
    r"unable to (create|allocate) .*(stream|pinned)",
    r"NVML|DCGM|CudaDriverHelper|pinned system memory",
    r"creating server: Internal - failed to load all models",
    r"failed to stop server: Internal - Exit timeout expired",
    r"healthcheck|health_status",
]


@dataclass(frozen=True)
class UnitState:
    """What systemd says of a unit. Times are seconds since the epoch, 0 where it never happened."""

    loaded: bool = False
    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    restarts: int = 0
    enabled: str = ""
    needs_reload: bool = False
    started: int = 0
    since: int = 0
    pid: int = 0


class ServiceHost:
    """The host that the module runs on. *root* is only another one in tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def path(self, absolute: str) -> Path:
        """*absolute* below the root."""
        return self.root / absolute.lstrip("/")

    def podman_version(self) -> Optional[str]:
        """podman's version, or None where it is not installed."""
        if cli.executable() is None:
            return None
        return ".".join(str(part) for part in cli.version())

    def systemd_version(self) -> int:
        """The number of the systemd release, e.g. 252."""
        found = re.search(r"systemd (\d+)", self.systemctl(["--version"]).stdout)
        if found is None:
            raise FleetError("'systemctl --version' told no version; services need systemd on the host.")
        return int(found.group(1))

    def systemctl(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run systemctl, again where systemd was executed anew meanwhile; the caller judges the exit code."""
        words, until = list(arguments), time.monotonic() + PATIENCE
        while True:
            done = self._run(["systemctl", *words])
            cut = CUT.search(done.stderr)
            if not done.returncode or not (cut or NOT_REACHED.search(done.stderr)) or time.monotonic() > until:
                return done
            # What was asked for is under way, so it is only waited for.
            words = ["start" if cut and word == "restart" else word for word in words]
            time.sleep(PAUSE)

    def _run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC", "SYSTEMD_PAGER": ""}
        try:
            return subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                env=environment, check=False,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise FleetError(f"{argv[0]} is not installed on this host; services need systemd.") from error

    def states(self, names: Sequence[str]) -> dict[str, UnitState]:
        """The state of each service, by one call."""
        if not names:
            return {}
        units = [f"{name}.service" for name in names]
        shown = self.systemctl(["show", f"--property={','.join(PROPERTIES)}", "--", *units])
        if shown.returncode:
            raise FleetError(f"'systemctl show' failed: {shown.stderr.strip() or 'no message'}; is systemd running?")
        found: dict[str, UnitState] = {}
        for block in shown.stdout.strip().split("\n\n"):
            values = dict(line.partition("=")[::2] for line in block.splitlines())
            found[values.get("Id", "").removesuffix(".service")] = _state(values)
        return {name: found.get(name, UnitState()) for name in names}

    def journal(self, name: str, since: float, lines: int = 2000) -> list[str]:
        """What the service wrote since a time, oldest first."""
        shown = self._run(
            ["journalctl", f"--unit={name}.service", f"--since=@{int(since)}", "--output=cat", "--no-pager",
             f"--lines={lines}"]
        )  # fmt: skip
        return [line for line in shown.stdout.splitlines() if line.strip() and not line.startswith("-- ")]

    def listeners(self) -> list[ports.Listener]:
        """All listening TCP sockets."""
        return ports.listeners()

    def owners(self, inodes: Iterable[int]) -> dict[int, ports.Owner]:
        """Who owns these sockets."""
        return ports.owners(inodes)

    def selinux(self) -> bool:
        """Whether SELinux is on, so that volumes need their labels."""
        return self.path("/sys/fs/selinux/enforce").exists()

    def size(self, paths: Iterable[str]) -> int:
        """Bytes below *paths*; what does not exist counts nothing."""
        total = 0
        for path in paths:
            top = self.path(path)
            total += top.stat().st_size if top.is_file() else 0
            for directory, _directories, files in os.walk(top):
                total += sum(os.lstat(os.path.join(directory, file)).st_size for file in files)
        return total

    def image_id(self, reference: str) -> Optional[str]:
        """The id of an image of the host, None where it does not have it or podman is missing."""
        return cli.image_id(reference) if cli.executable() else None

    def containers(self, names: Sequence[str]) -> dict[str, cli.ContainerState]:
        """Each of these containers that there is."""
        return cli.container_states(names) if names and cli.executable() else {}

    def identity(self, path: str) -> Optional[Identity]:
        """What is at *path* now, None for nothing."""
        try:
            found = self.path(path).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def identity_in_container(self, pid: int, target: str) -> Optional[Identity]:
        """What the container of process *pid* has mounted at *target*; None where that cannot be told.

        The mount holds what was there when the container was made, also after it was removed or replaced.
        """
        proc = self.path(f"/proc/{pid}")
        try:
            # A path through symbolic links would be followed on the host: judge only what is a mount point as it is.
            if target not in mount_points((proc / "mountinfo").read_text(errors="replace")):
                return None
            found = (proc / "root" / target.lstrip("/")).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def healthy(self, container: str) -> bool:
        """Whether the container's health probe passes now."""
        return cli.run(["healthcheck", "run", container]).returncode == 0

    def now(self) -> float:
        """The time of the host."""
        return time.time()


def mount_points(mountinfo: str) -> set[str]:
    """The mount points in the text of ``/proc/PID/mountinfo``."""
    fields = [line.split(" ") for line in mountinfo.splitlines()]
    return {re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), words[4]) for words in fields if len(words) > 4}


def _state(values: dict[str, str]) -> UnitState:
    return UnitState(
        loaded=values.get("LoadState") == "loaded",
        active=values.get("ActiveState", "inactive"),
        sub=values.get("SubState", "dead"),
        result=values.get("Result", "success"),
        restarts=int(values.get("NRestarts") or 0),
        enabled=values.get("UnitFileState", ""),
        needs_reload=values.get("NeedDaemonReload") == "yes",
        started=timestamp(values.get("InactiveExitTimestamp", "")),
        since=timestamp(values.get("ActiveEnterTimestamp", "")),
        pid=int(values.get("MainPID") or 0),
    )


def timestamp(text: str) -> int:
    """``Fri 2026-11-20 13:05:51 UTC`` (as systemctl prints with TZ=UTC) in seconds since the epoch; 0 for none."""
    found = re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", text)
    return calendar.timegm(time.strptime(found.group(), "%Y-%m-%d %H:%M:%S")) if found else 0


def error_line(journal: Sequence[str]) -> str:
    """The line of a service's journal that says best why it does not serve.

    The first line of the first kind of error there is: what follows is usually its consequence.
    """
    lines = [line.strip() for line in journal]
    candidates = [line for line in lines if not any(re.search(noise, line) for noise in NOT_THE_ERROR)]
    for pattern in ERROR_PATTERNS:
        for line, following in zip(candidates, [*candidates[1:], ""]):
            if re.search(pattern, line):
                return _short(f"{line} {following}" if re.search(NEXT_TOO, line) else line)
    return _short(lines[-1]) if lines else "the service wrote nothing to the journal"


def _short(line: str) -> str:
    """A line without the traceback that Triton writes into it, as ``\\n`` and more."""
    first = line.split("\\n")[0]
    return first if len(first) <= LONGEST else f"{first[:LONGEST]}..."
