# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live progress of a download: start it with the module, then ask the module how far it is.

The download belongs to the host, so whatever happens to this process does not touch it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.trtllm.fleet.plugins.plugin_utils._progress import duration

MODULE = "trtllm.fleet.trtllm_checkpoint_fetch"
display = Display()
FIRST_POLL = 0.5  # seconds; small checkpoints are done soon, so the interval grows to O(poll)
GROWTH = 1.5
LOST_CONNECTION = 300.0  # seconds for which a lost connection is tried again


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


class ActionModule(ActionBase):
    """Run M(trtllm.fleet.trtllm_checkpoint_fetch) and show its progress."""

    TRANSFERS_FILES = False
    _supports_async = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if not boolean(arguments.get("wait", True), strict=False) or self._task.async_val or self._task.check_mode:
            return self._call(arguments, task_vars, wrap_async=bool(self._task.async_val))
        result = self._call({**arguments, "wait": False}, task_vars)
        if result.get("fetching"):
            result = self._follow(arguments, result, task_vars or {})
        return result

    def _call(
        self, arguments: dict[str, Any], task_vars: dict[str, Any] | None, wrap_async: bool = False
    ) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name=MODULE, module_args=arguments, task_vars=task_vars, wrap_async=wrap_async
        )
        return result

    def _follow(self, arguments: dict[str, Any], result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Ask until the download has ended; show a line whenever something has changed."""
        host, name = str(task_vars.get("inventory_hostname", "")), str(arguments.get("name"))
        longest = max(1.0, float(arguments.get("poll", 5)))
        interval, said = min(FIRST_POLL, longest), ""
        lost_since: float | None = None
        while result.get("fetching"):
            text = line(host, name, result["progress"])
            if text != said:
                display.display(text)
                said = text
            time.sleep(interval)
            interval = min(interval * GROWTH, longest)
            attach = {**arguments, "wait": False, "attach": result["job"]["id"] or "any"}
            try:
                result = self._call(attach, task_vars)
                lost_since = None
            except AnsibleConnectionFailure as error:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > LOST_CONNECTION:
                    raise
                display.display(f"[{host}] checkpoint {name}: connection lost, the download goes on ({error})")
        return result
