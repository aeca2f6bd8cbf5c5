# SPDX-License-Identifier: GPL-3.0-or-later
"""All plugins that show progress behave alike: what is not to be shown is one call, and what was asked is told."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.action import (
    trtllm_artifact_fetch,
    trtllm_checkpoint_fetch,
    trtllm_engine,
    trtllm_image,
)
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _board, _progress

PLUGINS = [trtllm_checkpoint_fetch.ActionModule, trtllm_engine.ActionModule, trtllm_image.ActionModule]


def plugin_of(of: type[_progress.Followed], answers: list[dict[str, Any]], **arguments: Any) -> tuple[Any, list[Any]]:
    plugin, asked = of.__new__(of), []

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


@pytest.mark.parametrize(
    ("kind", "progress", "row"),
    [
        (
            trtllm_checkpoint_fetch.ActionModule,
            {"phase": "downloading", "bytes_done": 3, "bytes_total": 9, "rate": 2, "left": 3.0, "note": "a mirror"},
            {"done": 3, "total": 9, "rate": 2, "left": 3.0, "said": "downloading, a mirror"},
        ),
        (
            trtllm_engine.ActionModule,
            {
                "phase": "build",
                "phase_number": 2,
                "phases": 3,
                "ranks": 4,
                "ranks_done": 1,
                "elapsed": 9,
                "last_line": "x",
            },
            {"said": "phase 2/3 build | rank 2/4 | x"},
        ),
        (
            trtllm_image.ActionModule,
            {"step": "pull", "bytes": 40, "total": 80, "seconds": 4, "attempt": 2, "attempts": 6, "state": "running"},
            {"done": 40, "total": 80, "rate": 10, "said": "pull, try 2 of 6"},
        ),
        (
            trtllm_artifact_fetch.ActionModule,
            {"received": 40, "kept": 10, "size": 80, "seconds": 4},
            {"done": 50, "total": 80, "rate": 10, "said": "received"},
        ),
    ],
)
def test_each_kind_has_a_row(kind: type[_progress.Followed], progress: dict[str, Any], row: dict[str, Any]) -> None:
    assert kind.__new__(kind).row(progress) == row


def test_with_a_table_each_look_is_a_row_of_it_and_lines_go_to_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(_progress.display, "display", lambda text, **how: said.append((text, how)))
    monkeypatch.setattr(_board, "live", lambda: True)
    arrives = {"receiving": True, "changed": True, "received": 1 << 30, "kept": 0, "size": 4 << 30, "seconds": 8}
    further = {**arrives, "received": 2 << 30}
    done = {"receiving": False, "changed": True, "received": 4 << 30}
    plugin, asked = plugin_of(trtllm_artifact_fetch.ActionModule, [arrives, arrives, further, done], kind="checkpoint")
    assert plugin.run(None, {"inventory_hostname": "h"}) == done
    assert [given["follow"] for given in asked] == ["start", "look", "look", "look"]
    board = _board.Board(clock=lambda: 0)
    rows = []
    for text, how in said:
        if text.startswith(_board.MARK):
            assert how == {"screen_only": True}
            board.tell(json.loads(text[len(_board.MARK) :]))
            rows.append([(row.what, row.done >> 30, row.total >> 30) for row in board.rows()])  # type: ignore[operator]
        else:
            assert how == {"log_only": True}
    assert rows == [[("checkpoint m", 1, 4)], [("checkpoint m", 2, 4)], []]
    lines = [text for text, _how in said if not text.startswith(_board.MARK)]
    assert lines[-1] == "[h] checkpoint m: 2.0 GiB of 4.0 GiB, 256.0 MiB/s, 8s"
