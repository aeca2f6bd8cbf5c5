# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The NVIDIA driver as it is loaded, as it is installed, and what nvidia-smi says of the GPUs."""

from __future__ import annotations

import os
import re
from typing import Any, Optional

from ansible_collections.trtllm.fleet.plugins.module_utils._gpu_host_system import Answer, System

# Modules that a serving host needs; nvidia-drm and nvidia-modeset come along but are not needed for CUDA.
KERNEL_MODULES = ("nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm")
LIBRARY_DIRECTORIES = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
    "/usr/local/nvidia/lib64",
    "/usr/lib",
)
_VERSION = re.compile(r"\b(\d{3}\.\d{2,3}(?:\.\d{2})?)\b")
_MIG_LINE = re.compile(r"^\s+MIG\s+(\S+)\s+Device\s+(\d+):\s+\(UUID:\s*(MIG-[^)]+)\)")
_GPU_LINE = re.compile(r"^GPU\s+(\d+):")
# In the order in which nvidia-smi complains about those it does not know.
OPTIONAL_FIELDS = ("compute_cap", "mig.mode.current", "persistence_mode")
_FIELDS = (
    "index",
    "name",
    "uuid",
    "pci.bus_id",
    "memory.total",
    "memory.free",
    "driver_version",
    *OPTIONAL_FIELDS,
)


def loaded(system: System) -> tuple[Optional[str], Optional[str]]:
    """Return (version, flavor) of the loaded kernel module; the flavor is V(open) or V(proprietary)."""
    text = system.text("/proc/driver/nvidia/version")
    if text:
        line = next((row for row in text.splitlines() if row.startswith("NVRM version")), text)
        match = _VERSION.search(line)
        return (match.group(1) if match else None), ("open" if "Open Kernel Module" in line else "proprietary")
    version = system.text("/sys/module/nvidia/version")
    return version or None, None


def userspace(system: System) -> Optional[str]:
    """Return the version of the driver's libraries, from what C(libnvidia-ml.so.1) points to."""
    for directory in LIBRARY_DIRECTORIES:
        link = system.link_name(f"{directory}/libnvidia-ml.so.1")
        names = [link] if link else system.names(directory)
        for name in names:
            if name.startswith(("libnvidia-ml.so.", "libcuda.so.")):
                match = _VERSION.search(name)
                if match:
                    return match.group(1)
    return None


def kernel_modules(system: System, release: str) -> list[str]:
    """Return which of the driver's modules lie ready for the kernel *release*, wherever they are packaged.

    DKMS puts them in updates/dkms, Canonical in kernel/nvidia-*, RPMs in extra or weak-updates.
    """
    found = set()
    base = system.path(f"/lib/modules/{release}")
    for directory in ("updates", "extra", "weak-updates", "kernel/drivers/video", "kernel"):
        top = base / directory
        for folder, inner, names in os.walk(top):
            if directory == "kernel" and folder == str(top):
                inner[:] = [name for name in inner if name.startswith("nvidia")]
            for name in names:
                stem = name.split(".ko", 1)[0].replace("_", "-")
                if ".ko" in name and stem in KERNEL_MODULES:
                    found.add(stem)
    return sorted(found)


def _mig_devices(listing: str) -> dict[int, list[dict[str, Any]]]:
    """Return the MIG devices of each GPU index from C(nvidia-smi -L)."""
    result: dict[int, list[dict[str, Any]]] = {}
    gpu: Optional[int] = None
    for line in listing.splitlines():
        head = _GPU_LINE.match(line)
        if head:
            gpu = int(head.group(1))
        match = _MIG_LINE.match(line)
        if match and gpu is not None:
            profile, index, uuid = match.groups()
            result.setdefault(gpu, []).append({"index": int(index), "profile": profile, "uuid": uuid.strip()})
    return result


