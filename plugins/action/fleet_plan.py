# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the controller alone: see the documentation of the module of the same name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError, sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.inspect import inspect_checkpoint
from ansible_collections.trtllm.fleet.plugins.module_utils._plan import plan, refuse_unknown_keys
from ansible_collections.trtllm.fleet.plugins.module_utils._release.options import ENGINE_OPTIONS, argument_spec
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.schema import validate_parameters
from ansible_collections.trtllm.fleet.plugins.plugin_utils._lost import limit

SPECS = Path(__file__).resolve().parents[2] / "roles" / "fleet" / "meta" / "argument_specs.yml"


def load_spec() -> dict[str, Any]:
    """The options of the role ``fleet``, with the engine's own options in their place."""
    spec: dict[str, Any] = yaml.safe_load(SPECS.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
    engine = {"options": argument_spec(ENGINE_OPTIONS), "listed_in": "`ansible-doc trtllm.fleet.trtllm_engine`"}
    spec["trtllm_models"]["options"]["engine"].update(engine)
    # Not a user's to write: the host is asked.
    for held in ("held_ports", "held_gpus"):
        spec[held] = {"type": "dict", "default": {}}
    return spec


class ActionModule(ActionBase):
    """Validate the description of the fleet and return the plan of this host."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = dict(self._task.args)
        try:
            spec = load_spec()
            refuse_unknown_keys(given, spec)
            validated = ArgumentSpecValidator(_with_defaults(spec)).validate(given)
            if validated.error_messages:
                raise FleetError("; ".join(validated.error_messages) + ".")
            limit(validated.validated_parameters["trtllm_max_lost"], 1)
            fleet = plan(validated.validated_parameters)
            for repository in fleet["repositories"]:
                where = f"{repository['name']}: repository.parameters"
                validate_parameters(fleet["release"], "inflight_batcher_llm", repository["parameters"], where)
            for checkpoint in fleet["checkpoints"]:
                if checkpoint["location"] == "controller":
                    inspect_checkpoint(Path(os.path.expanduser(checkpoint["path"])))
            result["plan"] = fleet
        except (FleetError, OSError) as error:
            raise AnsibleActionFail(sentence(error)) from error
        result["changed"] = False
        return result


def _with_defaults(spec: dict[str, Any]) -> dict[str, Any]:
    """The same spec, with every dictionary that has options filled with their defaults."""
    known = ("type", "required", "default", "choices", "elements", "no_log", "aliases")
    out: dict[str, Any] = {}
    for name, option in spec.items():
        out[name] = {key: value for key, value in option.items() if key in known}
        if "options" in option:
            out[name]["options"] = _with_defaults(option["options"])
            if option.get("type") == "dict" and not option.get("required"):
                out[name]["apply_defaults"] = True
                out[name].pop("default", None)
    return out
