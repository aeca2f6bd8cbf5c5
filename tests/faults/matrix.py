# SPDX-License-Identifier: GPL-3.0-or-later
"""All rows of the matrix of faults."""

from __future__ import annotations

import dataclasses

from . import (
    rows_checkpoint,
    rows_engine,
    rows_gateway,
    rows_gpu,
    rows_image,
    rows_podman,
    rows_repository,
    rows_rollout,
    rows_triton,
)
from .lab import SCRATCH
from .rows import Row
from .scratch import INODES
from .words import WORDS

WITHOUT_WORDS: tuple[Row, ...] = (
    *rows_podman.ROWS,
    *rows_gpu.ROWS,
    *rows_image.ROWS,
    *rows_checkpoint.ROWS,
    *rows_engine.ROWS,
    *rows_repository.ROWS,
    *rows_triton.ROWS,
    *rows_gateway.ROWS,
    *rows_rollout.ROWS,
)
ROWS = tuple(dataclasses.replace(row, says=WORDS.get(row.name, "")) for row in WITHOUT_WORDS)
# A host as every row expects it, where a row has left it otherwise; what serves is put right by a run afterwards.
CLEAN = (
    f"umount -R /var/lib/containers/storage 2> /dev/null; mount -o remount,rw,size=256m,nr_inodes={INODES} {SCRATCH};"
    f" rm -rf {SCRATCH}/* {SCRATCH}/.[!.]*; echo pass > /run/faults-way;"
    " rm -f /etc/testbed/gpus.json /etc/ld.so.preload;"
    " umount /proc/meminfo /etc/trtllm /etc/containers/systemd 2> /dev/null;"
    " umount /var/lib/trtllm /var/lib/trtllm/repositories 2> /dev/null;"
    " podman ps --all --quiet --filter name=trtllm- | xargs -r podman rm --force > /dev/null;"
    " systemctl start faults-way faults-hub; systemctl stop faults-listener 2> /dev/null; systemctl daemon-reload; true"
)
GPU_CLEAN = "dpkg --configure -a; true"
