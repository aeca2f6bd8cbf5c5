# SPDX-License-Identifier: GPL-3.0-or-later
"""Loaded by ansible-playbook as a callback; what it calls back is nothing. It keeps modules from being run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase

DIRECTORY = Path(os.environ["TRTLLM_RECORDER"])
HOSTS = json.loads((DIRECTORY / "hosts.json").read_text())


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "recorder"


transferred: dict[str, str] = {}


def host_of(action: Any, task_vars: dict[str, Any] | None) -> str:
    return str((task_vars or {}).get("inventory_hostname") or action._task_vars_host)


def written(host: str, module: str) -> int:
    """How often a module was asked for on a host before."""
    path = DIRECTORY / "calls" / host
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(json.loads(line)["module"] == module for line in lines)


def answer(host: str, module: str, args: dict[str, Any]) -> dict[str, Any]:
    recorded = HOSTS[host]
    said = recorded.get("modules", {}).get(module)
    if said:
        return dict(said[min(written(host, module), len(said) - 1)])
    if module == "gpu_host_info":
        looks = recorded["looks"]
        return {"changed": False, "host": looks[min(written(host, module), len(looks) - 1)]}
    if module == "setup":
        return {"changed": False, "ansible_facts": {"pkg_mgr": "dnf", "ansible_pkg_mgr": "dnf"}}
    if module == "command":
        words = args.get("argv") or str(args.get("_raw_params", "")).split()
        out = recorded.get("answers", {}).get(words[0], "")
        return {"changed": True, "rc": 0, "stdout": out, "stderr": "", "stdout_lines": out.splitlines(), "cmd": words}
    return {"changed": True, "rc": 0, "results": [], "msg": ""}


def execute(
    self: Any,
    module_name: str | None = None,
    module_args: dict[str, Any] | None = None,
    tmp: object = None,
    task_vars: dict[str, Any] | None = None,
    **_options: object,
) -> dict[str, Any]:
    name = (module_name or self._task.action).rsplit(".", 1)[-1]
    args = dict(self._task.args if module_args is None else module_args)
    host = host_of(self, task_vars)
    result = answer(host, name, args)
    content = transferred.pop(str(args.get("src")), None) if name == "copy" else None
    shown = {key: value for key, value in args.items() if not key.startswith("_ansible") and value is not None}
    call = {"module": name, "args": shown, "content": content, "check_mode": bool(self._task.check_mode)}
    with (DIRECTORY / "calls" / host).open("a") as stream:
        stream.write(json.dumps(call, default=str) + "\n")
    return result


def make_tmp_path(self: Any, remote_user: object = None) -> str:
    self._connection._shell.tmpdir = "/nowhere"
    return "/nowhere"


def transfer_file(self: Any, local_path: str, remote_path: str) -> str:
    transferred[remote_path] = Path(local_path).read_text()
    return remote_path


def stat(self: Any, path: str, *_args: object, **_options: object) -> dict[str, Any]:
    return {"exists": False, "checksum": "1", "isdir": False}


def nothing(self: Any, *_args: object, **_options: object) -> None:
    return None


def same_path(self: Any, path: str, *_args: object, **_options: object) -> str:
    return path


ActionBase._execute_module = execute
ActionBase._make_tmp_path = make_tmp_path
ActionBase._remove_tmp_path = nothing
ActionBase._transfer_file = transfer_file
ActionBase._fixup_perms2 = nothing
ActionBase._execute_remote_stat = stat
ActionBase._remote_expand_user = same_path
