# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the controller alone: see the documentation of the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError, sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes.forms import files
from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes.objects import STAGES
from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes.text import plain
from ansible_collections.trtllm.fleet.plugins.plugin_utils._kubernetes import (
    APPLIER,
    Output,
    can_apply,
    cluster,
    triton_settings,
)


class ActionModule(ActionBase):
    """Render the objects of a cluster into files of the controller."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            _errors, args = self.validate_argument_spec(
                {
                    "trtllm_release": {"type": "str", "required": True},
                    "trtllm_root": {"type": "path"},
                    "trtllm_models": {"type": "list", "elements": "raw", "required": True},
                    "settings": {"type": "dict", "required": True},
                    "images": {"type": "dict", "required": True},
                    "published": {"type": "dict"},
                    "output": {"type": "path", "required": True},
                    "apply": {"type": "bool", "default": False},
                }
            )
            if args["apply"] and not can_apply():
                raise FleetError(
                    f"kubernetes_apply is true, but the collection {APPLIER} is not here; install it with its Python "
                    f"packages (ansible-galaxy collection install {APPLIER}), or leave kubernetes_apply out and apply "
                    "the files with kubectl."
                )
            output = Output(args["output"])
            stages = cluster(args, triton_settings(lambda name: self._value(task_vars or {}, name)))
            wanted = files(stages, str(args["trtllm_release"]))
            differences = output.differences(wanted)
            if not self._task.check_mode:
                output.write(wanted)
        except (FleetError, OSError) as error:
            raise AnsibleActionFail(sentence(error)) from error
        result.update(
            changed=bool(differences),
            output=str(output.path),
            files=sorted(wanted),
            stages=[
                {
                    "name": stage,
                    "file": next(
                        path for path in wanted if path.startswith("plain/") and path.endswith(f"-{stage}.yaml")
                    ),
                    "objects": [plain(one) for one in stages[stage]] if args["apply"] else [],
                    "jobs": [one["metadata"]["name"] for one in stages[stage] if one["kind"] == "Job"],
                }
                for stage in STAGES
                if stages[stage]
            ],
        )
        if self._task.diff:
            result["diff"] = [
                {"before_header": path, "after_header": path, "before": _shown(before), "after": _shown(after)}
                for path, before, after in differences
                if path.startswith("base/")
            ]
        return result

    def _value(self, variables: dict[str, Any], name: str) -> Any:
        """A variable of the inventory as a task would see it."""
        return self._templar.template(variables[name]) if name in variables else None


def _shown(text: str | None) -> str:
    lines = (text or "").splitlines(keepends=True)
    return "".join(line if len(line) < 4096 else f"{line[:60]}...\n" for line in lines)
