# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of podman."""

from __future__ import annotations

from typing import Any

from .rows import FAILS, Row

SETTINGS = "/etc/containers/containers.conf.d"


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
)
ROWS: tuple[Row, ...] = PODMAN
