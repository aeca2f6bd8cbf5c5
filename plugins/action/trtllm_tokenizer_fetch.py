# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps a tokenizer's files on the controller; the module of the same name reads their digests on the host."""

from __future__ import annotations

import base64
import posixpath
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.trtllm.fleet.plugins.plugin_utils._kept import Kept


class ActionModule(ActionBase):
    """Ask for the digests, and fetch what the controller has not got. Another run is one remote call."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        result: dict[str, Any] = self._execute_module(
            module_name="trtllm.fleet.trtllm_tokenizer_fetch", module_args=dict(self._task.args), task_vars=task_vars
        )
        if result.get("failed") or self._task.check_mode:
            return result
        kept = Kept()
        for name, sha256 in result["files"].items():
            if kept.has(sha256):
                continue
            source = posixpath.join(str(self._task.args["path"]), name)
            # Through a module, as what becomes root on the host can read it, and a plain copy cannot.
            read = self._execute_module(
                module_name="ansible.legacy.slurp", module_args={"src": source}, task_vars=task_vars
            )
            if read.get("failed"):
                return dict(read)
            if not kept.put(sha256, base64.b64decode(read["content"])):
                return {"failed": True, "msg": f"{source} changed while it was read; run again."}
        return result
