# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live progress of long work on a host: start it with a module, then ask the module how far it is.

Where there is nothing to do this is one call of the module, as without a plugin. The work belongs to the host, so
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

display = Display()
GROWTH = 1.5  # what is small is done soon, so the pause between two looks grows, to O(poll)
POLL = 5.0  # seconds
QUIET = 60.0  # seconds after which a line is shown although nothing has changed
LOST_CONNECTION = 300.0  # seconds for which a lost connection is tried again


def duration(seconds: float) -> str:
    """``75`` -> ``1m15s``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


class Followed(ActionBase):
    """Runs a module that takes C(wait) and C(attach) and returns C(progress), and shows its progress."""

    TRANSFERS_FILES = False
    _supports_async = True
    _supports_check_mode = True

    module = ""  # its full name
    running = ""  # the key of its result that says whether the work goes on
    what, work = "", ""  # of what, and what it is, in lines for the operator
    first_poll = 1.0  # seconds
    at_once = True  # whether there is a line before the second look
    unattached: Any = None  # the module's default of C(attach)

    def shown(self, arguments: Mapping[str, Any]) -> bool:
        """Whether the operator waits for the work."""
        asked = boolean(arguments.get("wait", True), strict=False) and arguments.get("attach") in (None, "", False)
        return asked and not self._task.async_val and not self._task.check_mode

    def line(self, host: str, name: str, progress: Mapping[str, Any]) -> str:
        """One line for the operator's terminal."""
        raise NotImplementedError

    def key(self, progress: Mapping[str, Any]) -> str:
        """What has to change for another line."""
        return self.line("", "", progress)

    def attach(self, arguments: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with which the module is asked how far it is."""
        return {**arguments, "wait": False, "attach": result["job"]["id"]}

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if not self.shown(arguments):
            return self._call(arguments, task_vars, wrap_async=bool(self._task.async_val))
        result = self._call({**arguments, "wait": False}, task_vars)
        if result.get(self.running):
            result = self._follow(arguments, result, task_vars or {})
        invocation = result.get("invocation")
        if isinstance(invocation, dict) and isinstance(invocation.get("module_args"), dict):
            invocation["module_args"].update(wait=True, attach=self.unattached)
        return result

    def _call(
        self, arguments: dict[str, Any], task_vars: dict[str, Any] | None, wrap_async: bool = False
    ) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name=self.module, module_args=arguments, task_vars=task_vars, wrap_async=wrap_async
        )
        return result

    def _follow(self, arguments: dict[str, Any], result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Ask until it has ended; show a line whenever something has changed."""
        host, name = str(task_vars.get("inventory_hostname", "")), str(arguments.get("name", ""))
        longest = max(1.0, float(arguments.get("poll", POLL)))
        interval, said, said_at = min(self.first_poll, longest), "", time.monotonic()
        attach, looked = self.attach(arguments, result), False
        lost_since: float | None = None
        while result.get(self.running):
            progress = result["progress"]
            key = self.key(progress)
            if (key != said and (self.at_once or looked)) or time.monotonic() - said_at > QUIET:
                display.display(self.line(host, name, progress))
                said, said_at = key, time.monotonic()
            time.sleep(interval)
            interval, looked = min(interval * GROWTH, longest), True
            try:
                result = self._call(attach, task_vars)
                lost_since = None
            except AnsibleConnectionFailure as error:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > LOST_CONNECTION:
                    raise
                display.display(f"[{host}] {self.what} {name}: connection lost, the {self.work} goes on ({error})")
        return result
