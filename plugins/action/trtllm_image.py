# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live progress of an image that is pulled, pushed, loaded or built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._base.sizes import gib
from ansible_collections.trtllm.fleet.plugins.plugin_utils._progress import Followed, display, duration


def line(host: str, name: str, progress: Mapping[str, Any]) -> str:
    """One line for the operator's terminal."""
    words = [str(progress.get("step", "at work"))]
    done, total, seconds = progress.get("bytes", 0), progress.get("total", 0), progress.get("seconds", 0)
    if done:
        words = [f"{gib(done)} of {gib(total)}" if total else gib(done)]
        words += [f"{gib(done / seconds)}/s"] if seconds else []
    words.append(duration(seconds))
    if progress.get("attempt", 1) > 1 or progress.get("state") == "waiting":
        words.append(f"try {progress.get('attempt', 1)} of {progress.get('attempts', 1)}")
    said = progress.get("message") if progress.get("state") == "waiting" else ""
    words += [str(said)] if said else [] if done else [str(progress["line"])] if progress.get("line") else []
    return f"[{host}] image {name.rpartition('/')[2]}: {', '.join(words)}"


def summary(host: str, name: str, result: Mapping[str, Any]) -> str:
    """What came of it, in one line."""
    words = [str(result.get("reason", "")), str(result.get("digest") or result.get("id", ""))[:19]]
    if "trtllm_version" in result:
        words.append(f"TensorRT-LLM {result['trtllm_version'] or 'not told'}")
        words.append("builds engines" if result["builds_engines"] else "cannot build engines")
    words += [str(result.get("architecture", "")), gib(result.get("size", 0))]
    if result.get("disk_before"):
        words.append(f"{gib(result['disk_before'])} free before, {gib(result['disk_after'])} after")
    return f"[{host}] image {name.rpartition('/')[2]}: {', '.join(word for word in words if word)}"


class ActionModule(Followed):
    """Run M(trtllm.fleet.trtllm_image) and show its progress, and what came of it."""

    module, running = "trtllm.fleet.trtllm_image", "running"
    what, work = "image", "work"
    first_poll = 0.5
    at_once = False  # what is over at once needs no line
    unattached = False

    def shown(self, arguments: Mapping[str, Any]) -> bool:
        return arguments.get("when_missing", "bring") == "bring" and super().shown(arguments)

    def line(self, host: str, name: str, progress: Mapping[str, Any]) -> str:
        return line(host, name, progress)

    def key(self, progress: Mapping[str, Any]) -> str:
        return f"{progress.get('state')} {progress.get('attempt')} {progress.get('bytes')} {progress.get('line')}"

    def attach(self, arguments: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        return {**arguments, "wait": False, "attach": True}

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if self.shown(arguments) and result.get("changed") and not result.get("failed"):
            host = str((task_vars or {}).get("inventory_hostname", ""))
            display.display(summary(host, str(arguments.get("name", "")), result))
        return result
