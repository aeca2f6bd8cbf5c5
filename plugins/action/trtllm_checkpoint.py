# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transfers a checkpoint of the controller; on the host the module of the same name does the rest."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fingerprint import TreeDigest, tree_digest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError, sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.sizes import MB
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.inspect import inspect_checkpoint
from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir

MODULE = "trtllm.fleet.trtllm_checkpoint"
# What ssh's programs for files take besides; both have the option -l, in kilobits (of 1024) a second.
LIMITED = ("sftp_extra_args", "scp_extra_args")
KILOBIT = 1024 // 8  # bytes
display = Display()


def local_index(source: Path) -> Path:
    """Where the controller keeps the digests of *source*, so that it reads the weights once for all hosts."""
    directory = cache_dir() / "digests"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{hashlib.sha256(os.fsencode(source)).hexdigest()[:32]}.json"


def local_tree(source: Path) -> TreeDigest:
    """The digests of *source*. The hosts of a run ask at once; all but the first wait for what that reads."""
    index = local_index(source)
    with open(index.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return tree_digest(source, index)


class ActionModule(ActionBase):
    """Compare, transfer what is missing, publish. A run without changes is one remote call."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        if args.get("location", "controller") != "controller" or args.get("state", "present") == "absent":
            return self._module(args, task_vars)
        if not args.get("path"):
            raise AnsibleActionFail("path is missing; give the directory of the controller that holds the checkpoint.")
        rate = str(args.get("rate") or 0)
        if not rate.isdigit():
            raise AnsibleActionFail(f"rate is {rate}; give 0 for no limit, or megabytes a second.")
        if int(rate) and self._connection.transport != "ssh":
            raise AnsibleActionFail(
                f"rate is {rate}, but the connection is {self._connection.transport}; only ssh has one."
            )
        source = Path(os.path.expanduser(str(args["path"]))).absolute()
        try:
            inspect_checkpoint(source)
            tree = local_tree(source)
        except (FleetError, OSError) as error:
            raise AnsibleActionFail(sentence(error, str(source))) from error
        args.update(path=str(source), wanted=tree.contents())
        result = self._module(args, task_vars)
        if args.get("ask"):
            return {**result, "asked": tree.digest}
        if result.get("failed") or "missing" not in result:
            return result
        with self._held_to(int(rate)):
            self._transfer(source, result["staging"], result["missing"])
        return self._module({**args, "publish": True}, task_vars)

    @contextlib.contextmanager
    def _held_to(self, rate: int) -> Iterator[None]:
        """Meanwhile sftp and scp send at most *rate* megabytes a second; 0 is no limit."""
        connection = self._connection
        before = {option: connection.get_option(option) for option in LIMITED} if rate else {}
        for option, words in before.items():
            connection.set_option(option, f"{words or ''} -l {rate * MB // KILOBIT}".strip())
        try:
            yield
        finally:
            for option, words in before.items():
                connection.set_option(option, words)

    def _transfer(self, source: Path, staging: str, paths: list[str]) -> None:
        host = self._task.args.get("name")
        total = sum((source / path).stat().st_size for path in paths)
        done = 0
        for path in paths:
            size = (source / path).stat().st_size
            if total > 100 * 1024 * 1024:
                display.display(f"{host}: {path} ({size / 1e9:.1f} GB, {done / total:.0%} done)")
            self._connection.put_file(str(source / path), os.path.join(staging, path))
            done += size

    def _module(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(module_name=MODULE, module_args=args, task_vars=task_vars)
        return result
