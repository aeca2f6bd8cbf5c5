# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tools print, in the form that upstream's log lines have, and the pace they keep in tests."""

from __future__ import annotations

import os
import time

# Seconds that a whole convert or build shall take at least, spread over its phases. For tests that interrupt one.
PACE_VARIABLE = "TRTLLM_CPU_BUILD_SECONDS"


def log(level: str, text: str, rank: int | None = None) -> None:
    """One line; `level` is I, W or E."""
    stamp = time.strftime("%m/%d/%Y-%H:%M:%S")
    where = "" if rank is None else f"[RANK {rank}] "
    for line in text.splitlines():
        print(f"[{stamp}] [TRT-LLM] [{level}] {where}{line}", flush=True)


def duration(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds))


def pause(share: float) -> None:
    """Wait for that share of the test pace; nothing without one."""
    try:
        seconds = float(os.environ.get(PACE_VARIABLE, "0"))
    except ValueError:
        seconds = 0.0
    if seconds > 0:
        time.sleep(seconds * share)
