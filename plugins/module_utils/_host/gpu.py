# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPUs of this host that somebody names, and their names in CDI."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

from .._base import command
from .._base.errors import FleetError
from .._base.names import show
from .._base.sizes import MIB
from . import nvidia_smi
from .system import System

CDI_KIND = "nvidia.com/gpu"
GpuRef = Union[int, str]
# A name in CDI begins and ends with a letter or digit, and its kind is VENDOR/CLASS, by CDI's specification.
CDI_NAME = r"[A-Za-z0-9](?:[\w.:-]*[A-Za-z0-9])?"
GPU_NAME = re.compile(rf"(?:[A-Za-z][\w.-]*/[A-Za-z][\w-]*=)?{CDI_NAME}|/dev/[\w./:-]+", re.ASCII)


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of it. Bytes; *memory_free* is None where it is not told, as for a slice."""

    index: int
    name: str
    compute_capability: str
    memory_total: int
    memory_free: int | None
    uuid: str


def executable() -> str | None:
    """Where nvidia-smi is, or None on a host without it."""
    return command.find(nvidia_smi.PROGRAM)


def _answered() -> list[dict[str, Any]]:
    """What nvidia-smi says of each GPU. No nvidia-smi, or a driver that does not answer, raises `FleetError`."""
    state, message, gpus = nvidia_smi.read(System())
    if state == "absent":
        raise FleetError("nvidia-smi is not on this host; install the driver (role gpu_driver), or give gpus: [].")
    if state != "ok":
        raise FleetError(f"nvidia-smi does not list the GPUs ({message}); check the driver of this host.")
    return gpus


def _gpu(said: dict[str, Any]) -> Gpu:
    free = said["memory_free_mib"]
    return Gpu(
        index=said["index"],
        name=said["name"],
        compute_capability=said["compute_capability"] or "",
        memory_total=(said["memory_mib"] or 0) * MIB,
        memory_free=None if free is None else free * MIB,
        uuid=said["uuid"],
    )


def select(wanted: Sequence[GpuRef]) -> list[Gpu]:
    """The GPUs (or MIG slices) that *wanted* names by index, UUID or ``GPU:SLICE``; an unknown one raises."""
    by_name: dict[str, Gpu] = {}
    indices = []
    for said in _answered():
        gpu = _gpu(said)
        indices.append(str(gpu.index))
        by_name[str(gpu.index)] = by_name[gpu.uuid] = gpu
        for mig in said["mig"]["devices"]:
            title = f"{gpu.name} MIG {mig['profile']}"
            for name in (f"{gpu.index}:{mig['index']}", mig["uuid"]):
                by_name[name] = Gpu(gpu.index, title, gpu.compute_capability, gpu.memory_total, None, name)
    names = [str(name).removeprefix(CDI_KIND + "=") for name in wanted]
    for name in names:
        if name not in by_name:
            raise FleetError(f"GPU {name} is not on this host (it has {', '.join(indices) or 'none'}); correct gpus.")
    return [by_name[name] for name in names]


def check_gpu(gpu: GpuRef, what: str) -> None:
    """Refuse what cannot name a GPU; *what* is who was given it."""
    if not GPU_NAME.fullmatch(str(gpu)):
        raise FleetError(
            f"{what} has the GPU {show(gpu)}; give an index (0), a MIG slice (0:1), a UUID, a CDI name "
            f"({CDI_KIND}=0) or the path of a device below /dev."
        )


def cdi_name(gpu: GpuRef) -> str:
    """What a container is given of a GPU, by its name in CDI: ``0``, ``0:1`` (a MIG slice), a UUID or ``all``.

    A full CDI name and the path of a device node stay as they are.
    """
    text = str(gpu)
    return text if "=" in text or text.startswith("/") else f"{CDI_KIND}={text}"


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
