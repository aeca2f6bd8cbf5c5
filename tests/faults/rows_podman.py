# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of podman."""

from __future__ import annotations

from typing import Any

from .blows import CLOCK, CLOCK_RIGHT, MODULE
from .rows import FAILS, GOES_ON, KILLED, Row, Strike

SETTINGS = "/etc/containers/containers.conf.d"
OURS = f"{SETTINGS}/50-trtllm-fleet.conf"
STORAGE = "/var/lib/containers/storage"


def podman(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of podman on a host that serves."""
    ends = about.pop("ends", FAILS)
    return Row(
        "podman",
        fault,
        when,
        expected,
        "podman",
        ends=ends,
        **about,
    )


PODMAN = (
    podman(
        "another file sets a runtime that is not there",
        "before the run",
        "told as podman says it",
        before=f"printf '[engine]\\nruntime = \"runc\"\\n' > {SETTINGS}/10-other.conf",
        mend=f"rm -f {SETTINGS}/10-other.conf",
    ),
    podman(
        "settings unreadable: no TOML",
        "before the run",
        "told as podman says it",
        before=f"echo '[[[' > {SETTINGS}/60-broken.conf",
        mend=f"rm {SETTINGS}/60-broken.conf",
    ),
    podman(
        "podman removed behind its package's back",
        "before the run",
        "told with what to do",
        before="mv /usr/bin/podman /usr/bin/podman.faults",
        mend="mv /usr/bin/podman.faults /usr/bin/podman",
    ),
    podman(
        "podman hangs",
        "before the run",
        "told within its time",
        before=(
            "mv /usr/bin/podman /usr/bin/podman.faults; printf '#!/bin/sh\\nexec sleep 900\\n' > "
            "/usr/bin/podman; chmod 755 /usr/bin/podman"
        ),
        mend="mv /usr/bin/podman.faults /usr/bin/podman",
        limit=200,
    ),
    podman(
        "runtime gone",
        "before the run",
        "told",
        before=(
            "mv /usr/bin/crun /usr/bin/crun.faults; mv /usr/local/sbin/bed-crun "
            "/usr/local/sbin/bed-crun.faults 2> /dev/null; true"
        ),
        mend=(
            "mv /usr/bin/crun.faults /usr/bin/crun; mv /usr/local/sbin/bed-crun.faults "
            "/usr/local/sbin/bed-crun 2> /dev/null; true"
        ),
    ),
    podman(
        "storage damaged: its list of images cut short",
        "before the run",
        "told as podman says it",
        before=(
            f"cp {STORAGE}/overlay-images/images.json /srv/faults-images.json; truncate -s 100 "
            f"{STORAGE}/overlay-images/images.json"
        ),
        mend=f"cp /srv/faults-images.json {STORAGE}/overlay-images/images.json",
    ),
    podman(
        "disk read-only",
        "before the run",
        "told or no difference",
        ends=GOES_ON,
        before=f"cd {SETTINGS} && mount --bind . . && mount -o remount,ro,bind .",
        mend=f"umount {SETTINGS}",
    ),
    podman(
        "clock a day ahead",
        "before the run",
        "no difference",
        ends=GOES_ON,
        before=CLOCK.format("+1d"),
        mend=CLOCK_RIGHT,
    ),
    podman(
        "controller killed",
        "while it gathers facts",
        "nothing is left",
        ends=KILLED,
        strikes=(Strike(r"TASK \[trtllm.fleet.gpu_host", kills=True, do="sleep 0.3"),),
    ),
    podman(
        "module killed",
        "while it gathers facts",
        "told",
        strikes=(Strike(r"TASK \[trtllm.fleet.gpu_host.*", beside=True, do=MODULE),),
    ),
    podman(
        "host lost",
        "while it gathers facts",
        "named",
        mend_here="$testbed start $host",
        strikes=(Strike(r"TASK \[trtllm.fleet.gpu_host", here="$testbed cut $host"),),
    ),
)
ROWS: tuple[Row, ...] = PODMAN
