# SPDX-License-Identifier: GPL-3.0-or-later
"""What this machine lacks for running systemd hosts in podman, and what is done about it.

A machine with systemd, cgroup v2 and CAP_SYS_RESOURCE lacks nothing and gets none of it.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CAP_SYS_RESOURCE = 24
BUILDAH_NPROC = 32768
Conf = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Machine:
    """Facts about the machine that decide which work-arounds are due."""

    init: str = "systemd"
    """Name of PID 1."""
    cgroup: str = "unified"
    """Layout of /sys/fs/cgroup: unified (plain v2), hybrid or legacy."""
    controllers: frozenset[str] = frozenset({"cpu", "memory", "pids", "io"})
    """Controllers of the v2 hierarchy."""
    capabilities: int = (1 << 41) - 1
    """Bounding set, as /proc/self/status has it."""
    nofile: int = 1048576
    nproc: int = -1
    """Hard limits; -1 is unlimited."""
    mtu: int = 1500
    """Of the default route's interface."""

    @property
    def raises_limits(self) -> bool:
        """Whether root may raise its hard limits."""
        return bool(self.capabilities >> CAP_SYS_RESOURCE & 1)


@dataclass(frozen=True)
class Workaround:
    """One deviation from podman's defaults and the lack that it makes up for."""

    name: str
    why: str
    needed: Callable[[Machine], bool]
    conf: Callable[[Machine], Conf] = field(default=lambda machine: {})
    environment: dict[str, str] = field(default_factory=dict)
    private_cgroup: bool = False


WORKAROUNDS = (
    Workaround(
        "private-cgroup2",
        "crun refuses a hybrid or v1 layout and systemd in a host wants v2, so podman runs in a mount namespace "
        "of its own with cgroup2 on /sys/fs/cgroup",
        lambda machine: machine.cgroup != "unified",
        private_cgroup=True,
    ),
    Workaround(
        "no-systemd",
        "there is no systemd to make scopes or keep podman's journal",
        lambda machine: machine.init != "systemd",
        lambda machine: {"engine": {"cgroup_manager": "cgroupfs", "events_logger": "file"}},
    ),
    Workaround(
        "no-pids-controller",
        "crun fails on podman's default pids limit where the v2 hierarchy has no pids controller",
        lambda machine: "pids" not in machine.controllers,
        lambda machine: {"containers": {"pids_limit": 0}},
    ),
    Workaround(
        "hard-limits",
        "without CAP_SYS_RESOURCE podman's default ulimits, above the machine's hard limits, cannot be set",
        lambda machine: not machine.raises_limits,
        lambda machine: {
            "containers": {"default_ulimits": [f"{name}={limit}:{limit}" for name, limit in _ulimits(machine).items()]}
        },
    ),
    Workaround(
        "chroot-build",
        "without CAP_SYS_RESOURCE crun cannot raise RLIMIT_MEMLOCK for the device rules of an unprivileged RUN",
        lambda machine: not machine.raises_limits,
        environment={"BUILDAH_ISOLATION": "chroot"},
    ),
)


def _ulimits(machine: Machine) -> dict[str, int]:
    """Podman's default ulimits, lowered to what may be set."""
    limits = {"nofile": machine.nofile, "nproc": BUILDAH_NPROC if machine.nproc < 0 else machine.nproc}
    # a chroot build lowers nproc before it sets our default, which then must not be above
    limits["nproc"] = min(limits["nproc"], BUILDAH_NPROC)
    return {name: limit for name, limit in limits.items() if limit >= 0}


def needed(machine: Machine) -> list[Workaround]:
    """The work-arounds that this machine needs, in order."""
    return [workaround for workaround in WORKAROUNDS if workaround.needed(machine)]


def containers_conf(machine: Machine) -> str:
    """The containers.conf that the work-arounds ask for, or "" if podman's own will do."""
    merged: Conf = {}
    for workaround in needed(machine):
        for section, values in workaround.conf(machine).items():
            merged.setdefault(section, {}).update(values)
    return "".join(
        f"[{section}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())
        for section, values in merged.items()
    )


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def cgroup_layout(mountinfo: str) -> str:
    """Read the layout from /proc/self/mountinfo: unified, hybrid or legacy."""
    mounts = [line.split(" - ") for line in mountinfo.splitlines() if " - " in line]
    kinds = {left.split()[4]: right.split()[0] for left, right in mounts}
    if kinds.get("/sys/fs/cgroup") == "cgroup2":
        return "unified"
    return "hybrid" if "cgroup2" in kinds.values() else "legacy"


def default_interface(route: str) -> str | None:
    """The interface of the default route in /proc/net/route, or None."""
    for line in route.splitlines()[1:]:
        columns = line.split()
        if len(columns) > 1 and columns[1] == "00000000":
            return columns[0]
    return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _v2_controllers(layout: str) -> frozenset[str]:
    roots = {"unified": "/sys/fs/cgroup", "hybrid": "/sys/fs/cgroup/unified"}
    # Where v2 is mounted nowhere, all controllers are v1's.
    return frozenset(_read(f"{roots[layout]}/cgroup.controllers").split()) if layout in roots else frozenset()


def probe() -> Machine:
    """Look at this machine."""
    layout = cgroup_layout(_read("/proc/self/mountinfo"))
    bounding = next(
        (int(line.split()[1], 16) for line in _read("/proc/self/status").splitlines() if line.startswith("CapBnd")), 0
    )
    interface = default_interface(_read("/proc/net/route"))
    mtu = _read(f"/sys/class/net/{interface}/mtu").strip() if interface else ""
    return Machine(
        init=_read("/proc/1/comm").strip(),
        cgroup=layout,
        controllers=_v2_controllers(layout),
        capabilities=bounding,
        nofile=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        nproc=resource.getrlimit(resource.RLIMIT_NPROC)[1],
        mtu=int(mtu or 1500),
    )
