# SPDX-License-Identifier: GPL-3.0-or-later
"""Which device this is: the GPU that was handed to the container, or the CPU.

Engines are bound to it as TensorRT binds its own, so everything that depends on the binding (stale
engines, engines copied between hosts) behaves here as it does on a GPU.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

TENSORRT_VERSION = "10.14.1.48"


@dataclass(frozen=True)
class Device:
    name: str
    compute_capability: str


def current_device() -> Device:
    """nvidia-smi's first GPU where the container has one, else `CPU <machine>` with compute 0.0."""
    program = shutil.which("nvidia-smi")
    if program:
        query = [program, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            answer = None
        first = answer.stdout.strip().splitlines()[0] if answer and answer.stdout.strip() else ""
        name, comma, capability = (part.strip() for part in first.rpartition(","))
        if comma:
            return Device(name, capability)
    return Device(f"CPU {platform.machine()}", "0.0")


def free_memory_bytes() -> int:
    """Memory that may still be taken: the kernel's estimate, or what the cgroup leaves if that is less."""
    free = 1 << 30
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        free = min(free, max(0, int(limit) - int(used)))
    return free


def resident_memory_bytes() -> int:
    """This process's resident set."""
    fields = _read("/proc/self/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
