# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller sends is held to the rate, and only while it is sent."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.trtllm.fleet.plugins.action import trtllm_checkpoint
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import fingerprint

OPTIONS = {"sftp_extra_args": "-C", "scp_extra_args": None}


class Connection:
    """Keeps which options it had when a file was put."""

    def __init__(self, transport: str = "ssh") -> None:
        self.transport, self.options, self.seen = transport, dict(OPTIONS), []

    def get_option(self, name: str) -> str | None:
        return self.options[name]

    def set_option(self, name: str, value: str | None) -> None:
        self.options[name] = value

    def put_file(self, source: str, target: str) -> None:
        self.seen.append(dict(self.options))


@pytest.fixture
def send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Connection]:
    monkeypatch.setattr(trtllm_checkpoint.ActionBase, "run", lambda self, tmp, task_vars: {})
    monkeypatch.setattr(trtllm_checkpoint, "inspect_checkpoint", lambda source: None)
    monkeypatch.setenv("TRTLLM_FLEET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")

    def run(rate: Any, transport: str = "ssh") -> Connection:
        plugin: Any = trtllm_checkpoint.ActionModule.__new__(trtllm_checkpoint.ActionModule)
        plugin._task = SimpleNamespace(args={"name": "m", "path": str(tmp_path / "weights"), "rate": rate})
        plugin._connection = Connection(transport)
        plugin._module = lambda args, task_vars: (
            {} if args.get("publish") else {"missing": ["config.json"], "staging": "/there"}
        )
        plugin.run(None, {})
        return plugin._connection

    return run


def test_a_rate_is_kept_by_what_ssh_sends_files_with(send: Callable[..., Connection]) -> None:
    connection = send(64)
    assert connection.seen == [{"sftp_extra_args": "-C -l 500000", "scp_extra_args": "-l 500000"}]
    assert connection.options == OPTIONS


def test_without_one_nothing_is_held(send: Callable[..., Connection]) -> None:
    assert send(0, "local").seen == [OPTIONS]


@pytest.mark.parametrize(("rate", "transport", "said"), [
    (-1, "ssh", "rate is -1; give 0"), ("fast", "ssh", "rate is fast; give 0"), (5, "local", "the connection is local"),
])  # fmt: skip
def test_what_cannot_be_kept_is_refused(send: Callable[..., Connection], rate: Any, transport: str, said: str) -> None:
    with pytest.raises(AnsibleActionFail, match=said):
        send(rate, transport)


def test_hosts_that_ask_at_once_have_the_checkpoint_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "RACY_NS", -(10**15))
    monkeypatch.setenv("TRTLLM_FLEET_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(bytes(16 << 20))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(trtllm_checkpoint.local_tree, [weights] * 4))
    assert sum(tree.bytes_read for tree in found) == 16 << 20
    assert len({tree.digest for tree in found}) == 1
