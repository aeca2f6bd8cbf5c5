# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of engines."""

from __future__ import annotations

import shlex
from typing import Any

from .blows import CLOCK, CLOCK_RIGHT, NEXT_MODULE, REBOOT, UP
from .lab import SCRATCH
from .rows import GOES_ON, KILLED, Row, Strike
from .scratch import BUILDING, ENGINE, FEW_INODES, FILL, FRESH, MANY_INODES, SLOWLY

BUILD = r"TASK \[trtllm.fleet.engine : Ensure that the engines are built"
NO_ENGINE = f"! ls {SCRATCH}/engines/scratch/*/rank0.engine 2> /dev/null"
CONTAINER = "$(podman ps --format '{{.Names}}' | grep trtllm-engine)"
NVIDIA_SMI = (
    "printf '#!/bin/sh\\n%s\\n' {} > /usr/local/sbin/nvidia-smi; chmod 755 "
    "/usr/local/sbin/nvidia-smi; cp /usr/bin/nvidia-smi /etc/faults-smi; cp "
    "/usr/local/sbin/nvidia-smi /usr/bin/nvidia-smi; rm /usr/local/sbin/nvidia-smi; "
)
RIGHT_SMI = "cp /etc/faults-smi /usr/bin/nvidia-smi; rm /etc/faults-smi"
MEMORY = (
    "sed 's/^MemAvailable:.*/MemAvailable: {} kB/; s/^MemFree:.*/MemFree: {} kB/' /proc/meminfo > "
    "/run/faults-meminfo; mount --bind /run/faults-meminfo /proc/meminfo"
)


def engine(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of an engine on a disk of its own, which is not there before."""
    about["before"] = FRESH + about.get("before", "")
    return Row("engine", fault, when, expected, "engine", after=about.pop("after", ENGINE), **about)


BUILT = f"mkdir -p {SCRATCH}/engines && cp -a /var/lib/trtllm/engines/tiny-llama {SCRATCH}/engines/scratch; "
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
        "module killed",
        "while it waits for a build",
        "told; the build goes on, the next run takes it",
        always=SLOWLY,
        strikes=(Strike(BUILD, beside=True, do=BUILDING + " && " + NEXT_MODULE),),
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
        "host rebooted",
        "in the middle of a build",
        "told; the next run builds anew",
        always=SLOWLY,
        strikes=(Strike(BUILD, beside=True, do=BUILDING + "; sleep 1; " + REBOOT),),
        keeps=UP,
    ),
    engine(
        "host lost",
        "in the middle of a build",
        "named as lost; the next run builds anew",
        always=SLOWLY,
        strikes=(
            Strike(
                BUILD,
                beside=True,
                here=f"$testbed exec $host -- bash -c {shlex.quote(BUILDING)}; sleep 1; $testbed cut $host",
            ),
        ),
        mend_here="$testbed start $host",
        # So long a lost connection is tried again.
        limit=560,
    ),
    engine(
        "disk full",
        "before the run",
        "refused before it begins",
        before=FILL.format(500000),
        mend=f"rm {SCRATCH}/full",
        keeps=NO_ENGINE,
    ),
    engine(
        "disk full",
        "in the middle of a build",
        "told; nothing published",
        always={"engine_skip_preflight": ["disk"]},
        before=FILL.format(5000000),
        mend=f"rm {SCRATCH}/full",
        keeps=NO_ENGINE,
    ),
    engine(
        "inodes gone",
        "before the run",
        "told; nothing published",
        before=FEW_INODES.format(6),
        mend=MANY_INODES,
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
    engine(
        "memory short",
        "before the run",
        "refused before it begins",
        before=MEMORY.format(200, 100),
        mend="umount /proc/meminfo",
        keeps=NO_ENGINE,
    ),
    engine(
        "GPU gone from the bus",
        "before the run",
        "refused before it begins",
        before="mkdir -p /etc/testbed && echo '[]' > /etc/testbed/gpus.json",
        mend="rm /etc/testbed/gpus.json",
        keeps=NO_ENGINE,
    ),
    engine(
        "driver and library of two versions",
        "before the run",
        "told as nvidia-smi says it",
        before=NVIDIA_SMI.format("'echo Failed to initialize NVML: Driver/library version mismatch; exit 18'"),
        mend=RIGHT_SMI,
        keeps=NO_ENGINE,
    ),
    engine(
        "nvidia-smi hangs, as with a GPU that fell off the bus",
        "before the run",
        "told within its time",
        before=NVIDIA_SMI.format("'exec sleep 600'"),
        mend=RIGHT_SMI,
        keeps=NO_ENGINE,
    ),
    engine(
        "CDI stale: no such device",
        "before the run",
        "told",
        before='sed -i.faults \'s/name: "0"/name: "7"/; s/name: 0/name: 7/\' /etc/cdi/nvidia.yaml',
        mend="mv /etc/cdi/nvidia.yaml.faults /etc/cdi/nvidia.yaml",
        keeps=NO_ENGINE,
    ),
    engine(
        "second operator builds the same",
        "in the middle of a build",
        "one build; both take it",
        always=SLOWLY,
        ends=GOES_ON,
        strikes=(Strike(BUILD, beside=True, here="second > /dev/null"),),
        keeps=f"test $(ls -d {SCRATCH}/engines/scratch/*/ | wc -l) = 1",
    ),
    engine(
        "clock a day ahead",
        "from the middle of a build on",
        "no difference",
        always=SLOWLY,
        ends=GOES_ON,
        strikes=(Strike(BUILD, beside=True, do=BUILDING + "; " + CLOCK.format("+1d")),),
        mend=CLOCK_RIGHT,
    ),
    engine(
        "what a killed build left",
        "before the run",
        "cleared",
        before=(
            f"mkdir -p {SCRATCH}/engines/scratch/x.partial && for job in {'ab' * 32} other; do"
            f" mkdir -p {SCRATCH}/jobs/scratch/$job && echo '{{' > {SCRATCH}/jobs/scratch/$job/status.json; done"
        ),
        ends=GOES_ON,
        after=ENGINE + f" && rm -rf {SCRATCH}/engines/scratch/x.partial",
    ),
    Row(
        "engine",
        "engine of ours altered",
        "before the run",
        "found, built anew",
        "model",
        ends=GOES_ON,
        loses=True,
        before="printf altered-by-hand >> /var/lib/trtllm/engines/tiny-llama/*/rank0.engine",
        keeps="! tail -c 15 /var/lib/trtllm/engines/tiny-llama/*/rank0.engine | grep -q altered-by-hand",
        after="ls /var/lib/trtllm/engines/tiny-llama/*/rank0.engine",
        limit=420,
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
