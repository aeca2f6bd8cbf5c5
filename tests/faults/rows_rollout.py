# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of rollouts."""

from __future__ import annotations

from typing import Any

from .rows import FAILS, KILLED, Row, Strike

SERVICE = "triton-tiny-llama-0.service"
ACTIVE = f"systemctl is-active {SERVICE} openai-gateway.service"


def rollout(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of a rollout that only changes what the unit says, so that it is quick."""
    about.setdefault("given", {})
    return Row(
        "rollout",
        fault,
        when,
        expected,
        about.pop("play", "rollout"),
        ends=about.pop("ends", FAILS),
        after=ACTIVE,
        limit=420,
        always={"triton_environment": {"FAULT": fault + when}, **about.pop("always", {})},
        **about,
    )


ROLLOUT = (
    rollout(
        "controller killed",
        "while it plans",
        "the next run goes on",
        ends=KILLED,
        strikes=(Strike(r"TASK \[Record what would change", kills=True),),
    ),
)
ROWS: tuple[Row, ...] = ROLLOUT
