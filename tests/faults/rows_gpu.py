# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of driver and container toolkit, on a host with fabricated GPUs."""

from __future__ import annotations

from typing import Any

from .blows import until
from .rows import FAILS, GOES_ON, KILLED, Row, Strike

AWAY = (
    "apt-get purge -qqy --allow-change-held-packages $(dpkg-query -W -f '${Package} ${db:Status-Status}\\n'"
    " | awk '/ installed$/ && /nvidia|libcuda/ && !/container/ {print $1}') > /dev/null 2>&1; true; "
)
PACKAGES = r"TASK \[trtllm.fleet.gpu_driver : Install all packages of the driver in one transaction"
INSTALLING = until("pgrep -x dpkg > /dev/null") + " && "


def gpu(stage: str, fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row on the host with fabricated GPUs, which has its driver."""
    ends = about.pop("ends", FAILS)
    return Row(
        stage,
        fault,
        when,
        expected,
        about.pop("play", {"gpu_driver": "driver", "container_toolkit": "toolkit"}[stage]),
        ends=ends,
        host="gpu",
        limit=about.pop("limit", 300),
        **about,
    )


DRIVER = (
    gpu(
        "gpu_driver",
        "controller killed",
        "while apt installs",
        "apt ends; the next run finds it",
        before=AWAY,
        ends=KILLED,
        strikes=(Strike(PACKAGES, kills=True, do=INSTALLING + "true"),),
    ),
)

CDI = "/etc/cdi/nvidia.yaml"


def toolkit(fault: str, when: str, expected: str, **about: Any) -> Row:
    return gpu(
        "container_toolkit", fault, when, expected, after="test $(grep -c 'name:' /etc/cdi/nvidia.yaml) -ge 3", **about
    )


TOOLKIT = (
    toolkit(
        "CDI stale: another number of a device",
        "before the run",
        "made anew",
        ends=GOES_ON,
        before="rm /dev/nvidia-uvm && mknod -m 666 /dev/nvidia-uvm c 499 0",
    ),
)
ROWS: tuple[Row, ...] = (*DRIVER, *TOOLKIT)
