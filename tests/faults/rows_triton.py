# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of replicas."""

from __future__ import annotations

from typing import Any

from .rows import GOES_ON, Row

SERVICE = "triton-tiny-llama-0.service"
ACTIVE = f"systemctl is-active {SERVICE} openai-gateway.service"
BEGINS = f"systemctl stop {SERVICE}; "
HEALS = (
    "for i in $(seq 120); do curl -fsS -m 5 -o /dev/null http://$(hostname -i | cut -d' ' "
    "-f1):8000/v2/health/ready && exit 0;"
    " sleep 0.5; done; exit 1"
)


def triton(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of a replica that serves."""
    return Row(
        "triton",
        fault,
        when,
        expected,
        about.pop("play", "triton"),
        ends=about.pop("ends", GOES_ON),
        after=about.pop("after", ACTIVE),
        **about,
    )


TRITON = (
    triton(
        "container killed",
        "while it serves",
        "systemd starts it again, without a run",
        before="podman kill --signal KILL triton-tiny-llama-0; sleep 1; " + HEALS,
    ),
    triton(
        "server killed, as by the kernel when memory is short",
        "while it serves",
        "systemd starts it again, without a run",
        before="pkill -KILL -x tritonserver; sleep 1; " + HEALS,
    ),
    triton("stopped by hand", "before the run", "started", before=BEGINS),
)
ROWS: tuple[Row, ...] = TRITON
