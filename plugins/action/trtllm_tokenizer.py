# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transfers a tokenizer that the controller keeps; on the host the module of the same name does the rest."""

from __future__ import annotations

import posixpath
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.trtllm.fleet.plugins.plugin_utils._kept import Kept

MODULE = "trtllm.fleet.trtllm_tokenizer"


class ActionModule(ActionBase):
    """Compare, transfer what is missing, publish. A run without changes is one remote call."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        result = self._module(args, task_vars)
        if result.get("failed") or "missing" not in result:
            return result
        kept, directory = Kept(), self._connection._shell.tmpdir or self._make_tmp_path()
        transferred = []
        for name in result["missing"]:
            sha256 = args["files"][name]
            if not kept.has(sha256):
                where = kept.path(sha256)
                return {"failed": True, "msg": f"{where} is not on the controller; run trtllm_tokenizer_fetch first."}
            transferred.append(
                self._transfer_file(str(kept.path(sha256)), posixpath.join(directory, posixpath.basename(name)))
            )
        self._fixup_perms2([directory, *transferred])
        try:
            return self._module({**args, "source": directory}, task_vars)
        finally:
            self._remove_tmp_path(directory)

    def _module(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name=MODULE, module_args=args, task_vars=task_vars, delete_remote_tmp=False
        )
        return result
