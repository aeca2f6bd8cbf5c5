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
from types import MappingProxyType
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _board

display = Display()
GROWTH = 1.5  # what is small is done soon, so the pause between two looks grows, to O(poll)
POLL = 5.0  # seconds
QUIET = 60.0  # seconds after which a line is shown although nothing has changed
LOST_CONNECTION = 300.0  # seconds for which a lost connection is tried again


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
    # What the module was asked beside the operator's words, as if it had not been.
    plain: Mapping[str, Any] = MappingProxyType({"wait": True, "attach": None})

    def shown(self, arguments: Mapping[str, Any]) -> bool:
        """Whether the operator waits for the work."""
        asked = boolean(arguments.get("wait", True), strict=False) and arguments.get("attach") in (None, "", False)
        return asked and not self._task.async_val and not self._task.check_mode

    def line(self, host: str, name: str, progress: Mapping[str, Any]) -> str:
        """One line for the operator's terminal."""
        raise NotImplementedError

    def progress(self, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the other methods get: what the module says of work that goes on."""
        told: Mapping[str, Any] = result["progress"]
        return told

    def row(self, progress: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a `_board.Row` of the table: how much of what, and what else there is to say."""
        raise NotImplementedError

    def label(self, name: str) -> str:
        """What it is, in the table."""
        return f"{self.what} {name}"

    def key(self, progress: Mapping[str, Any]) -> str:
        """What has to change for another line."""
        return self.line("", "", progress)

    def first(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with which the work is started."""
        return {**arguments, "wait": False}

    def attach(self, arguments: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with which the module is asked how far it is."""
        return {**arguments, "wait": False, "attach": result["job"]["id"]}

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if not self.shown(arguments):
            return self._call(arguments, task_vars, wrap_async=bool(self._task.async_val))
        result = self._call(self.first(arguments), task_vars)
        if result.get(self.running):
            result = self._follow(arguments, result, task_vars or {})
        invocation = result.get("invocation")
        if isinstance(invocation, dict) and isinstance(invocation.get("module_args"), dict):
            invocation["module_args"].update(self.plain)
        return result

    def _call(
        self, arguments: dict[str, Any], task_vars: dict[str, Any] | None, wrap_async: bool = False
    ) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name=self.module, module_args=arguments, task_vars=task_vars, wrap_async=wrap_async
        )
        return result

    def _follow(self, arguments: dict[str, Any], result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Ask until it has ended; show a line whenever something has changed, or keep a row of the table."""
        host, name = str(task_vars.get("inventory_hostname", "")), str(arguments.get("name", ""))
        try:
            return self._followed(arguments, result, task_vars, host, name)
        finally:
            self._tell(host, name, over=True)

    def _tell(self, host: str, name: str, **told: Any) -> None:
        if _board.live():
            display.display(_board.message(host, self.label(name), **told), screen_only=True)

    def _say(self, line: str) -> None:
        """A line of the terminal, or of the log alone where a table says as much."""
        if _board.live():
            display.display(line, log_only=True)
        else:
            display.display(line)

    def _followed(
        self, arguments: dict[str, Any], result: dict[str, Any], task_vars: dict[str, Any], host: str, name: str
    ) -> dict[str, Any]:
        longest = max(1.0, float(arguments.get("poll", POLL)))
        interval, said, said_at = min(self.first_poll, longest), "", time.monotonic()
        attach, looked = self.attach(arguments, result), False
        lost_since: float | None = None
        told_at: float | None = None
        while result.get(self.running):
            progress = self.progress(result)
            key = self.key(progress)
            if _board.live() and (self.at_once or looked):
                self._tell(host, name, **self.row(progress))
            if (key != said and (self.at_once or looked)) or time.monotonic() - said_at > QUIET:
                self._say(self.line(host, name, progress))
                said, said_at = key, time.monotonic()
            time.sleep(interval)
            interval, looked = min(interval * GROWTH, longest), True
            try:
                result = self._call(attach, task_vars)
                lost_since = told_at = None
            except AnsibleConnectionFailure as error:
                now = time.monotonic()
                lost_since = now if lost_since is None else lost_since
                if now - lost_since > LOST_CONNECTION:
                    raise
                # A host that is gone is asked every few seconds, and refuses each time with the same words.
                if told_at is None or now - told_at > QUIET:
                    told_at = now
                    display.display(f"[{host}] {self.what} {name}: connection lost, the {self.work} goes on ({error})")
        return result
