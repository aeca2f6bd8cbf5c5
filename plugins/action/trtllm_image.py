# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live progress of an image that is pulled, pushed, loaded or built."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fingerprint import file_sha256
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError, sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.sizes import gib
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.context import Context
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.image import build_inputs
from ansible_collections.trtllm.fleet.plugins.plugin_utils._board import duration
from ansible_collections.trtllm.fleet.plugins.plugin_utils._progress import Followed, display


def line(host: str, name: str, progress: Mapping[str, Any]) -> str:
    """One line for the operator's terminal."""
    words = [str(progress.get("step", "at work"))]
    done, total, seconds = progress.get("bytes", 0), progress.get("total", 0), progress.get("seconds", 0)
    if done:
        words = [f"{gib(done)} of {gib(total)}" if total else gib(done)]
        words += [f"{gib(done / seconds)}/s"] if seconds else []
    words += [duration(seconds), *_said(progress)]
    return f"[{host}] image {name.rpartition('/')[2]}: {', '.join(words)}"


def _said(progress: Mapping[str, Any]) -> list[str]:
    """Beside how much and how long: which try it is, and what the work said."""
    words, waits = [], progress.get("state") == "waiting"
    if progress.get("attempt", 1) > 1 or waits:
        words.append(f"try {progress.get('attempt', 1)} of {progress.get('attempts', 1)}")
    said = (progress.get("message") if waits else "") or (not progress.get("bytes") and progress.get("line"))
    return [*words, str(said)] if said else words


def row(progress: Mapping[str, Any]) -> dict[str, Any]:
    """The same for the table."""
    done, seconds = progress.get("bytes") or 0, progress.get("seconds") or 0
    words = [str(progress.get("step", "at work")), *_said(progress)]
    return {
        "done": done, "total": progress.get("total") or 0, "rate": done / seconds if done and seconds else 0,
        "said": ", ".join(words),
    }  # fmt: skip


def summary(host: str, name: str, result: Mapping[str, Any]) -> str:
    """What came of it, in one line."""
    words = [str(result.get("reason", "")), str(result.get("digest") or result.get("id", ""))[:19]]
    if "trtllm_version" in result:
        words.append(f"TensorRT-LLM {result['trtllm_version'] or 'not told'}")
        words.append("builds engines" if result["builds_engines"] else "cannot build engines")
    words += [str(result.get("architecture", "")), gib(result.get("size", 0))]
    if result.get("disk_before"):
        words.append(f"{gib(result['disk_before'])} free before, {gib(result['disk_after'])} after")
    return f"[{host}] image {name.rpartition('/')[2]}: {', '.join(word for word in words if word)}"


class ActionModule(Followed):
    """Run M(trtllm.fleet.trtllm_image) and show its progress, and what came of it."""

    module, running = "trtllm.fleet.trtllm_image", "running"
    what, work = "image", "work"
    first_poll = 0.5
    at_once = False  # what is over at once needs no line
    plain = MappingProxyType({"wait": True, "attach": False})

    def shown(self, arguments: Mapping[str, Any]) -> bool:
        return arguments.get("when_missing", "bring") == "bring" and super().shown(arguments)

    def line(self, host: str, name: str, progress: Mapping[str, Any]) -> str:
        return line(host, name, progress)

    def row(self, progress: Mapping[str, Any]) -> dict[str, Any]:
        return row(progress)

    def label(self, name: str) -> str:
        return f"image {name.rpartition('/')[2]}"

    def key(self, progress: Mapping[str, Any]) -> str:
        return f"{progress.get('state')} {progress.get('attempt')} {progress.get('bytes')} {progress.get('line')}"

    def attach(self, arguments: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        return {**arguments, "wait": False, "attach": True}

    def _send(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """The arguments with the fingerprint of a context of the controller, and with it where the host needs it."""
        if not arguments.get("context"):
            raise AnsibleActionFail("context is missing; give the directory of the controller to build from.")
        root = Path(str(arguments["context"]))
        with contextlib.suppress(AnsibleError):  # told below
            root = Path(self._find_needle("files", str(root)))
        try:
            context = Context.of(root, str(arguments.get("containerfile") or ""))
            arguments["inputs"] = build_inputs(
                context.digest, file_sha256(context.containerfile), arguments.get("build_args") or {},
                arguments.get("base_images") or {}, arguments.get("target"),
            )  # fmt: skip
            if not self.shown(arguments):
                return arguments
            asked = self._call({**arguments, "when_missing": "tell"}, task_vars)
            if not asked.get("missing"):
                return arguments
            place = self._make_tmp_path()
            remote = self._connection._shell.join_path(place, "context.tar.gz")
            with tempfile.NamedTemporaryFile(prefix="trtllm-context-") as archive:
                context.pack(archive)
                archive.flush()
                self._transfer_file(archive.name, remote)
            self._fixup_perms2((place, remote))
        except (FleetError, OSError) as error:
            raise AnsibleActionFail(sentence(error, str(arguments.get("context")))) from error
        return {**arguments, "context_archive": remote}

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        given = self._task.args
        if given.get("source") == "build" and given.get("context_location") == "controller":
            self._task.args = self._send(dict(given), task_vars)
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if self.shown(arguments) and result.get("changed") and not result.get("failed"):
            host = str((task_vars or {}).get("inventory_hostname", ""))
            display.display(summary(host, str(arguments.get("name", "")), result))
        return result
