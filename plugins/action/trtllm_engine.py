# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live progress of an engine build: start it with the module, then ask the module how far it is.

Without a build this is one call of the module, as without the plugin. The build itself belongs to the host, so
whatever happens to this process does not touch it.
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

display = Display()
FIRST_POLL = 1.0  # seconds; small models are done soon, so the interval grows to O(poll)
GROWTH = 1.5
QUIET = 60.0  # seconds after which a line is shown although nothing has changed
LOST_CONNECTION = 300.0  # seconds for which a lost connection is tried again


def line(host: str, name: str, progress: Mapping[str, Any]) -> str:
    """One line for the operator's terminal."""
    number = f"phase {progress['phase_number']}/{progress['phases']} " if progress["phase_number"] else ""
    words = [f"{number}{progress['phase']}"]
    if progress["ranks"] > 1:
        words.append(f"rank {min(progress['ranks_done'] + 1, progress['ranks'])}/{progress['ranks']}")
    words.append(duration(progress["elapsed"]))
    if progress["last_line"]:
        words.append(progress["last_line"])
    return f"[{host}] engine {name}: {' | '.join(words)}"


class ActionModule(ActionBase):
    """Run M(trtllm.fleet.trtllm_engine) and show its progress."""

    TRANSFERS_FILES = False
    _supports_async = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        shown = (
            boolean(arguments.get("wait", True), strict=False)
            and not arguments.get("attach")
            and not self._task.async_val
            and not self._task.check_mode
        )
        if not shown:
            return self._call(arguments, task_vars, wrap_async=bool(self._task.async_val))
        result = self._call({**arguments, "wait": False}, task_vars)
        if result.get("building"):
            result = self._follow(arguments, result, task_vars or {})
        invocation = result.get("invocation")
        if isinstance(invocation, dict) and isinstance(invocation.get("module_args"), dict):
            invocation["module_args"].update(wait=True, attach=None)
        return result

    def _call(
        self, arguments: dict[str, Any], task_vars: dict[str, Any] | None, wrap_async: bool = False
    ) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="trtllm.fleet.trtllm_engine",
            module_args=arguments,
            task_vars=task_vars,
            wrap_async=wrap_async,
        )
        return result

    def _follow(self, arguments: dict[str, Any], result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Ask until the build has ended; show a line whenever something has changed."""
        host = str(task_vars.get("inventory_hostname", ""))
        attach = {"name": arguments["name"], "attach": result["job"]["id"], "wait": False}
        if "root" in arguments:
            attach["root"] = arguments["root"]
        longest = max(1.0, float(arguments.get("poll", 5)))
        interval, said, said_at = min(FIRST_POLL, longest), "", 0.0
        lost_since: float | None = None
        while result.get("building"):
            progress = result["progress"]
            key = f"{progress['phase']} {progress['ranks_done']} {progress['last_line']}"
            if key != said or time.monotonic() - said_at > QUIET:
                display.display(line(host, arguments["name"], progress))
                said, said_at = key, time.monotonic()
            time.sleep(interval)
            interval = min(interval * GROWTH, longest)
            try:
                result = self._call(attach, task_vars)
                lost_since = None
            except AnsibleConnectionFailure as error:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > LOST_CONNECTION:
                    raise
                display.display(f"[{host}] engine {arguments['name']}: connection lost, the build goes on ({error})")
        return result
