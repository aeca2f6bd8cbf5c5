# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows what takes long in one live table, where there is a terminal."""

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: aggregate
short_description: One live table of what takes long on the hosts
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Keeps a table below what Ansible prints, with a row for each host on which something takes long. Images, downloads,
    transfers and engine builds have how much of them is done, how fast it goes and what is left; any other task has its
    name and how long it has run. A rollout has where it stands.
  - Where stdout is no terminal, the same is told in plain lines, as it is without this plugin.
  - The table goes when the work is done, so that what stays on the terminal is what Ansible printed. The file that
    E(ANSIBLE_LOG_PATH) names gets the plain lines.
requirements:
  - C(callbacks_enabled) of ansible.cfg names it.
  - A terminal that knows the sequences of ECMA-48, as all in use do, and no other callback that moves its cursor.
options:
  show:
    description: V(table), or V(lines) for plain lines on a terminal too.
    type: str
    choices: [table, lines]
    default: table
    env:
      - name: TRTLLM_FLEET_PROGRESS
    ini:
      - section: callback_trtllm_fleet_progress
        key: show
  after:
    description: Seconds that a task has to take before it has a row. What tells how far it is has one at once.
    type: float
    default: 5
    env:
      - name: TRTLLM_FLEET_PROGRESS_AFTER
    ini:
      - section: callback_trtllm_fleet_progress
        key: after
"""

EXAMPLES = r"""
# Enable it in ansible.cfg:
ansible_config: |
  [defaults]
  callbacks_enabled = trtllm.fleet.progress
"""

import atexit
import os
import sys
import threading
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _board

TICK = 1.0  # seconds
ASKS = ("pause", "ansible.builtin.pause", "ansible.legacy.pause")  # actions that ask the operator something
PLANS = ("set_fact", "ansible.builtin.set_fact")
NOTES = "trtllm.fleet.rollout_note"


def short(name: str) -> str:
    """The name of a task without that of its role, which Ansible prints above."""
    return name.rpartition(" : ")[2]


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """See the documentation."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "trtllm.fleet.progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._names: dict[str, str] = {}
        self._board = _board.Board()
        self._screen: _board.Screen | None = None  # with a table as long as there is one

    def set_options(self, *arguments: Any, **options: Any) -> None:
        super().set_options(*arguments, **options)
        terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.disabled = not terminal or self.get_option("show") != "table"

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._stop()
        self._streams = sys.stdout, sys.stderr
        self._board = _board.Board(self.get_option("after"))
        self._screen = _board.Screen(self._board, sys.stdout)
        sys.stdout = _board.Stream(sys.stdout, self._screen)
        if sys.stderr.isatty():
            sys.stderr = _board.Stream(sys.stderr, self._screen)
        self._over = threading.Event()
        _board.set_live(True)
        atexit.register(self._stop)  # a run that is interrupted has no statistics
        self._ticks = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._ticks.start()

    def _tick(self) -> None:
        while not self._over.wait(TICK):
            self._display.display(_board.message(), screen_only=True)

    def _stop(self) -> None:
        if self._screen:
            self._over.set()
            self._ticks.join()  # its lines are for the table, so none may come once that is gone
            _board.set_live(False)
            sys.stdout, sys.stderr = self._streams
            self._screen.clear()
            self._screen = None

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._stop()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._names[task._uuid] = short(task.get_name())  # its variables stand in it later
        if self._screen:
            self._screen.held = task.action in ASKS

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self.v2_playbook_on_task_start(task, False)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self._board.begin(host.get_name(), task._uuid, self._names.get(task._uuid) or short(task.get_name()))

    def _ended(self, result: Any) -> None:
        self._board.end(result.host.get_name(), result.task._uuid)

    def v2_runner_on_ok(self, result: Any) -> None:
        self._ended(result)
        task = result.task
        if task.action in PLANS and "rollout" in task.args and not task.check_mode:
            plan = (result.result.get("ansible_facts") or {}).get("rollout")
            if isinstance(plan, dict) and {"started", "switched", "batches"} <= plan.keys():
                self._board.rollout = _board.Rollout.of(plan)
        elif task.action == NOTES and self._board.rollout:
            line = result.result.get("line")
            if isinstance(line, dict):
                self._board.rollout.step(result.host.get_name(), str(line.get("step", "")))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._ended(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._ended(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._ended(result)
