# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator sees while an image comes, and of one that came."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.trtllm.fleet.plugins.action import trtllm_image as action
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _progress

GIB = 1 << 30
PULL = {
    "state": "running",
    "step": "pull",
    "attempt": 1,
    "attempts": 6,
    "bytes": 2 * GIB,
    "total": 8 * GIB,
    "seconds": 20,
}
BUILD = {
    "state": "running",
    "step": "build",
    "attempt": 1,
    "attempts": 1,
    "bytes": 0,
    "seconds": 75,
    "line": "STEP 3/9",
}


def test_a_pull_has_bytes_and_rate_a_build_its_step() -> None:
    name = "nvcr.io/nvidia/tritonserver:26.07"
    assert action.line("h", name, PULL) == "[h] image tritonserver:26.07: 2.0 GiB of 8.0 GiB, 102.4 MiB/s, 20s"
    assert action.line("h", name, BUILD) == "[h] image tritonserver:26.07: build, 1m15s, STEP 3/9"
    waiting = {**PULL, "state": "waiting", "attempt": 2, "message": "connection refused"}
    assert action.line("h", "a:1", waiting).endswith("20s, try 2 of 6, connection refused")


def test_what_came_is_one_line() -> None:
    found = {
        "reason": "pulled", "digest": f"sha256:{'a' * 64}", "trtllm_version": LAST, "builds_engines": True,
        "architecture": "amd64", "size": 14 * GIB, "disk_before": 90 * GIB, "disk_after": 76 * GIB,
    }  # fmt: skip
    assert action.summary("h", "r/a:1", found) == (
        f"[h] image a:1: pulled, sha256:aaaaaaaaaaaa, TensorRT-LLM {LAST}, builds engines, amd64, 14.0 GiB, "
        "90.0 GiB free before, 76.0 GiB after"
    )


class Host:
    """Answers of the module, one after the other; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    def call(self, arguments: dict[str, Any], task_vars: Any, wrap_async: bool = False) -> dict[str, Any]:
        self.asked.append(arguments)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        found: dict[str, Any] = answer
        return found


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(_progress.display, "display", lines.append)
    monkeypatch.setattr(_progress.time, "sleep", lambda seconds: None)
    return lines


def test_it_asks_until_it_is_done_through_a_lost_connection(shown: list[str]) -> None:
    running = {"running": True, "progress": PULL}
    further = {"running": True, "progress": {**PULL, "bytes": 4 * GIB}}
    done = {"changed": True, "running": False}
    host = Host(running, further, AnsibleConnectionFailure("gone"), further, done)
    plugin = action.ActionModule.__new__(action.ActionModule)
    plugin._call = host.call
    attach = {"name": "r/a:1", "wait": False, "attach": True}
    assert plugin._follow({"name": "r/a:1"}, running, {"inventory_hostname": "h"}) == done
    assert host.asked == [attach] * 5
    assert [line for line in shown if "4.0 GiB" in line] and [line for line in shown if "connection lost" in line]
