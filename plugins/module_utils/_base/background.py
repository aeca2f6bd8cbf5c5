# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What prepares on a host where something serves, and so has less of the processor and of the disk than that.

All of it is a share and no limit: where nothing serves, or that is idle, it takes what there is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

NICENESS = 10
WEIGHT = 20  # of a control group, where the others have 100
# A unit of systemd.
UNIT = {
    "Nice": str(NICENESS),
    "IOSchedulingClass": "best-effort",
    "IOSchedulingPriority": "7",
    "CPUWeight": str(WEIGHT),
    "IOWeight": str(WEIGHT),
}
# A container: shares are 1024 where a weight is 100. What runs in it has to be niced there.
CONTAINER = (f"--cpu-shares={1024 * WEIGHT // 100}",)


@contextlib.contextmanager
def giving_way() -> Iterator[None]:
    """This process meanwhile. Where it says nothing else, Linux takes the priority at the disk from the niceness."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, max(before, NICENESS))
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):  # only root comes back
            os.setpriority(os.PRIO_PROCESS, 0, before)
