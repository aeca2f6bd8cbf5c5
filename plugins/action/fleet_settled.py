# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells the module of the same name what the run is given for the host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ansible import context
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.trtllm.fleet.plugins.module_utils._host.verdict import verdict
from ansible_collections.trtllm.fleet.plugins.plugin_utils._settled import (
    asks_more,
    collection_digest,
    given,
    names,
    places,
    secret_variables,
)

# As this file is read, before there are workers.
collection_digest()
secret_variables()


def settled_as_seen(args: Mapping[str, Any]) -> dict[str, Any]:
    """What the module would return, where what the host was seen to be and what the run is given settle it; else {}."""
    seen = dict(args.get("seen") or {})
    compare = seen.pop("compare", None)
    asked = boolean(args.get("skip", True), strict=False) and not args["unsettled"]
    if not compare or not asked or compare["inputs"] != args["inputs"] or compare["paths"] != args["paths"]:
        return {}
    options = args.get("host_options")
    refused = options and verdict(compare["host"], "the host", options)["reasons"]
    return {} if refused else {"changed": False, **seen}


class ActionModule(ActionBase):
    """See the module's documentation."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables, args = task_vars or {}, dict(self._task.args)
        if args.get("state") == "told":
            # One that looks at more, or less, sees differences where there are none.
            args["inputs"] = {"the collection": collection_digest()}
        if args.get("state", "looked") == "looked":
            plan = variables.get("fleet_plan")
            values = {name: self._value(variables[name]) for name in names(variables)}
            host = str(variables["inventory_hostname"])
            skipped = {"what the run leaves out": " ".join(sorted(context.CLIARGS.get("skip_tags") or []))}
            inputs = given(host, plan, variables.get("fleet_map") or {}, values, self._find)
            args["inputs"] = {**inputs, **skipped}
            # What is not the controller's may be the host's.
            args["paths"] = sorted({*(args.get("paths") or []), *places(plan, values)})
            too_large = [name for name, digest in inputs.items() if not digest]
            partial = self._partial()
            args["whole"] = not partial
            args["unsettled"] = [
                *(args.get("unsettled") or []), *partial, *asks_more(plan, values),
                *(f"{name} has too many files to look at" for name in too_large),
            ]  # fmt: skip
            found = settled_as_seen(args)
            if found:
                return found
        args.pop("seen", None)
        result: dict[str, Any] = self._execute_module(module_args=args, task_vars=variables)
        return result

    def _partial(self) -> list[str]:
        """Why this run is not a whole one."""
        asked = context.CLIARGS
        only = [tag for tag in asked.get("tags") or () if tag != "all"]
        return (
            [f"the run was asked for {', '.join(only)} alone"] if only
            else ["the run does not begin at its beginning"] if asked.get("start_at_task") or asked.get("step")
            else []
        )  # fmt: skip

    def _value(self, raw: Any) -> Any:
        try:
            return self._templar.template(raw)
        except AnsibleError:
            return raw  # what nobody asks for need not be right

    def _find(self, text: str) -> str:
        """Where a file of the controller is; empty where there is none."""
        if text.startswith("/"):
            return text if os.path.exists(text) else ""
        try:
            return str(self._find_needle("files", text))
        except AnsibleError:  # it may be where the run was started, from which roles take it then
            return os.path.abspath(text) if os.path.exists(text) else ""
