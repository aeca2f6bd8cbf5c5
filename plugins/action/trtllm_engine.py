# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live progress of an engine build."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.trtllm.fleet.plugins.plugin_utils._board import duration
from ansible_collections.trtllm.fleet.plugins.plugin_utils._progress import Followed, display


class ActionModule(Followed):
    """Run M(trtllm.fleet.trtllm_engine) and show its progress."""

    module, running = "trtllm.fleet.trtllm_engine", "building"
    what, work = "engine", "build"

    def row(self, progress: Mapping[str, Any]) -> dict[str, Any]:
        return {"said": " | ".join(word for word in (*self._at(progress), progress["last_line"]) if word)}

    def line(self, host: str, name: str, progress: Mapping[str, Any]) -> str:
        words = [*self._at(progress), duration(progress["elapsed"])]
        if progress["last_line"]:
            words.append(progress["last_line"])
        return f"[{host}] engine {name}: {' | '.join(words)}"

    def _at(self, progress: Mapping[str, Any]) -> list[str]:
        """The phase, and of several ranks the one that is built."""
        number = f"phase {progress['phase_number']}/{progress['phases']} " if progress["phase_number"] else ""
        words = [f"{number}{progress['phase']}"]
        if progress["ranks"] > 1:
            words.append(f"rank {min(progress['ranks_done'] + 1, progress['ranks'])}/{progress['ranks']}")
        return words

    def key(self, progress: Mapping[str, Any]) -> str:
        return f"{progress['phase']} {progress['ranks_done']} {progress['last_line']}"

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if self.shown(arguments) and result.get("changed") and result.get("image_id") and not result.get("failed"):
            host = str((task_vars or {}).get("inventory_hostname", ""))
            image = str(arguments.get("image") or "the image of the release")
            display.display(
                f"[{host}] engine {arguments['name']}: built by {image} ({result['image_id'][:19]}), TensorRT-LLM "
                f"{result.get('release', '')}"
            )
        return result

    def attach(self, arguments: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """With nothing of what the build is made of, which would be read again."""
        asked = {"name": arguments["name"], "attach": result["job"]["id"], "wait": False}
        return {**asked, **({"root": arguments["root"]} if "root" in arguments else {})}
