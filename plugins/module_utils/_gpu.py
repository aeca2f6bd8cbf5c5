# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPUs of this host as ``nvidia-smi`` tells them, and their names in CDI."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

from ansible_collections.trtllm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import SEARCH_PATH

MIB = 1 << 20
QUERY = "index,name,compute_cap,memory.total,memory.free,uuid"
CDI_KIND = "nvidia.com/gpu"
GpuRef = Union[int, str]


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of it (then *memory_free* is None: it is not told per slice). Bytes."""

    index: int
    name: str
    compute_capability: str
    memory_total: int
    memory_free: int | None
    uuid: str


def executable() -> str | None:
    """Where nvidia-smi is, or None on a host without it."""
    return shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=SEARCH_PATH + ":/usr/local/nvidia/bin")


def _nvidia_smi(*arguments: str) -> str:
    program = executable()
    if program is None:
        raise FleetError("nvidia-smi is not on this host; install the driver (role gpu_driver), or give gpus: [].")
    try:
        done = subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        raise FleetError("nvidia-smi gave no answer within 60 s; check the driver of this host.") from None
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise FleetError(f"nvidia-smi failed ({said[0] if said else 'no message'}); check the driver of this host.")
    return done.stdout


def _bytes(text: str) -> int:
    """MiB as nvidia-smi prints them, in bytes; 0 for "[N/A]"."""
    return int(float(text)) * MIB if re.fullmatch(r"[\d.]+", text) else 0


def parse_query(text: str) -> list[Gpu]:
    """GPUs from the CSV of ``--query-gpu=index,name,compute_cap,memory.total,memory.free,uuid``."""
    gpus = []
    for line in text.strip().splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 6 or not cells[0].isdigit():
            raise FleetError(f"nvidia-smi printed a line that is not understood: {line!r}; check the driver.")
        gpus.append(Gpu(int(cells[0]), cells[1], cells[2], _bytes(cells[3]), _bytes(cells[4]), cells[5]))
    return gpus


def parse_mig(text: str) -> dict[str, tuple[int, str]]:
    """MIG slices from ``nvidia-smi -L``: ``0:1`` and the UUID -> (GPU index, profile such as 1g.10gb)."""
    slices: dict[str, tuple[int, str]] = {}
    parent = -1
    for line in text.splitlines():
        gpu = re.match(r"GPU (\d+):", line)
        if gpu:
            parent = int(gpu.group(1))
        mig = re.match(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)", line)
        if mig:
            slices[f"{parent}:{mig.group(2)}"] = slices[mig.group(3)] = (parent, mig.group(1))
    return slices


def query() -> list[Gpu]:
    """All GPUs of this host. No nvidia-smi, or a driver that does not answer, raises `FleetError`."""
    return parse_query(_nvidia_smi(f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"))


def select(wanted: Sequence[GpuRef]) -> list[Gpu]:
    """The GPUs (or MIG slices) that *wanted* names by index, UUID or ``GPU:SLICE``; an unknown one raises."""
    gpus = query()
    by_name: dict[str, Gpu] = {}
    for gpu in gpus:
        by_name[str(gpu.index)] = by_name[gpu.uuid] = gpu
    names = [str(name).removeprefix(CDI_KIND + "=") for name in wanted]
    if any(name not in by_name for name in names):
        by_index = {gpu.index: gpu for gpu in gpus}
        for name, (parent, profile) in parse_mig(_nvidia_smi("-L")).items():
            whole = by_index[parent]
            title = f"{whole.name} MIG {profile}"
            by_name[name] = Gpu(parent, title, whole.compute_capability, whole.memory_total, None, name)
    for name in names:
        if name not in by_name:
            known = ", ".join(str(gpu.index) for gpu in gpus) or "none"
            raise FleetError(f"GPU {name} is not on this host (it has {known}); correct gpus.")
    return [by_name[name] for name in names]


def cdi_name(gpu: GpuRef) -> str:
    """The CDI device of a GPU: ``0`` -> ``nvidia.com/gpu=0``; a full CDI name is kept."""
    return str(gpu) if "=" in str(gpu) else f"{CDI_KIND}={gpu}"


def identity(gpus: Sequence[Gpu], world_size: int) -> dict[str, Any] | None:
    """What of the GPUs determines an engine: name, compute capability and how many; None without GPUs.

    Different GPUs under one engine raise: every rank is built for the same one.
    """
    if not gpus:
        return None
    for gpu in gpus[1:]:
        if (gpu.name, gpu.compute_capability) != (gpus[0].name, gpus[0].compute_capability):
            raise FleetError(
                f"gpus are not alike: {gpus[0].uuid} is an {gpus[0].name}, {gpu.uuid} is an {gpu.name}; "
                "an engine is built for one kind."
            )
    return {"name": gpus[0].name, "compute_capability": gpus[0].compute_capability, "count": world_size}
