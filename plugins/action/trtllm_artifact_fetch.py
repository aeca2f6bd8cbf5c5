# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live progress of an artefact that arrives from another host."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._base.sizes import gib
from ansible_collections.trtllm.fleet.plugins.plugin_utils._board import duration
from ansible_collections.trtllm.fleet.plugins.plugin_utils._progress import Followed


class ActionModule(Followed):
    """Run M(trtllm.fleet.trtllm_artifact_fetch) and show its progress."""

    module, running = "trtllm.fleet.trtllm_artifact_fetch", "receiving"
    what, work = "artefact", "transfer"
    first_poll = 0.5
    at_once = False  # what is small is there at once
    plain = MappingProxyType({"follow": None})

    def progress(self, result: Mapping[str, Any]) -> Mapping[str, Any]:
        return result

    def line(self, host: str, name: str, progress: Mapping[str, Any]) -> str:
        row = self.row(progress)
        words = [f"{gib(row['done'])} of {gib(row['total'])}"] if row["total"] else ["waiting for its source"]
        words += [f"{gib(row['rate'])}/s"] if row["rate"] else []
        return f"[{host}] {self.label(name)}: {', '.join([*words, duration(progress.get('seconds') or 0)])}"

    def row(self, progress: Mapping[str, Any]) -> dict[str, Any]:
        received, seconds = progress.get("received") or 0, progress.get("seconds") or 0
        return {
            "done": received + (progress.get("kept") or 0), "total": progress.get("size") or 0,
            "rate": received / seconds if received and seconds else 0, "said": "received",
        }  # fmt: skip

    def label(self, name: str) -> str:
        return f"{self._task.args.get('kind') or 'engine'} {name}"

    def key(self, progress: Mapping[str, Any]) -> str:
        return str(int(10 * progress["received"] / progress["size"])) if progress.get("size") else ""

    def shown(self, arguments: Mapping[str, Any]) -> bool:
        return not arguments.get("follow") and super().shown(arguments)

    def first(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {**arguments, "follow": "start"}

    def attach(self, arguments: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        return {**arguments, "follow": "look"}
