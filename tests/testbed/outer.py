# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine's podman, with the work-arounds that the machine needs."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

from . import files, probes
from .errors import TestbedError
from .settings import Settings

PODMAN = "/usr/bin/podman"
RUN = Path("/run/trtllm-testbed")
NAMESPACE = RUN / "mnt"


@lru_cache(maxsize=1)
def machine() -> probes.Machine:
    """This machine's facts, looked up once."""
    return probes.probe()


def command(settings: Settings, *arguments: str) -> list[str]:
    """The argv that runs podman with `arguments`, and the namespace that it needs."""
    if not any(workaround.private_cgroup for workaround in probes.needed(machine())):
        return [PODMAN, *arguments]
    _ensure_namespace()
    # nsenter's own --wdns is missing before util-linux 2.38
    return ["nsenter", f"--mount={NAMESPACE}", "--", "env", "-C", os.getcwd(), PODMAN, *arguments]


def environment(settings: Settings) -> dict[str, str]:
    """The environment that podman needs here."""
    env = dict(os.environ)
    for workaround in probes.needed(machine()):
        env.update(workaround.environment)
    conf = probes.containers_conf(machine())
    if conf:
        path = settings.cache / "containers.conf"
        files.write(path, conf)
        env["CONTAINERS_CONF"] = str(path)
    return env


def podman(settings: Settings, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman and keep its output. Raises TestbedError with podman's last line if it fails."""
    result = subprocess.run(
        command(settings, *arguments), env=environment(settings), text=True, capture_output=True, check=False
    )
    if check and result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
        raise TestbedError(f"podman {arguments[0]} failed: {lines[-1]}")
    return result


def _mounted(path: Path, kind: str) -> bool:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == str(path) and f" - {kind} " in line for line in lines)


def _ensure_namespace() -> None:
    """Make the mount namespace that has cgroup2 on /sys/fs/cgroup, once per boot of the machine."""
    if _mounted(NAMESPACE, "nsfs"):
        return
    with files.lock(Path("/run/lock/trtllm-testbed-namespace")):
        if _mounted(NAMESPACE, "nsfs"):
            return
        RUN.mkdir(mode=0o700, exist_ok=True)
        if not _mounted(RUN, "tmpfs"):
            # a namespace can be kept only on a private mount
            _step("mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "trtllm-testbed", str(RUN))
            _step("mount", "--make-private", str(RUN))
        NAMESPACE.touch()
        # slave: what the machine mounts later is seen inside, nothing mounted inside is seen outside
        unshare = ["unshare", f"--mount={NAMESPACE}", "--propagation", "slave"]
        processors = sorted(os.sched_getaffinity(0))
        for processor in processors:
            # A namespace can be kept only by one with a lower number, and where we are in one ourselves already
            # (a container) Linux 6.18 numbers by processor.
            try:
                _step("taskset", "-c", str(processor), *unshare, "mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
                return
            except TestbedError:
                if processor == processors[-1]:
                    raise


def _step(*argv: str) -> None:
    """Run one command on the way to the namespace."""
    done = subprocess.run(argv, text=True, capture_output=True, check=False)
    if done.returncode:
        raise TestbedError(
            f"cannot make the mount namespace that podman needs on this machine ({' '.join(argv[:2])}: "
            f"{done.stderr.strip()}); run as root on a machine that allows mounts."
        )


def remove_namespace(settings: Settings) -> None:
    """Drop the namespace, unless podman still runs containers in it."""
    if not _mounted(NAMESPACE, "nsfs") or podman(settings, "ps", "-q").stdout.strip():
        return
    # The directory stays: removing it would unmount what another mount namespace has on it.
    for path in (NAMESPACE, RUN):
        subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False)
