# SPDX-License-Identifier: GPL-3.0-or-later
"""What rows look at and do in the directory that they may spoil."""

from __future__ import annotations

from .blows import until
from .lab import SCRATCH

CHECKPOINT = f"test -s {SCRATCH}/checkpoints/scratch/config.json"
NO_CHECKPOINT = f"test ! -e {SCRATCH}/checkpoints/scratch"
FRESH = f"rm -rf {SCRATCH}/* {SCRATCH}/.[!.]*; "
ENGINE = f"ls {SCRATCH}/engines/scratch/*/rank0.engine"
BUILDING = until("podman ps --format '{{.Names}}' | grep -q trtllm-engine")
FILL = f"fallocate -l $(( $(df --output=avail -B1 {SCRATCH} | tail -n 1) - {{}} )) {SCRATCH}/full"
SLOWLY = {"engine_environment": {"TRTLLM_CPU_BUILD_SECONDS": "6"}}
# Enough for all rows; where their number has no limit, there cannot be one later.
INODES = 100000
FEW_INODES = f"mount -o remount,nr_inodes=$(( $(df --output=iused {SCRATCH} | tail -n 1) + {{}} )) {SCRATCH}"
MANY_INODES = f"mount -o remount,nr_inodes={INODES} {SCRATCH}"
