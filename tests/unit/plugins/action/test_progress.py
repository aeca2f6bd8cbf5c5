# SPDX-License-Identifier: GPL-3.0-or-later
"""All plugins that show progress behave alike: what is not to be shown is one call, and what was asked is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.action import trtllm_checkpoint_fetch, trtllm_engine, trtllm_image
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _progress

PLUGINS = [trtllm_checkpoint_fetch.ActionModule, trtllm_engine.ActionModule, trtllm_image.ActionModule]


def plugin_of(kind: type[_progress.Followed], answers: list[dict[str, Any]], **arguments: Any) -> tuple[Any, list[Any]]:
    plugin, asked = kind.__new__(kind), []

    def call(given: dict[str, Any], task_vars: Any, wrap_async: bool = False) -> dict[str, Any]:
        asked.append(given)
        return answers.pop(0)

    plugin._task = SimpleNamespace(args={"name": "m", **arguments}, async_val=0, check_mode=False)
    plugin._call = call
    return plugin, asked


@pytest.fixture(autouse=True)
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(_progress.display, "display", lines.append)
    monkeypatch.setattr(_progress.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(_progress.ActionBase, "run", lambda self, tmp, task_vars: {})
    return lines


@pytest.mark.parametrize("kind", PLUGINS)
def test_who_attaches_gets_the_modules_own_answer(kind: type[_progress.Followed], shown: list[str]) -> None:
    answer = {"changed": False, kind.running: True}
    plugin, asked = plugin_of(kind, [answer], attach=True)
    assert plugin.run(None, {}) is answer
    assert asked == [{"name": "m", "attach": True}] and shown == []


@pytest.mark.parametrize("kind", PLUGINS)
def test_the_invocation_is_what_the_operator_wrote(kind: type[_progress.Followed]) -> None:
    told = {"changed": False, "invocation": {"module_args": {"name": "m", "wait": False, "attach": "j1"}}}
    plugin, _asked = plugin_of(kind, [told])
    arguments = plugin.run(None, {})["invocation"]["module_args"]
    assert arguments["wait"] is True and not arguments["attach"]


@pytest.mark.parametrize("kind", PLUGINS)
def test_long_silence_is_shown_as_a_line(
    kind: type[_progress.Followed], shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 100_000, 70))
    monkeypatch.setattr(_progress.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(kind, "line", lambda self, host, name, progress: "the same")
    monkeypatch.setattr(kind, "key", lambda self, progress: "the same")
    goes_on = {kind.running: True, "progress": {}, "job": {"id": "j1"}}
    plugin, _asked = plugin_of(kind, [goes_on, goes_on, goes_on, {"changed": False}])
    plugin.run(None, {})
    assert shown == ["the same"] * 3
