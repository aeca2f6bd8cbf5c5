# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live progress of a download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.trtllm.fleet.plugins.plugin_utils._board import duration
from ansible_collections.trtllm.fleet.plugins.plugin_utils._progress import Followed


def line(host: str, name: str, progress: Mapping[str, Any]) -> str:
    """One line for the operator's terminal: how much of what, how fast, and how long it will take."""
    words = [str(progress.get("phase") or "starting")]
    total = int(progress.get("bytes_total") or 0)
    if total:
        done = int(progress.get("bytes_done") or 0)
        words[0] += f" {done / 1e9:.2f} of {total / 1e9:.2f} GB ({done / total:.0%})"
        words.append(f"{int(progress.get('rate') or 0) / 1e6:.0f} MB/s")
    if progress.get("left") is not None:
        words.append(f"{duration(float(progress['left']))} left")
    if progress.get("note"):
        words.append(str(progress["note"]))
    return f"[{host}] checkpoint {name}: {' | '.join(words)}"


class ActionModule(Followed):
    """Run M(trtllm.fleet.trtllm_checkpoint_fetch) and show its progress."""

    module, running = "trtllm.fleet.trtllm_checkpoint_fetch", "fetching"
    what, work = "checkpoint", "download"
    first_poll = 0.5

    def line(self, host: str, name: str, progress: Mapping[str, Any]) -> str:
        return line(host, name, progress)

    def row(self, progress: Mapping[str, Any]) -> dict[str, Any]:
        words = [str(progress.get("phase") or "starting"), str(progress.get("note") or "")]
        return {
            "done": progress.get("bytes_done") or 0, "total": progress.get("bytes_total") or 0,
            "rate": progress.get("rate") or 0, "left": progress.get("left"), "said": ", ".join(filter(None, words)),
        }  # fmt: skip

    def attach(self, arguments: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        return {**arguments, "wait": False, "attach": result["job"]["id"] or "any"}
