# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator sees while an image comes, and of one that came."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
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


def plugin_of(host: Host, check_mode: bool = False) -> tuple[Any, list[str]]:
    """The plugin for a host that answers so, and the files that are sent to it."""
    plugin, sent = action.ActionModule.__new__(action.ActionModule), []

    def needle(directory: str, name: str) -> str:
        if not Path(name).exists():
            raise AnsibleError(f"could not find {name}")
        return name

    def transfer(local: str, remote: str) -> None:
        assert Path(local).stat().st_mode & 0o777 == 0o600
        sent.append(remote)

    plugin._task = SimpleNamespace(check_mode=check_mode, async_val=0, args={})
    plugin._connection = SimpleNamespace(_shell=SimpleNamespace(join_path=lambda *parts: "/".join(parts)))
    plugin._call, plugin._find_needle = host.call, needle
    plugin._make_tmp_path, plugin._transfer_file = lambda: "/tmp/t", transfer
    plugin._fixup_perms2 = lambda paths: None
    return plugin, sent


def test_a_context_of_the_controller_is_sent_where_the_image_is_missing_and_only_there(tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text("FROM scratch\n")
    given = {"name": "r/a:1", "source": "build", "context": str(tmp_path), "context_location": "controller"}
    plugin, sent = plugin_of(Host({"missing": True}))
    first = plugin._send(dict(given), {})
    assert sent == ["/tmp/t/context.tar.gz"] and first["context_archive"] == sent[0]
    host = Host({"missing": False})
    plugin, sent = plugin_of(host)
    again = plugin._send(dict(given), {})
    assert sent == [] and "context_archive" not in again and again["inputs"] == first["inputs"]
    assert host.asked[0]["when_missing"] == "tell"
    # in check mode, and where it is only asked for, the fingerprint tells all
    plugin, sent = plugin_of(Host(), check_mode=True)
    assert plugin._send(dict(given), {})["inputs"] == first["inputs"] and sent == []
    plugin, sent = plugin_of(Host())
    assert plugin._send({**given, "when_missing": "tell"}, {})["inputs"] == first["inputs"] and sent == []
    (tmp_path / "a").write_text("x")
    plugin, sent = plugin_of(Host({"missing": False}))
    assert plugin._send(dict(given), {})["inputs"] != first["inputs"]
    plugin, sent = plugin_of(Host({"missing": False}))
    assert plugin._send({**given, "build_args": {"A": "1"}}, {})["inputs"] != first["inputs"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "context is missing"),
        ({"context": "/nowhere"}, "There is no directory '/nowhere' on the controller"),
        ({"context": "/"}, "There is no /Containerfile on the controller"),
    ],
)
def test_a_context_that_is_none_is_refused(given: dict[str, Any], message: str) -> None:
    plugin, _ = plugin_of(Host())
    with pytest.raises(AnsibleActionFail, match=message):
        plugin._send({"name": "r/a:1", **given}, {})
