# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nvidia-smi says of the GPUs. It is run here and nowhere else."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Optional

from .._base.command import Answer
from .system import System

PROGRAM = "nvidia-smi"
# In the order in which nvidia-smi complains about those it does not know.
OPTIONAL_FIELDS = ("compute_cap", "mig.mode.current", "persistence_mode")
FIELDS = (
    "index",
    "name",
    "uuid",
    "pci.bus_id",
    "memory.total",
    "memory.free",
    "driver_version",
    *OPTIONAL_FIELDS,
)
_MIG_LINE = re.compile(r"^\s+MIG\s+(\S+)\s+Device\s+(\d+):\s+\(UUID:\s*(MIG-[^)]+)\)")
_GPU_LINE = re.compile(r"^GPU\s+(\d+):")


class Reading(NamedTuple):
    """What nvidia-smi answered.

    The state is ``ok``, ``absent`` (no nvidia-smi), ``no_driver`` (no module is loaded), ``mismatch`` (the loaded
    module and the libraries differ: NVML refuses), ``no_gpu`` or ``failed``, with nvidia-smi's own words.
    """

    state: str
    message: str
    gpus: list[dict[str, Any]]


def read(system: System) -> Reading:
    """What nvidia-smi says of the GPUs, with their MIG devices. Never raises, never hangs."""
    fields: tuple[str, ...] = FIELDS
    answer = _query(system, fields)
    for field in OPTIONAL_FIELDS:
        if answer.rc != 0 and f'"{field}" is not a valid field' in answer.out + answer.err:
            fields = tuple(name for name in fields if name != field)  # an older driver
            answer = _query(system, fields)
    words = " ".join((answer.out + " " + answer.err).split())
    if answer.rc == 127:
        return Reading("absent", "", [])
    if "version mismatch" in words:
        return Reading("mismatch", words, [])
    if "couldn't communicate with the NVIDIA driver" in words or "Driver Not Loaded" in words:
        return Reading("no_driver", words, [])
    if "No devices were found" in words:
        return Reading("no_gpu", words, [])
    if answer.rc != 0:
        return Reading("failed", words or f"nvidia-smi ended with {answer.rc}", [])
    gpus = [_gpu(dict(zip(fields, values))) for values in _rows(answer.out) if len(values) == len(fields)]
    if words and not gpus:
        return Reading("failed", f"nvidia-smi printed what is not understood: {words}", [])
    if any(gpu["mig"]["enabled"] for gpu in gpus):
        instances = mig_devices(system.run([PROGRAM, "-L"]).out)
        for gpu in gpus:
            gpu["mig"]["devices"] = instances.get(gpu["index"], [])
    return Reading("ok", "", gpus)


def _query(system: System, fields: tuple[str, ...]) -> Answer:
    return system.run([PROGRAM, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"])


def mig_devices(listing: str) -> dict[int, list[dict[str, Any]]]:
    """The MIG devices of each GPU index from ``nvidia-smi -L``."""
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


def _rows(text: str) -> list[list[str]]:
    """The cells of each GPU; nvidia-smi prints warnings among them."""
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


def _mebibytes(text: str) -> Optional[int]:
    return int(text) if text.isdigit() else None


def _address(bus_id: str) -> str:
    """Turn nvidia-smi's ``00000000:01:00.0`` into sysfs's ``0000:01:00.0``."""
    domain, _colon, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"
