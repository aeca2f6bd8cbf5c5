# SPDX-License-Identifier: GPL-3.0-or-later
"""A host made of files under a directory and recorded answers of commands, for gpu_host_info to look at."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ansible_collections.trtllm.fleet.plugins.module_utils._base.command import Answer
from ansible_collections.trtllm.fleet.plugins.module_utils._host.system import System

RECORDED = Path(__file__).resolve().parent / "data" / "hosts"

OS_RELEASES = {
    "debian-12": ("debian", "12", "Debian GNU/Linux 12 (bookworm)"),
    "debian-13": ("debian", "13", "Debian GNU/Linux 13 (trixie)"),
    "ubuntu-22.04": ("ubuntu", "22.04", "Ubuntu 22.04.5 LTS"),
    "ubuntu-24.04": ("ubuntu", "24.04", "Ubuntu 24.04.3 LTS"),
    "rhel-8": ("rhel", "8.10", "Red Hat Enterprise Linux 8.10 (Ootpa)"),
    "rocky-9": ("rocky", "9.6", "Rocky Linux 9.6 (Blue Onyx)"),
    "almalinux-10": ("almalinux", "10.1", "AlmaLinux 10.1 (Heliotrope Lion)"),
    "fedora-43": ("fedora", "43", "Fedora Linux 43"),
}
KERNELS = {
    "debian": "6.12.48+deb13-amd64",
    "ubuntu": "6.8.0-149-generic",
    "el": "5.14.0-570.42.2.el9_6.x86_64",
}
OPEN_MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder@U22)"
CLOSED_MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Oct  9 20:14:50 UTC 2025"
NO_COMMUNICATION = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest"
    " NVIDIA driver is installed and running."
)
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.105"
QUERY = (
    "index,name,uuid,pci.bus_id,memory.total,memory.free,driver_version,compute_cap,mig.mode.current,persistence_mode"
)


class FakeHost:
    """Build a host piece by piece, then ask for its `system`."""

    def __init__(self, root: Path, system: str = "ubuntu-24.04", machine: str = "x86_64") -> None:
        self.root = root
        self.machine = machine
        self.user = 0
        self.answers: dict[str, Answer] = {}
        self.devices: dict[str, tuple[int, int]] = {}
        self.disks: dict[str, tuple[int, int]] = {}
        identity, version, name = OS_RELEASES[system]
        self.write("/etc/os-release", f'ID={identity}\nVERSION_ID="{version}"\nPRETTY_NAME="{name}"\n')
        self.release = KERNELS.get(identity, KERNELS["el"])
        self.write("/proc/sys/kernel/osrelease", self.release + "\n")
        self.write("/proc/sys/kernel/random/boot_id", "11111111-2222-4333-8444-555555555555\n")
        self.write("/proc/modules", "")
        self.write("/proc/meminfo", "MemTotal:       264000000 kB\nMemAvailable:   250000000 kB\n")
        self.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n")
        self.write(f"/boot/vmlinuz-{self.release}", "")
        if identity in ("debian", "ubuntu"):
            self.write("/var/lib/dpkg/status", "")

    def write(self, path: str, text: str) -> FakeHost:
        """Put a file on the host."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return self

    def link(self, path: str, target: str) -> FakeHost:
        """Put a symbolic link on the host."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
        return self

    def answer(self, command: str, out: str = "", rc: int = 0, err: str = "") -> FakeHost:
        """Record what a command says."""
        self.answers[command] = Answer(rc, out, err)
        return self

    def device(self, path: str, major: int, minor: int) -> FakeHost:
        """Put a character device on the host."""
        self.devices[path] = (major, minor)
        return self.write(path, "")

    def recorded(self, name: str) -> FakeHost:
        """Put the files of a recorded host on this one."""
        shutil.copytree(RECORDED / name, self.root, symlinks=True, dirs_exist_ok=True)
        return self

    def gpu(self, address: str = "0000:01:00.0", device: str = "2335", driver: Optional[str] = None) -> FakeHost:
        """Put a GPU on the PCI bus."""
        base = f"/sys/bus/pci/devices/{address}"
        self.write(f"{base}/vendor", "0x10de\n").write(f"{base}/device", f"0x{device}\n")
        self.write(f"{base}/class", "0x030200\n")
        return self.link(f"{base}/driver", f"../../../bus/pci/drivers/{driver}") if driver else self

    def driver(self, loaded: Optional[str] = "580.95.05", installed: Optional[str] = "same") -> FakeHost:
        """Load a driver, and install libraries of the same or of another version."""
        if loaded:
            self.write("/proc/driver/nvidia/version", OPEN_MODULE.format(loaded) + "\nGCC version:  gcc 13\n")
        installed = loaded if installed == "same" else installed
        if installed:
            self.link("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", f"libnvidia-ml.so.{installed}")
        return self

    def smi(self, *rows: str, rc: int = 0, err: str = "") -> FakeHost:
        """Record what nvidia-smi says of the GPUs: rows in the order of QUERY."""
        return self.answer(
            f"nvidia-smi --query-gpu={QUERY} --format=csv,noheader,nounits", "\n".join(rows) + "\n", rc, err
        )

    def packages(self, listing: dict[str, str], held: Sequence[str] = ()) -> FakeHost:
        """Record what dpkg-query says, for any patterns."""
        lines = [
            f"{name}\t{version}\tinstalled\t{'hold' if name in held else 'install'}"
            for name, version in listing.items()
        ]
        return self.answer("dpkg-query", "\n".join(lines) + "\n")

    @property
    def system(self) -> System:
        """What gpu_host_info looks at."""

        def run(argv: Sequence[str]) -> Answer:
            line = " ".join(argv)
            return self.answers.get(line) or self.answers.get(argv[0]) or Answer(127, "", f"{argv[0]}: not found")

        def number(path: Path) -> Optional[tuple[int, int]]:
            return self.devices.get("/" + str(path.relative_to(self.root)))

        def usage(path: Path) -> tuple[int, int]:
            inside = "/" + str(path.relative_to(self.root)) if path != self.root else "/"
            return self.disks.get(inside, (500 * 2**30, 400 * 2**30))

        return System(self.root, run, number, usage, self.machine, self.user)


def row(
    index: int = 0,
    address: str = "00000000:01:00.0",
    name: str = "NVIDIA H200",
    mig: str = "Disabled",
    version: str = "580.95.05",
    capability: str = "9.0",
) -> str:
    """One line of nvidia-smi's answer."""
    return f"{index}, {name}, GPU-{index}, {address}, 143771, 143160, {version}, {capability}, {mig}, Enabled"
