# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be known to go wrong before a build has written its first byte, each with its figures."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._base.errors import FleetError
from .._base.sizes import GIB, MIB, gib
from .._checkpoint.inspect import Checkpoint, ModelConfig
from .._host import base
from .._host.gpu import Gpu
from .._host.system import System
from .._release.options import RANKS, world_size
from .._release.releases import Release
from .._release.rules import check_layers

# Checks that rest on an estimate, or on a matrix, and that an operator may know better about.
SKIPPABLE = ("disk", "host_memory", "gpu_memory", "compute_capability")

# Reported by users: a 9B model (18.5 GB) peaked at 40 GB, a 7B one (14 GB) was killed with 32 GB.
HOST_MEMORY_FACTOR = 2.5
# Weights of the rank, and what building needs beside them: reported 19.4 GB for an 18.5 GB model.
GPU_MEMORY_FACTOR, GPU_MEMORY_EXTRA = 1.05, GIB
DISK_EXTRA = 64 * MIB

_BYTES_OF_DTYPE = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8_e4m3fn": 1.0}
# Bytes for each parameter after quantisation; the scales are small beside it.
_BYTES_OF_FORMAT = {
    "int8": 1.0, "int4": 0.5, "int8_gptq": 1.0, "int4_gptq": 0.5, "int4_awq": 0.5, "w4a8_awq": 0.5, "w4a16_awq": 0.5,
    "fp8": 1.0, "fp8_pc_pt": 1.0, "int8_sq": 1.0, "int8_wo": 1.0, "int4_wo": 0.5, "nvfp4": 0.5,
}  # fmt: skip


@dataclass(frozen=True)
class Host:
    """What the host has free, in bytes; None where it cannot be told."""

    disk_free: int | None
    memory_available: int | None

    @classmethod
    def of(cls, root: Path) -> Host:
        """Ask the file system that will hold *root*, and the kernel."""
        system, path = System(), os.path.abspath(root)
        free = base.disks(system, [path]).get(path, {}).get("free_bytes")
        return cls(free, base.memory(system)["available_bytes"])


def engine_bytes(checkpoint: Checkpoint, options: Mapping[str, Any], dtype: str | None) -> int:
    """Estimated size of all ranks of the engine: the parameters at the precision that was asked for."""
    source = _BYTES_OF_DTYPE.get(checkpoint.config.dtype or "float16", 2.0)
    target = _BYTES_OF_DTYPE.get(dtype or checkpoint.config.dtype or "float16", 2.0)
    quantized = options.get("qformat")
    if options.get("use_weight_only"):
        quantized = options.get("weight_only_precision") or "int8"
    elif options.get("use_fp8") or options.get("use_fp8_rowwise"):
        quantized = "fp8"
    elif options.get("use_nvfp4"):
        quantized = "nvfp4"
    return int(checkpoint.weight_bytes / source * _BYTES_OF_FORMAT.get(str(quantized), target))


def check_ranks(options: Mapping[str, Any], gpus: Sequence[Any], nodes: int = 1) -> None:
    """Ranks against the GPUs given, those of one of the *nodes* that the ranks are spread over. Needs no host.

    ``gpus: []`` means a host without GPUs: nothing to compare.
    """
    ranks = world_size(options)
    if nodes < 1 or ranks % nodes:
        raise FleetError(
            f"nodes is {nodes}, over which {ranks} ranks (tp_size * pp_size * cp_size) do not split evenly."
        )
    if nodes > 1 and gpus and ranks != nodes * len(gpus):
        raise FleetError(
            f"The engine has {ranks} ranks, {ranks // nodes} on each of {nodes} nodes, but gpus names {len(gpus)} "
            f"({', '.join(str(gpu) for gpu in gpus)}); name {ranks // nodes}."
        )
    workers = int(options.get("workers") or 1)
    if nodes > 1 and gpus and workers > len(gpus):
        raise FleetError(
            f"workers is {workers}, but all ranks are built on one host, which builds as many at once as it has GPUs: "
            f"{len(gpus)} ({', '.join(str(gpu) for gpu in gpus)}); give at most {len(gpus)}."
        )
    if gpus and ranks > nodes * len(gpus):
        product = " * ".join(f"{name} {options[name]}" for name in RANKS if (options.get(name) or 1) > 1)
        raise FleetError(
            f"The engine needs {ranks} GPUs ({product}) but gpus names {len(gpus)} "
            f"({', '.join(str(gpu) for gpu in gpus)}); name {ranks} or lower tp_size."
        )
    if len(set(map(str, gpus))) != len(gpus):
        raise FleetError(f"gpus names a GPU twice ({', '.join(str(gpu) for gpu in gpus)}); name each once.")


