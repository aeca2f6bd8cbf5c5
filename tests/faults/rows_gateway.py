# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of the gateway, and of verification."""

from __future__ import annotations

from typing import Any

from .rows import FAILS, GOES_ON, Row

SERVICE = "triton-tiny-llama-0.service"
ACTIVE = f"systemctl is-active {SERVICE} openai-gateway.service"
BEGINS = f"systemctl stop {SERVICE}; "


def gateway(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of the host's gateway."""
    return Row(
        "gateway",
        fault,
        when,
        expected,
        about.pop("play", "gateway"),
        ends=about.pop("ends", GOES_ON),
        after=ACTIVE,
        **about,
    )


GATEWAY = (
    gateway(
        "container killed",
        "while it serves",
        "systemd starts it again, without a run",
        before="podman kill --signal KILL openai-gateway; sleep 1; "
        + (
            "for i in $(seq 60); do curl -fs -m 5 -o /dev/null http://127.0.0.1:3000/v1/models && "
            "exit 0; sleep 0.5; done; exit 1"
        ),
    ),
    gateway(
        "stopped by hand, with its socket",
        "before the run",
        "started",
        before="systemctl stop openai-gateway.socket openai-gateway",
    ),
)


def verify(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of the verification."""
    return Row(
        "verify",
        fault,
        when,
        expected,
        "verify",
        ends=about.pop("ends", FAILS),
        after=ACTIVE,
        repair=about.pop("repair", "triton"),
        **about,
    )


VERIFY = (
    verify("replica stopped", "before the run", "named in the table, and lost", before=BEGINS),
    verify(
        "replica hangs",
        "before the run",
        "named within its time",
        before="pkill -STOP -x tritonserver",
        mend="pkill -CONT -x tritonserver; true",
    ),
)
ROWS: tuple[Row, ...] = (*GATEWAY, *VERIFY)
