# SPDX-License-Identifier: GPL-3.0-or-later
"""Podman's Docker-compatible API: one service for all `testbed` commands, which goes when nobody uses it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import time
from typing import Any

from . import files, outer
from .errors import TestbedError
from .settings import Settings

IDLE_SECONDS = 60
START_SECONDS = 20


def connect(settings: Settings) -> Any:
    """A docker.DockerClient on podman's socket; starts the service if none listens."""
    import docker

    if not _server(settings):
        with files.lock(settings.cache / "service.lock"):
            if not _server(settings):
                _start(settings)
    # A wide pool: one connection per host that is brought up at the same time. The version is given because asking
    # for it costs 0.4 s; podman 4 and 5 speak it.
    return docker.DockerClient(base_url=f"unix://{settings.socket}", version="1.41", timeout=120, max_pool_size=32)


def reason(error: Exception) -> str | None:
    """What podman said, in one line, if the error came from its API."""
    if type(error).__module__.partition(".")[0] not in ("docker", "requests", "urllib3"):
        return None
    lines = str(getattr(error, "explanation", None) or error).strip().splitlines()
    return lines[-1][:400] if lines else type(error).__name__


def _server(settings: Settings) -> int | None:
    """Process that listens on the socket, or None."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(settings.socket))
        except OSError:
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])


def _start(settings: Settings) -> None:
    outer.forget_lost(settings)
    settings.socket.unlink(missing_ok=True)
    settings.logs.mkdir(parents=True, exist_ok=True)
    # It outlives who starts it, and from a directory that is gone no container starts.
    listen = f"unix://{settings.socket}"
    argv = outer.command(settings, "system", "service", f"--time={IDLE_SECONDS}", listen, directory="/")
    with open(settings.logs / "service.log", "w") as log:
        service = subprocess.Popen(
            argv, env=outer.environment(settings), cwd="/", start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    deadline = time.monotonic() + START_SECONDS
    while not _server(settings):
        if service.poll() is not None or time.monotonic() > deadline:
            service.kill()
            raise TestbedError(f"podman's API service did not start; see {settings.logs / 'service.log'}.")
        time.sleep(0.02)


def stop(settings: Settings) -> None:
    """End the service, if one runs."""
    process = _server(settings)
    if process:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    settings.socket.unlink(missing_ok=True)
