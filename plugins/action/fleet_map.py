# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the controller, once for the play: see the documentation of the module of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError, sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT
from ansible_collections.trtllm.fleet.plugins.module_utils._fleet import ALL, OWN, fleet_map
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway.flavours import GATEWAY
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.gang import node_names
from ansible_collections.trtllm.fleet.plugins.plugin_utils._description import described, host_value, nodes_told
from ansible_collections.trtllm.fleet.plugins.plugin_utils._gateway import gateway_config

# What a user writes about a host, for one that no task of the play has described.
WRITTEN = (
    "trtllm_release", "trtllm_root", "trtllm_triton_address", "trtllm_port_base", "trtllm_max_lost", "trtllm_models",
    "trtllm_gateway_fronts", "trtllm_serves",
)  # fmt: skip


class ActionModule(ActionBase):
    """Put the plans of all hosts together, and what their gateways front."""

    BYPASS_HOST_LOOP = True
    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        fleet = Fleet(task_vars or {}, self._task.args)
        try:
            result.update(fleet_map(fleet.hosts(), fleet.gateways()))
        except (FleetError, OSError) as error:
            raise AnsibleActionFail(sentence(error)) from error
        result["changed"] = False
        return result


class Fleet:
    """What the inventory and the tasks before tell of all hosts."""

    def __init__(self, variables: Mapping[str, Any], args: Mapping[str, Any]) -> None:
        self.hostvars = variables["hostvars"]
        self.alive = set(variables["ansible_play_hosts"])
        self.play = list(variables["ansible_play_hosts_all"])
        self.group = list(args.get("gateway_hosts") or [])
        self.serving_hosts = list(args.get("serving_hosts") or [])
        only_gateways = set(self.group) - set(self.serving_hosts)
        # By name: the order of an inventory depends on which of its sources names a host first.
        self.serving = sorted({*self.serving_hosts, *self.play} - only_gateways)
        self._raw: dict[str, Mapping[str, Any]] = {}

    def hosts(self) -> dict[str, dict[str, Any]]:
        """Every serving host."""
        wide = any(gateway["fronts"] == ALL for gateway in self.gateways().values())
        # Each on its own, none matters to the others.
        found = {name: self._host(name) for name in self.serving if wide or name in self.play}
        # But nodes of one replica do.
        named = [
            node for host in found.values() for replica in host["plan"]["replicas"] for node in node_names(replica)
        ]
        return {**found, **{name: self._host(name) for name in dict.fromkeys(named) if name not in found}}

    def gateways(self) -> dict[str, dict[str, Any]]:
        """Every host with a gateway: those of the group, else all that serve."""
        return {
            name: {
                "asked": name in self.alive and "gateway_config" in self._told(name, "__fleet_held"),
                "fronts": ALL if self.group else str(self._value(name, "trtllm_gateway_fronts", OWN)),
                "flavour": str(self._value(name, "openai_gateway_flavour", GATEWAY)),
                "root": (self._plan(name) or {}).get("root") or str(self._value(name, "trtllm_root", DEFAULT_ROOT)),
                "config": gateway_config(self._told(name, "__fleet_held").get("gateway_config")),
            }
            for name in (self.group or [name for name in self.serving if name in self.play])
            if boolean(self._value(name, "trtllm_gateway", True))
            and (self.group or boolean(self._value(name, "trtllm_serves", True)))
        }

    def _host(self, name: str) -> dict[str, Any]:
        checkpoints, details = self._told(name, "checkpoint_results"), self._told(name, "model_repository_details")
        return {
            "plan": self._plan(name) or self._described(name),
            "planned": name in self.alive,
            "lost": name in self.play and name not in self.alive,
            "reached_at": self._reached_at(name),
            "checkpoints": {model: found.get("digest") for model, found in checkpoints.items()},
            "max_seq_len": {model: found.get("max_seq_len") for model, found in details.items()},
            "tokenizers": self._told(name, "tokenizer_found"),
        }

    def _plan(self, name: str) -> Any:
        """The plan that a task of the play has made of a host."""
        return self._told(name, "fleet_description").get("plan")

    def _described(self, name: str) -> Any:
        """The plan of a host that is not in the play."""
        written = {option: value for option in WRITTEN if (value := self._value(name, option)) is not None}
        asked = {"host": name, "reached_at": self._reached_at(name), "gateway_hosts": self.group}
        nodes = nodes_told(written.get("trtllm_models"), self.hostvars)
        try:
            return described({**written, **asked, "serving_hosts": self.serving_hosts}, nodes)
        except FleetError as error:
            raise FleetError(f"{name}: {error}") from error

    def _reached_at(self, name: str) -> str:
        return str(self._value(name, "ansible_host") or name)

    def _value(self, name: str, variable: str, default: Any = None) -> Any:
        """A variable of a host as its tasks would see it."""
        return host_value(self.hostvars, name, variable, default)

    def _told(self, name: str, variable: str) -> Mapping[str, Any]:
        """What a task has registered for a host; empty where it did not run there, or was skipped."""
        found = self._variables(name).get(variable)
        return found if isinstance(found, Mapping) else {}

    def _variables(self, name: str) -> Mapping[str, Any]:
        if name not in self._raw:
            self._raw[name] = self.hostvars.raw_get(name)
        return self._raw[name]
