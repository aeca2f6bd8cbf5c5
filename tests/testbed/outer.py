# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine's podman, with the work-arounds that the machine needs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
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


def command(settings: Settings, *arguments: str, directory: str = "") -> list[str]:
    """The argv that runs podman with `arguments` in a directory, the caller's by default, and the namespace it needs.

    Outside a namespace the directory is that of who starts it.
    """
    if not any(workaround.private_cgroup for workaround in probes.needed(machine())):
        return [PODMAN, *arguments]
    _ensure_namespace()
    # nsenter's own --wdns is missing before util-linux 2.38
    return ["nsenter", f"--mount={NAMESPACE}", "--", "env", "-C", directory or os.getcwd(), PODMAN, *arguments]


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


# what podman and its runtime keep until the machine starts anew, and /run may outlive its processes (a container)
UNTIL_BOOT = (Path("/run/libpod/alive"), Path("/dev/shm/libpod_lock"), Path("/run/containers/networks"))
# The systemd of each host takes eight or nine, all of them for root: Linux allows 128, which is enough for 15 hosts.
INOTIFY, INOTIFY_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances"), 1024
LIVE = ("running", "paused", "stopping")
INSPECT = "{{.Id}} {{.State.Status}} {{.State.ConmonPid}} {{.NetworkSettings.SandboxKey}}"


def lost(inspected: str, process: Callable[[int], bytes]) -> tuple[list[tuple[str, str]], bool]:
    """The containers that podman takes for running though they are gone, and whether others do run.

    `inspected` has a line `ID STATE CONMON-PID [NETWORK-NAMESPACE]` for each container; `process` gives the command
    line of a process, empty for one that is not there. A container runs while its own conmon watches it.
    """
    gone: list[tuple[str, str]] = []
    alive = False
    for line in inspected.splitlines():
        identity, state, conmon, namespace = (*line.split(), "")[:4]
        if state not in LIVE:
            continue
        if identity.encode() in process(int(conmon)):
            alive = True
        else:
            gone.append((identity, namespace))
    return gone, alive


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() if pid > 0 else b""
    except OSError:
        return b""


def forget_lost(settings: Settings) -> list[str]:
    """Let podman see that the machine's processes ended without it, as it would after a boot.

    A container whose processes were all killed, conmon too, stays "running" for podman, which can neither start nor
    stop it. Returns the ids that are to be started again; none while another container runs: its state is kept.
    """
    identities = podman(settings, "ps", "--all", "--quiet", "--no-trunc", check=False).stdout.split()
    if not identities:
        return []
    with files.lock(Path("/run/lock/trtllm-testbed-lost")):
        inspected = podman(settings, "container", "inspect", "--format", INSPECT, *identities, check=False).stdout
        gone, alive = lost(inspected, _command_line)
        if not gone or alive:
            return []
        inside = command(settings)[:-1]
        for identity, namespace in gone:
            subprocess.run([*inside, "crun", "delete", "--force", identity], capture_output=True, check=False)
            if namespace:
                # its end of the network still answers for the host's address
                subprocess.run([*inside, "umount", "--lazy", namespace], capture_output=True, check=False)
                Path(namespace).unlink(missing_ok=True)
        for path in UNTIL_BOOT:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return [identity for identity, _ in gone]


def ensure_inotify(path: Path = INOTIFY) -> None:
    """Raise the machine's limit for root where it is too low; where it cannot be raised, `up` names what failed."""
    with contextlib.suppress(OSError):
        if int(path.read_text()) < INOTIFY_INSTANCES:
            path.write_text(str(INOTIFY_INSTANCES))


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
