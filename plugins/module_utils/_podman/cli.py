# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The podman command line, as the modules use it on a host.

The CLI and not a Python package: hosts need nothing installed for it, and it alone passes CDI devices on
every podman version. One call costs 50-100 ms, so callers count them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._base.command import SEARCH_PATH
from .._base.errors import FleetError
from .._base.versions import version_in

NO_TIMEOUT = None


class PodmanError(FleetError):
    """A podman command failed; *stderr* holds its own words, *returncode* its exit code."""

    def __init__(self, message: str, returncode: int = 1, stderr: str = "") -> None:
        super().__init__(message)
        self.returncode = returncode
        self.stderr = stderr


@dataclass(frozen=True)
class ContainerState:
    """What podman knows of one container. *started_at* and *finished_at* are podman's own RFC 3339 texts."""

    name: str
    id: str
    status: str  # created, running, paused, exited, ...
    exit_code: int
    oom_killed: bool
    image_id: str
    labels: dict[str, str] = field(default_factory=dict)
    started_at: str = ""
    finished_at: str = ""
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict, repr=False)  # it may hold what is secret
    pid: int = 0

    @property
    def running(self) -> bool:
        """Whether its process is alive. A container that was only created never ran, or did before a reboot."""
        return self.status in ("running", "paused", "stopping")


def executable() -> str | None:
    """The podman to use: the first on PATH, or in the usual directories where PATH is poor (sudo, ssh)."""
    return shutil.which("podman") or shutil.which("podman", path=SEARCH_PATH)


def run(
    arguments: Sequence[str], *, timeout: float | None = NO_TIMEOUT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``podman ARGUMENTS`` and return it whatever its exit code. Missing podman or a time-out raise."""
    program = executable()
    if program is None:
        raise PodmanError("podman is not installed on this host; run the podman role first.", 127)
    variables = {**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})}
    try:
        return subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            env=variables, timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise PodmanError(f"'podman {arguments[0]}' gave no answer within {timeout:g} s.", 124) from error


def last_line(text: str) -> str:
    """What podman said at last, which is why it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def check(
    arguments: Sequence[str], *, timeout: float | None = NO_TIMEOUT, what: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Run ``podman ARGUMENTS`` and return its stdout; a failure raises with podman's last line.

    *what* it should have done, in words such as ``pull 'a/b:1'``, where the first two arguments do not say it.
    """
    done = run(arguments, timeout=timeout, environment=environment)
    if done.returncode:
        said, code = last_line(done.stderr), done.returncode
        failed = f"'podman {' '.join(arguments[:2])}' failed with exit code {code}"
        raise PodmanError(
            f"podman cannot {what} (exit code {code}): {said}" if what else f"{failed}: {said}", code, done.stderr
        )
    return done.stdout


def version() -> tuple[int, ...]:
    """podman's version as numbers, e.g. ``(5, 4, 2)``."""
    found = version_in(check(["--version"]))
    if not found:
        raise PodmanError("'podman --version' printed no version; check the installation of podman.")
    return found


def _image(reference: str, *options: str) -> str | None:
    """What ``podman image inspect`` prints, or None where the host does not have the image. Never pulls."""
    done = run(["image", "inspect", *options, reference])
    if done.returncode == 0:
        return done.stdout
    if re.search(r"no such (image|object)|image not known|unable to find", done.stderr, re.IGNORECASE):
        return None
    raise PodmanError(
        f"podman cannot read the image {reference!r}: {last_line(done.stderr)}", done.returncode, done.stderr
    )


def image_id(reference: str) -> str | None:
    """The id of a local image as ``sha256:...``, or None where the host does not have it."""
    found = _image(reference, "--format", "{{.Id}}")
    return None if found is None else qualified(found.strip())


def image(reference: str) -> dict[str, Any] | None:
    """All that podman tells of a local image, or None where the host does not have it."""
    found = _image(reference)
    return None if found is None else dict(json.loads(found)[0])


def qualified(identity: str) -> str:
    """An image's id with ``sha256:`` in front, which podman leaves out; an empty one stays empty."""
    return identity if not identity or identity.startswith("sha256:") else f"sha256:{identity}"


def container_state(name: str) -> ContainerState | None:
    """The state of the container called *name*, or None where there is none."""
    return next(iter(container_states([name]).values()), None)


def container_states(names: Sequence[str]) -> dict[str, ContainerState]:
    """The state of each of these containers that there is, by one call."""
    done = run(["container", "inspect", *names])
    if done.returncode and not re.search(r"no such (container|object)|no container with name", done.stderr, re.I):
        message = f"'podman container inspect {' '.join(names)}' failed: {done.stderr.strip()}"
        raise PodmanError(message, done.returncode, done.stderr)
    states = [_container_state(found) for found in json.loads(done.stdout or "[]")]
    return {state.name: state for state in states}


def _container_state(found: Mapping[str, Any]) -> ContainerState:
    state, config = found["State"], found.get("Config", {})
    return ContainerState(
        name=found["Name"],
        id=found["Id"],
        status=state["Status"],
        exit_code=int(state.get("ExitCode", 0)),
        oom_killed=bool(state.get("OOMKilled", False)),
        image_id=qualified(found.get("Image", "")),
        labels=dict(config.get("Labels") or {}),
        started_at=str(state.get("StartedAt", "")),
        finished_at=str(state.get("FinishedAt", "")),
        command=tuple(config.get("Cmd") or ()),
        environment=dict(pair.partition("=")[::2] for pair in config.get("Env") or ()),
        pid=int(state.get("Pid") or 0),
    )


def run_arguments(
    image: str,
    command: Sequence[str],
    *,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    volumes: Sequence[str] = (),
    devices: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    network: str = "host",
    options: Sequence[str] = (),
    entrypoint: str | None = "",
) -> list[str]:
    """Arguments of ``podman run`` after the word podman. Nothing secret may be among them: argv is public.

    *volumes* as ``HOST:CONTAINER[:OPTIONS]``; *devices* are CDI names or paths; an empty *entrypoint* clears
    the image's own, None keeps it. Images are never pulled: the image role owns that.
    """
    arguments = ["run", "--pull=never", f"--network={network}"]
    if name is not None:
        arguments.append(f"--name={name}")
    if entrypoint is not None:
        arguments.append(f"--entrypoint={entrypoint}")
    for key, value in sorted((labels or {}).items()):
        arguments.append(f"--label={key}={value}")
    arguments += [f"--volume={volume}" for volume in volumes]
    arguments += [f"--device={device}" for device in devices]
    for key, value in sorted((environment or {}).items()):
        arguments.append(f"--env={key}={value}")
    return [*arguments, *options, image, *command]


def run_detached(image: str, command: Sequence[str], *, name: str, **options: Any) -> str:
    """Start a named container that outlives this process; return its id. Options: see `run_arguments`."""
    arguments = run_arguments(image, command, name=name, **options)
    return check([arguments[0], "--detach", *arguments[1:]]).strip()


def run_once(image: str, command: Sequence[str], *, timeout: float | None = None, **options: Any) -> str:
    """Run a command in a fresh container, remove the container, and return the command's stdout."""
    arguments = run_arguments(image, command, **options)
    return check([arguments[0], "--rm", *arguments[1:]], timeout=timeout)


def remove(name: str) -> bool:
    """Remove a container, running or not; True if there was one."""
    if container_state(name) is None:
        return False
    check(["rm", "--force", "--time=0", name])
    return True
