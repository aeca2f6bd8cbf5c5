# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transient units of systemd: processes of the host that outlive the connection that started them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .background import UNIT
from .command import Answer, run_command


def start(unit: str, description: str, properties: Mapping[str, str], argv: Sequence[str]) -> Answer:
    """Start *argv* as *unit*, with less of the host than what serves; it is gone from systemd once it has ended."""
    settings = {**UNIT, **properties}
    return run_command(
        [
            "systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--description={description}",
            *(f"--property={key}={value}" for key, value in settings.items()), "--", *argv,
        ]
    )  # fmt: skip


def running(unit: str) -> bool:
    """Whether systemd runs it."""
    said = run_command(["systemctl", "is-active", "--", unit])
    return said.out.strip() in ("active", "activating", "deactivating", "reloading")
