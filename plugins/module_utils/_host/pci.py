# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA devices on the PCI bus: known before any driver is there, so decisions can rest on them."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

from .system import System

DEVICES = "/sys/bus/pci/devices"
NVIDIA_VENDOR = 0x10DE
MELLANOX_VENDOR = 0x15B3
# VGA and 3D controllers are GPUs; NVSwitches are bridges of the kind "other" (0680).
GPU_CLASSES = (0x0300, 0x0302)
BRIDGE_CLASS = 0x0680
# The chipsets that NVIDIA made until 2010 have bridges of that class too, all with smaller ids.
FIRST_NVSWITCH_ID = 0x1A00


class Architecture(NamedTuple):
    """A range of PCI device ids with what follows from it."""

    first: int
    last: int
    name: str
    compute_capability: str
    open_modules: str  # "no": only proprietary modules drive it; "yes": both do; "only": only open ones do


# Ranges as in the PCI ID list; the compute capability is the most common one of the range and is replaced by
# what nvidia-smi says as soon as a driver is there. Open kernel modules: Turing and newer, the only ones that
# drive Blackwell (and Grace Hopper).
ARCHITECTURES = (
    Architecture(0x0000, 0x133F, "kepler", "3.5", "no"),
    Architecture(0x1340, 0x15EF, "maxwell", "5.2", "no"),
    Architecture(0x15F0, 0x15FF, "pascal", "6.0", "no"),
    Architecture(0x1600, 0x17FF, "maxwell", "5.2", "no"),
    Architecture(0x1B00, 0x1D7F, "pascal", "6.1", "no"),
    Architecture(0x1D80, 0x1DFF, "volta", "7.0", "no"),
    Architecture(0x1E00, 0x1FFF, "turing", "7.5", "yes"),
    Architecture(0x2080, 0x20FF, "ampere", "8.0", "yes"),
    Architecture(0x2180, 0x21FF, "turing", "7.5", "yes"),
    Architecture(0x2200, 0x22FF, "ampere", "8.6", "yes"),
    Architecture(0x2342, 0x2349, "hopper", "9.0", "only"),
    Architecture(0x2300, 0x23FF, "hopper", "9.0", "yes"),
    Architecture(0x2400, 0x25FF, "ampere", "8.6", "yes"),
    Architecture(0x2600, 0x28FF, "ada", "8.9", "yes"),
    Architecture(0x2900, 0x2AFF, "blackwell", "10.0", "only"),
    Architecture(0x2B80, 0x2FFF, "blackwell", "12.0", "only"),
    Architecture(0x3180, 0x31FF, "blackwell", "10.3", "only"),
)
# Boards whose NVLink 5 switches hang behind ConnectX-7 bridges and are invisible on the PCI bus.
HGX_NVLINK5 = {0x2901: "B200", 0x3182: "B300"}
# Their fabric is run on the switch trays; the compute tray needs IMEX.
MULTINODE_NVLINK = {0x2941: "GB200", 0x31C2: "GB300", 0x31C3: "GB300"}


def architecture(device_id: int) -> Optional[Architecture]:
    """What is known of a PCI device id, None for one newer than this table."""
    for entry in ARCHITECTURES:
        if entry.first <= device_id <= entry.last:
            return entry
    return None


def _number(system: System, address: str, name: str) -> Optional[int]:
    text = system.text(f"{DEVICES}/{address}/{name}")
    try:
        return int(text, 16) if text else None
    except ValueError:
        return None


def nvidia_devices(system: System) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(GPUs, NVSwitches) found in sysfs, in the order of their addresses.

    A GPU handed to a virtual machine (vfio-pci) is listed with that driver and is not ours to use.
    """
    gpus: list[dict[str, Any]] = []
    switches: list[dict[str, Any]] = []
    for address in system.names(DEVICES):
        if _number(system, address, "vendor") != NVIDIA_VENDOR:
            continue
        device = _number(system, address, "device")
        kind = _number(system, address, "class")
        if device is None or kind is None:
            continue
        if kind >> 8 in GPU_CLASSES:
            known = architecture(device)
            gpus.append(
                {
                    "pci_address": address,
                    "pci_id": f"{device:04x}",
                    "pci_driver": system.link_name(f"{DEVICES}/{address}/driver"),
                    "architecture": known.name if known else None,
                    "compute_capability": known.compute_capability if known else None,
                    "open_modules": known.open_modules if known else "only",
                }
            )
        elif kind >> 8 == BRIDGE_CLASS and device >= FIRST_NVSWITCH_ID:
            switches.append({"pci_address": address, "pci_id": f"{device:04x}"})
    return gpus, switches


def _has_switch_management_bridge(system: System) -> bool:
    """Whether a ConnectX-7 function manages NVLink 5 switches: its VPD names the model SW_MNG."""
    for address in system.names(DEVICES):
        if _number(system, address, "vendor") == MELLANOX_VENDOR:
            data = system.data(f"{DEVICES}/{address}/vpd", 4096)
            if data and b"SW_MNG" in data:
                return True
    return False


def fabric(system: System, gpus: list[dict[str, Any]], switches: list[dict[str, Any]]) -> str:
    """What joins the GPUs: ``none``, ``nvswitch``, ``nvlink5`` or ``multinode``.

    ``nvswitch`` needs the fabric manager; ``nvlink5`` the subnet manager and ib_umad too; ``multinode`` IMEX.
    """
    ids = {int(gpu["pci_id"], 16) for gpu in gpus}
    if ids & set(MULTINODE_NVLINK):
        return "multinode"
    if ids & set(HGX_NVLINK5) and (len(gpus) >= 8 or _has_switch_management_bridge(system)):
        return "nvlink5"
    if gpus and _has_switch_management_bridge(system):
        return "nvlink5"
    return "nvswitch" if gpus and switches else "none"
