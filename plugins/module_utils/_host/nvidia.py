# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The NVIDIA driver as it is loaded and as it is installed, and the GPUs as PCI and nvidia-smi know them."""

from __future__ import annotations

import os
import re
from typing import Any, Optional

from .system import System

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


def loaded(system: System) -> tuple[Optional[str], Optional[str]]:
    """(version, flavor) of the loaded kernel module; the flavor is ``open`` or ``proprietary``."""
    text = system.text("/proc/driver/nvidia/version")
    if text:
        line = next((row for row in text.splitlines() if row.startswith("NVRM version")), text)
        match = _VERSION.search(line)
        return (match.group(1) if match else None), ("open" if "Open Kernel Module" in line else "proprietary")
    version = system.text("/sys/module/nvidia/version")
    return version or None, None


def userspace(system: System) -> Optional[str]:
    """The version of the driver's libraries, from what ``libnvidia-ml.so.1`` points to."""
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
    """Which of the driver's modules lie ready for the kernel *release*, wherever they are packaged.

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
