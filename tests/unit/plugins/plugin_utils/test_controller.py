# SPDX-License-Identifier: GPL-3.0-or-later
"""The way of the controller to what hosts serve on their own loopback address alone."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _controller
from ansible_collections.trtllm.fleet.plugins.plugin_utils._controller import reachable


def options(tmp_path: Path, script: str) -> Any:
    """Options of a connection whose ssh is a script of the shell."""
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\n{script}\n")
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    return {"ssh_executable": str(ssh), "host": "h1"}.get


def refusal(option: Any) -> str:
    with pytest.raises(AnsibleActionFail) as raised, reachable({"url": "http://127.0.0.1:3000"}, ["url"], option):
        raise AssertionError("it was taken for one that came up")
    return str(raised.value)


def test_a_tunnel_to_a_host_that_is_lost_is_told_as_ssh_says_it(tmp_path: Path) -> None:
    said = refusal(options(tmp_path, "echo 'ssh: connect to host h1 port 22: No route to host' >&2; exit 255"))
    assert "did not come up: ssh: connect to host h1 port 22: No route to host; see that the host answers" in said


def test_a_tunnel_on_which_ssh_says_nothing_is_told_with_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_controller, "READY_SECONDS", 0.5)
    assert "ssh gave no answer within" in refusal(options(tmp_path, "exec sleep 60"))
