# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the controller, once for the play: see the documentation of the module of the same name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError, sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.files import write_atomically
from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir
from ansible_collections.trtllm.fleet.plugins.plugin_utils._controller import operator
from ansible_collections.trtllm.fleet.plugins.plugin_utils._description import host_value
from ansible_collections.trtllm.fleet.plugins.plugin_utils._lost import unreachable
from ansible_collections.trtllm.fleet.plugins.plugin_utils._report import Fleet, of_fleet, report
from ansible_collections.trtllm.fleet.plugins.plugin_utils._report_metrics import metrics
from ansible_collections.trtllm.fleet.plugins.plugin_utils._report_page import page

display = Display()

# What tasks before have registered for a host -> the keys of it that are told, by the name that the report gives them.
REGISTERED = {
    "preflight_look": {"host": "host"},
    "report_replicas": {"replicas": "replicas", "workers": "workers", "gateways": "gateways"},
    "report_rollouts": {"lines": "rollouts", "holder": "holder", "unsettled": "unsettled"},
    "report_engines": {"engines": "engines", "builds": "builds"},
    "report_settled": {"settled": "settled", "since": "settled_since", "why": "settled_why"},
}


class ActionModule(ActionBase):
    """Write the report of the play's hosts."""

    BYPASS_HOST_LOOP = True
    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        try:
            _errors, args = self.validate_argument_spec(
                {
                    "page": {"type": "str", "required": True},
                    "json": {"type": "str"},
                    "name": {"type": "str"},
                    "benchmarks": {"type": "str"},
                }
            )
            made = report(self._fleet(variables, args))
            written = [_file(args["page"])]
            write_atomically(written[0], page(made).encode("utf-8", "replace"))
            if args["json"]:
                written.append(_file(args["json"]))
                write_atomically(written[1], (json.dumps(made, indent=1, sort_keys=True) + "\n").encode())
        except (FleetError, OSError) as error:
            raise AnsibleActionFail(sentence(error, "The controller")) from error
        display.display(f"\nThe report is {' and '.join(map(str, written))}\n")
        # The host is as it was, and the report says something new each time.
        result.update(changed=False, page=str(written[0]), summary=made["summary"], metrics=metrics(made, time.time()))
        return result

    def _fleet(self, variables: Mapping[str, Any], args: Mapping[str, Any]) -> Fleet:
        hostvars = variables["hostvars"]
        names = list(variables["ansible_play_hosts_all"])
        alive = set(variables["ansible_play_hosts"])
        raw = {name: hostvars.raw_get(name) for name in names}
        lost = {name: why for name in names if (why := _lost(raw[name], name in alive))}
        found = {name: _told(raw[name], hostvars, name) for name in names if name not in lost}
        refused = next((str(told["report_refused"]) for told in raw.values() if told.get("report_refused")), "")
        runs = _runs(_file(args["benchmarks"]) if args["benchmarks"] else cache_dir() / "benchmarks")
        addresses = [str(host_value(hostvars, name, "ansible_host") or name) for name in names]
        return Fleet(
            name=args["name"] or fleet_name(variables.get("ansible_inventory_sources") or []),
            found=found,
            lost=lost,
            benchmarks=of_fleet(runs, [*names, *addresses]),
            refused=refused,
            by=operator(),
            now=time.time(),
        )


def _file(given: str) -> Path:
    """A file of the controller; one that is not absolute is in the directory in which ansible-playbook was started."""
    return Path(os.path.abspath(os.path.expanduser(given)))


def fleet_name(sources: Sequence[str]) -> str:
    """The name of the inventory: its directory, or its file where that stands for itself."""
    if not sources:
        return "fleet"
    path = Path(str(sources[0]).rstrip("/"))
    name = path.parent.name if path.stem == "hosts" and path.parent.name else path.stem
    return name.rstrip(",") or "fleet"


def _lost(told: Mapping[str, Any], alive: bool) -> str:
    """Why a host is lost, empty where it is not."""
    silent = [told.get(variable) for variable in REGISTERED]
    if any(isinstance(one, Mapping) and one.get("unreachable") for one in silent):
        return unreachable(told)
    return "" if alive else str(told.get("fleet_lost") or unreachable(told) or "an earlier stage lost it")


def _told(told: Mapping[str, Any], hostvars: Any, name: str) -> dict[str, Any]:
    """What modules found on one host, and what is described of it."""
    found: dict[str, Any] = {"problems": []}
    for variable, keys in REGISTERED.items():
        result = told.get(variable) or {}
        if not keys.keys() & result.keys():
            found["problems"].append(f"it could not be asked all: {result.get('msg') or 'no message'}")
        found.update({part: result[key] for key, part in keys.items() if key in result})
    found["plan"] = (told.get("fleet_description") or {}).get("plan")
    found["verdict"] = told.get("preflight_verdict")
    found["image"] = str(host_value(hostvars, name, "triton_image_name") or "")
    return found


def _runs(directory: Path) -> list[dict[str, Any]]:
    """The runs that benchmark.yml left; a file that is none of them is left out."""
    found = []
    for path in sorted(directory.glob("*.json")):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            if run["format"] == 1 and run["points"] and run["target"]["model"]:
                found.append(run)
        except (OSError, ValueError, KeyError, TypeError):
            display.warning(f"{path} is no run of benchmark.yml; the report leaves it out.")
    return found