def check_split(release: Release, options: Mapping[str, Any], config: ModelConfig) -> None:
    """Ranks against the shape of the model: attention heads by tp_size, layers by pp_size."""
    tp_size, pp_size = int(options.get("tp_size") or 1), int(options.get("pp_size") or 1)
    if config.heads and config.heads % tp_size:
        fitting = ", ".join(str(n) for n in range(1, config.heads + 1) if config.heads % n == 0 and n <= 64)
        raise FleetError(
            f"The model's {config.heads} attention heads cannot be split evenly over tp_size {tp_size}; "
            f"tp_size can be {fitting}."
        )
    if config.kv_heads and config.kv_heads % tp_size and tp_size % config.kv_heads:
        raise FleetError(
            f"The model's {config.kv_heads} key/value heads can be neither split over nor repeated to tp_size "
            f"{tp_size}; one must be a multiple of the other."
        )
    if config.layers:
        check_layers(release, config.layers, pp_size)


def check_compute(release: Release, gpus: Sequence[Gpu]) -> None:
    """The release against the compute capability of the GPUs."""
    for gpu in gpus:
        if gpu.compute_capability not in release.compute_capabilities:
            raise FleetError(
                f"{gpu.name} has compute capability {gpu.compute_capability}, but TensorRT-LLM {release.version} "
                f"is made for {', '.join(release.compute_capabilities)}; choose another release."
            )


def check_disk(host: Host, root: Path, converted: int, engine: int) -> None:
    """Free space against what will be written; the checkpoint itself is on the host already."""
    needed = converted + engine + DISK_EXTRA
    if host.disk_free is not None and host.disk_free < needed:
        what = f"{gib(converted)} converted checkpoint, {gib(engine)} engine" if converted else f"{gib(engine)} engine"
        raise FleetError(
            f"{root} has {gib(host.disk_free)} free, but making the engine needs about {gib(needed)} ({what}); "
            "free space there or choose another root."
        )


def check_memory(host: Host, weight_bytes: int, workers: int) -> None:
    """Available host memory against loading the checkpoint once for each worker."""
    needed = weight_bytes * HOST_MEMORY_FACTOR * workers
    if host.memory_available is not None and host.memory_available < needed:
        raise FleetError(
            f"The host has {gib(host.memory_available)} of memory available, but converting {gib(weight_bytes)} of "
            f"weights with {workers} worker{'s' if workers > 1 else ''} takes about {gib(needed)}; free memory"
            f"{' or lower workers' if workers > 1 else ''}."
        )


def check_gpu_memory(gpus: Sequence[Gpu], engine: int, ranks: int) -> None:
    """Free GPU memory against one rank's share of the weights."""
    needed = engine / ranks * GPU_MEMORY_FACTOR + GPU_MEMORY_EXTRA
    for gpu in gpus:
        if gpu.memory_free is not None and gpu.memory_free < needed:
            raise FleetError(
                f"GPU {gpu.index} ({gpu.name}) has {gib(gpu.memory_free)} of {gib(gpu.memory_total)} free, but one of "
                f"{ranks} rank{'s' if ranks > 1 else ''} needs about {gib(needed)}; "
                "stop what runs on it or raise tp_size."
            )


def preflight(
    *,
    release: Release,
    checkpoint: Checkpoint,
    options: Mapping[str, Any],
    dtype: str | None,
    gpus: Sequence[Gpu],
    host: Host,
    root: Path,
    ranks: int,
    converts: bool,
    skip: Collection[str] = (),
) -> None:
    """All checks in the order in which an operator would repair them; the first refusal raises.

    *converts*: whether a converted checkpoint still has to be written. *skip*: names from `SKIPPABLE`.
    """
    check_split(release, options, checkpoint.config)
    if "compute_capability" not in skip:
        check_compute(release, gpus)
    engine = engine_bytes(checkpoint, options, dtype)
    if "disk" not in skip:
        check_disk(host, root, engine if converts else 0, engine)
    if "host_memory" not in skip:
        check_memory(host, checkpoint.weight_bytes, min(int(options.get("workers") or 1), ranks))
    if "gpu_memory" not in skip:
        check_gpu_memory(gpus, engine, ranks)