def _query(system: System, fields: tuple[str, ...]) -> Answer:
    return system.run(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"])


def _mebibytes(text: str) -> Optional[int]:
    return int(text) if text.isdigit() else None


def smi(system: System) -> tuple[str, str, list[dict[str, Any]]]:
    """Return (state, message, GPUs) as nvidia-smi gives them.

    The state is V(ok), V(absent) (no nvidia-smi), V(no_driver) (no module is loaded), V(mismatch) (the loaded
    module and the libraries differ: NVML refuses), V(no_gpu) or V(failed), with nvidia-smi's own words.
    """
    fields: tuple[str, ...] = _FIELDS
    answer = _query(system, fields)
    for field in OPTIONAL_FIELDS:
        if answer.rc != 0 and f'"{field}" is not a valid field' in answer.out + answer.err:
            fields = tuple(name for name in fields if name != field)  # an older driver
            answer = _query(system, fields)
    words = " ".join((answer.out + " " + answer.err).split())
    if answer.rc == 127:
        return "absent", "", []
    if "version mismatch" in words:
        return "mismatch", words, []
    if "couldn't communicate with the NVIDIA driver" in words or "Driver Not Loaded" in words:
        return "no_driver", words, []
    if "No devices were found" in words:
        return "no_gpu", words, []
    if answer.rc != 0:
        return "failed", words or f"nvidia-smi ended with {answer.rc}", []
    gpus = [_gpu(dict(zip(fields, values))) for values in _rows(answer.out) if len(values) == len(fields)]
    if any(gpu["mig"]["enabled"] for gpu in gpus):
        instances = _mig_devices(system.run(["nvidia-smi", "-L"]).out)
        for gpu in gpus:
            gpu["mig"]["devices"] = instances.get(gpu["index"], [])
    return "ok", "", gpus


def _rows(text: str) -> list[list[str]]:
    rows = [[value.strip() for value in line.split(",")] for line in text.splitlines()]
    return [row for row in rows if row[0].isdigit()]


def _gpu(row: dict[str, str]) -> dict[str, Any]:
    mode = row.get("mig.mode.current", "")
    capability = row.get("compute_cap", "")
    return {
        "index": int(row["index"]),
        "name": row["name"],
        "uuid": row["uuid"],
        "pci_address": _address(row["pci.bus_id"]),
        "memory_mib": _mebibytes(row["memory.total"]),
        "memory_free_mib": _mebibytes(row["memory.free"]),
        "compute_capability": capability if re.fullmatch(r"\d+\.\d+", capability) else None,
        "driver_version": row["driver_version"],
        "persistence": row.get("persistence_mode") == "Enabled",
        "mig": {"supported": mode in ("Enabled", "Disabled"), "enabled": mode == "Enabled", "devices": []},
    }


def _address(bus_id: str) -> str:
    """Turn nvidia-smi's V(00000000:01:00.0) into sysfs's V(0000:01:00.0)."""
    domain, _colon, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def merge(on_bus: list[dict[str, Any]], answered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join what PCI and nvidia-smi know of each GPU by its address; either may know more GPUs."""
    by_address = {gpu["pci_address"]: gpu for gpu in answered}
    empty = {
        "index": None,
        "name": None,
        "uuid": None,
        "memory_mib": None,
        "memory_free_mib": None,
        "compute_capability": None,
        "driver_version": None,
        "persistence": False,
        "mig": {"supported": False, "enabled": False, "devices": []},
    }
    nowhere = {"pci_id": None, "pci_driver": None, "architecture": None, "open_modules": None}
    result = []
    for gpu in on_bus:
        said = by_address.pop(gpu["pci_address"], {})
        merged = {**empty, **gpu, **{key: value for key, value in said.items() if value is not None}}
        result.append(merged)
    result += [{**empty, **nowhere, **gpu} for gpu in by_address.values()]
    return sorted(result, key=lambda gpu: (gpu["index"] is None, gpu["index"] or 0, gpu["pci_address"]))
