# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live progress of an image that is pulled, pushed, loaded or built: start it with the module, then ask how far it is.

The work belongs to the host, so whatever happens to this process does not touch it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.trtllm.fleet.plugins.module_utils._base.sizes import gib
from ansible_collections.trtllm.fleet.plugins.plugin_utils._progress import duration

display = Display()
FIRST_POLL, LONGEST_POLL, GROWTH = 0.5, 5.0, 1.5  # seconds, seconds, factor
QUIET = 60.0  # seconds after which a line is shown although nothing has changed
LOST_CONNECTION = 300.0  # seconds for which a lost connection is tried again


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


class ActionModule(ActionBase):
    """Run M(trtllm.fleet.trtllm_image) and show its progress."""

    TRANSFERS_FILES = False
    _supports_async = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        shown = (
            boolean(arguments.get("wait", True), strict=False)
            and not boolean(arguments.get("attach", False), strict=False)
            and arguments.get("when_missing", "bring") == "bring"
            and not self._task.async_val
            and not self._task.check_mode
        )
        if not shown:
            return self._call(arguments, task_vars, wrap_async=bool(self._task.async_val))
        host, name = str((task_vars or {}).get("inventory_hostname", "")), str(arguments.get("name", ""))
        result = self._call({**arguments, "wait": False}, task_vars)
        if result.get("running"):
            result = self._follow(host, name, {**arguments, "wait": False, "attach": True}, result, task_vars)
        invocation = result.get("invocation")
        if isinstance(invocation, dict) and isinstance(invocation.get("module_args"), dict):
            invocation["module_args"].update(wait=True, attach=False)
        if result.get("changed") and not result.get("failed"):
            display.display(summary(host, name, result))
        return result

    def _call(
        self, arguments: dict[str, Any], task_vars: dict[str, Any] | None, wrap_async: bool = False
    ) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="trtllm.fleet.trtllm_image", module_args=arguments, task_vars=task_vars, wrap_async=wrap_async
        )
        return result

    def _follow(
        self, host: str, name: str, arguments: dict[str, Any], result: dict[str, Any],
        task_vars: dict[str, Any] | None,
    ) -> dict[str, Any]:  # fmt: skip
        """Ask until it has ended; show a line whenever something has changed."""
        interval, said, said_at = FIRST_POLL, "", time.monotonic()
        lost_since: float | None = None
        while result.get("running"):
            progress = result["progress"]
            key = f"{progress.get('state')} {progress.get('attempt')} {progress.get('bytes')} {progress.get('line')}"
            # What is over at once needs no line.
            if (key != said and interval > FIRST_POLL) or time.monotonic() - said_at > QUIET:
                display.display(line(host, name, progress))
                said, said_at = key, time.monotonic()
            time.sleep(interval)
            interval = min(interval * GROWTH, LONGEST_POLL)
            try:
                result = self._call(arguments, task_vars)
                lost_since = None
            except AnsibleConnectionFailure as error:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > LOST_CONNECTION:
                    raise
                display.display(f"[{host}] image {name}: connection lost, the work goes on ({error})")
        return result
