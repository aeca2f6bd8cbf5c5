# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything about a host that decides whether it can serve, gathered in one look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._base.names import DEFAULT_ROOT
from . import base, cdi, nvidia, nvidia_smi, pci, rdma
from .system import System

SUBSETS = ("gpus", "podman", "packages", "units")
# What the roles podman, gpu_driver and container_toolkit decide on.
PACKAGES = (
    "*nvidia*",
    "libcuda*",
    "nvlsm",
    "podman",
    "crun",
    "netavark",
    "aardvark-dns",
    "python3-apt",
    "*versionlock*",
)
PATHS = ("/boot", DEFAULT_ROOT, "/var/lib/containers")
UNITS = (
    "nvidia-persistenced.service",
    "nvidia-fabricmanager.service",
    "nvidia-imex.service",
    "nvidia-cdi-refresh.service",
    "nvidia-cdi-refresh.path",
    "trtllm-cdi-refresh.service",
)


def gather(
    system: System,
    *,
    subsets: Sequence[str] = SUBSETS,
    packages: Sequence[str] = PACKAGES,
    units: Sequence[str] = UNITS,
    paths: Sequence[str] = PATHS,
) -> dict[str, Any]:
    """The facts that ``gpu_host_info`` documents as ``host``.

    What costs nothing (files of the kernel) is always there; *subsets* choose what runs commands.
    """
    facts: dict[str, Any] = {
        "root": system.user == 0,
        "os": base.operating_system(system),
        "kernel": base.kernel(system),
        "secure_boot": base.secure_boot(system),
        "cgroups": base.cgroups(system),
        "selinux": base.selinux(system),
        "memory": base.memory(system),
        "disk": base.disks(system, paths),
        "repositories": base.repositories(system),
        "podman": base.podman(system) if "podman" in subsets else None,
        "packages": base.packages(system, packages) if "packages" in subsets else {},
        "units": base.units(system, units) if "units" in subsets else {},
    }
    facts.update(_gpu_facts(system, facts["kernel"]["release"], ask="gpus" in subsets))
    facts["reboot"] = _reboot(system, facts)
    return facts


def _gpu_facts(system: System, release: str, ask: bool) -> dict[str, Any]:
    on_bus, switches = pci.nvidia_devices(system)
    state, message, answered = nvidia_smi.read(system) if ask else ("not_asked", "", [])
    version, flavor = nvidia.loaded(system)
    gpus = nvidia.merge(on_bus, answered)
    specifications = cdi.read(system, answered if state == "ok" else None)
    releases = sorted({release, *base.kernel(system)["installed"]} - {""})
    return {
        "gpus": gpus,
        "pci_gpus": len(on_bus),
        "nvswitches": switches,
        "fabric": pci.fabric(system, on_bus, switches),
        "driver": {
            "version": version or next((gpu["driver_version"] for gpu in answered), None),
            "loaded": version,
            "flavor": flavor,
            "userspace": nvidia.userspace(system),
            "nvml": state,
            "nvml_message": message,
            "nouveau": system.exists("/sys/module/nouveau") or any(gpu["pci_driver"] == "nouveau" for gpu in on_bus),
            "modules": {name: nvidia.kernel_modules(system, name) for name in releases},
            "devices": [f"/dev/{name}" for name in system.names("/dev") if name.startswith("nvidia")],
        },
        "cdi": specifications,
        "rdma": rdma.read(system, specifications["specs"]),
    }


def _reboot(system: System, facts: dict[str, Any]) -> dict[str, Any]:
    """Whether only a reboot helps, from the state of the host itself and from what a role noted."""
    noted = base.recorded_reboot(system)
    reasons = list(noted["reasons"])
    driver = facts["driver"]
    ours = [gpu for gpu in facts["gpus"] if gpu["pci_id"] and gpu["pci_driver"] != "vfio-pci"]
    if driver["loaded"] and driver["userspace"] and driver["loaded"] != driver["userspace"]:
        reasons.append(f"the loaded kernel module is {driver['loaded']}, the installed driver {driver['userspace']}")
    elif driver["nvml"] == "mismatch":
        reasons.append("the loaded kernel module and the installed driver differ in version")
    elif ours and driver["userspace"] and not driver["loaded"]:
        cause = "nouveau drives the GPU" if driver["nouveau"] else "the driver is installed but not loaded"
        reasons.append(cause)
    return {"required": bool(reasons), "reasons": list(dict.fromkeys(reasons)), "noted": noted["noted"]}
