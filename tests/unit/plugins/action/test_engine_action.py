# SPDX-License-Identifier: GPL-3.0-or-later
"""Live progress: one remote call without a build, a line per change with one, patience with the connection."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.trtllm.fleet.plugins.action import trtllm_engine as action
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _board, _progress

DONE = {"changed": True, "building": False, "engine_dir": "/e"}


def building(phase: str, ranks_done: int, line: str) -> dict[str, Any]:
    progress = {
        "phase": phase, "phase_number": 1, "phases": 2, "ranks_done": ranks_done, "ranks": 2, "elapsed": 75,
        "phase_elapsed": 5, "last_line": line,
    }  # fmt: skip
    return {"changed": True, "building": True, "job": {"id": "j1"}, "progress": progress}


class Plugin(action.ActionModule):
    """The plugin with the module's answers at hand."""

    def __init__(self, answers: list[Any], check_mode: bool = False, async_val: int = 0, **arguments: Any) -> None:
        self._task = SimpleNamespace(args={"name": "m", **arguments}, async_val=async_val, check_mode=check_mode)
        self.answers, self.asked = answers, []

    def _call(self, arguments: dict[str, Any], task_vars: Any, wrap_async: bool = False) -> dict[str, Any]:
        self.asked.append((arguments, wrap_async))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(_progress.display, "display", lines.append)
    monkeypatch.setattr(_progress.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(_progress.ActionBase, "run", lambda self, tmp, task_vars: {})
    return lines


def run(plugin: Plugin) -> dict[str, Any]:
    return plugin.run(None, {"inventory_hostname": "gpu1"})


def test_without_a_build_it_is_one_call(shown: list[str]) -> None:
    plugin = Plugin([{"changed": False, "building": False}])
    assert run(plugin)["changed"] is False
    assert plugin.asked == [({"name": "m", "wait": False}, False)]
    assert shown == []


def test_each_change_is_one_line_for_its_host(shown: list[str]) -> None:
    same = building("convert", 0, "loading")
    plugin = Plugin([same, same, building("convert", 1, "rank 1"), building("build", 0, "x"), DONE], root="/r")
    assert run(plugin) == DONE
    assert shown == [
        "[gpu1] engine m: phase 1/2 convert | rank 1/2 | 1m15s | loading",
        "[gpu1] engine m: phase 1/2 convert | rank 2/2 | 1m15s | rank 1",
        "[gpu1] engine m: phase 1/2 build | rank 1/2 | 1m15s | x",
    ]
    assert plugin.asked[1:] == [({"name": "m", "attach": "j1", "wait": False, "root": "/r"}, False)] * 4


def test_a_lost_connection_is_tried_again(shown: list[str]) -> None:
    plugin = Plugin([building("build", 0, "x"), AnsibleConnectionFailure("timed out"), DONE])
    assert run(plugin) == DONE
    assert "connection lost, the build goes on" in shown[-1]


def test_a_lost_connection_is_told_once_a_minute(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr(_progress.time, "monotonic", lambda: float(next(clock)))
    gone = AnsibleConnectionFailure("gone")
    assert run(Plugin([building("build", 0, "x"), *[gone] * 9, building("build", 1, "y"), gone, DONE])) == DONE
    told = ["lost" if "connection lost" in line else "line" for line in shown]
    assert 2 <= told[:-1].count("lost") <= 4 and told[-1] == "lost", "at once when it is lost, then once a minute"


def test_a_connection_that_stays_away_ends_the_task(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 200))
    monkeypatch.setattr(_progress.time, "monotonic", lambda: float(next(clock)))
    plugin = Plugin([building("build", 0, "x"), *[AnsibleConnectionFailure("gone")] * 9])
    with pytest.raises(AnsibleConnectionFailure):
        run(plugin)


@pytest.mark.parametrize(
    "settings", [{"check_mode": True}, {"wait": False}, {"wait": "no"}, {"async_val": 600}, {"attach": "j1"}]
)
def test_where_nothing_is_to_be_shown_the_module_is_called_as_it_is(shown: list[str], settings: dict[str, Any]) -> None:
    plugin = Plugin([building("build", 0, "x")], **settings)
    assert run(plugin)["building"] is True
    (arguments, wrap_async), = plugin.asked  # fmt: skip
    assert arguments == plugin._task.args
    assert wrap_async is bool(settings.get("async_val"))
    assert shown == []


@pytest.mark.parametrize(("seconds", "text"), [(5, "5s"), (75, "1m15s"), (3700, "1h01m")])
def test_durations_are_short(seconds: int, text: str) -> None:
    assert _board.duration(seconds) == text


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"changed": True, "image_id": f"sha256:{'a' * 64}", "release": LAST}, True),
        ({"changed": False, "image_id": f"sha256:{'a' * 64}", "release": LAST}, False),
        ({"changed": True, "failed": True, "msg": "no"}, False),
        ({"changed": True}, False),  # one that was removed
    ],
)
def test_an_engine_that_was_built_says_by_which_image(
    monkeypatch: pytest.MonkeyPatch, result: dict[str, Any], told: bool
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(_progress.display, "display", lines.append)
    monkeypatch.setattr(_progress.Followed, "run", lambda self, tmp, task_vars: result)
    plugin = action.ActionModule.__new__(action.ActionModule)
    plugin._task = SimpleNamespace(args={"name": "m", "image": "r/b:1"}, async_val=0, check_mode=False)
    assert plugin.run(None, {"inventory_hostname": "h"}) is result
    assert lines == ([f"[h] engine m: built by r/b:1 (sha256:{'a' * 12}), TensorRT-LLM {LAST}"] if told else [])
