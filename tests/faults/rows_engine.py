# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of engines."""

from __future__ import annotations

from typing import Any

from .blows import until
from .lab import SCRATCH
from .rows import GOES_ON, KILLED, Row, Strike

FRESH = f"rm -rf {SCRATCH}/* {SCRATCH}/.[!.]*; "
ENGINE = f"ls {SCRATCH}/engines/scratch/*/rank0.engine"
BUILDING = until("podman ps --format '{{.Names}}' | grep -q trtllm-engine")
SLOWLY = {"engine_environment": {"TRTLLM_CPU_BUILD_SECONDS": "6"}}
BUILD = r"TASK \[trtllm.fleet.engine : Ensure that the engines are built"
NO_ENGINE = f"! ls {SCRATCH}/engines/scratch/*/rank0.engine 2> /dev/null"
CONTAINER = "$(podman ps --format '{{.Names}}' | grep trtllm-engine)"


def engine(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of an engine on a disk of its own, which is not there before."""
    about["before"] = FRESH + about.get("before", "")
    return Row("engine", fault, when, expected, "engine", after=about.pop("after", ENGINE), **about)


ENGINES = (
    engine(
        "controller killed",
        "in the middle of a build",
        "the build goes on; the next run takes it",
        always=SLOWLY,
        ends=KILLED,
        strikes=(Strike(BUILD, kills=True, do=BUILDING),),
        keeps="podman ps --format '{{.Names}}' | grep -q trtllm-engine",
    ),
    engine(
        "container killed",
        "in the middle of a build",
        "told with its log; the next run builds anew",
        always=SLOWLY,
        strikes=(Strike(BUILD, beside=True, do=BUILDING + f"; sleep 2; podman kill --signal KILL {CONTAINER}"),),
        keeps=NO_ENGINE,
    ),
    engine(
        "disk read-only",
        "before the run",
        "told",
        before=f"mount -o remount,ro {SCRATCH}",
        mend=f"mount -o remount,rw {SCRATCH}",
        keeps=NO_ENGINE,
    ),
    Row(
        "engine",
        "engine of ours removed",
        "before the run",
        "built anew",
        "model",
        ends=GOES_ON,
        loses=True,
        before="rm /var/lib/trtllm/engines/tiny-llama/*/rank0.engine",
        after="ls /var/lib/trtllm/engines/tiny-llama/*/rank0.engine",
        limit=420,
    ),
    Row(
        "engine",
        "manifest unreadable",
        "before the run",
        "built anew",
        "model",
        ends=GOES_ON,
        loses=True,
        before="echo '{' > $(ls -d /var/lib/trtllm/engines/tiny-llama/*/manifest.json)",
        limit=420,
    ),
)
ROWS: tuple[Row, ...] = ENGINES
