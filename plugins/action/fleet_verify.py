# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the controller, once for the play: see the documentation of the module of the same name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.module_utils.common.parameters import remove_values
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.trtllm.fleet.plugins.filter.serving import verify_report
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError, sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import missing_client
from ansible_collections.trtllm.fleet.plugins.modules import triton_verify
from ansible_collections.trtllm.fleet.plugins.plugin_utils._clients import OPENAI, TRITON, read_clients
from ansible_collections.trtllm.fleet.plugins.plugin_utils._controller import as_asked, reachable, validated
from ansible_collections.trtllm.fleet.plugins.plugin_utils._verification import (
    URLS,
    Question,
    key_of,
    keys_by_model,
    questions,
    results_of,
)

SSH = "ssh"
# Questions on their way: a question has many requests, most of which wait for the server.
AT_ONCE = 32


def answer(one: Question, ssh: Callable[[str], Any] | None) -> dict[str, Any]:
    """What came of a question. It never raises: what goes wrong stands in the table."""
    hidden: set[str] = set()
    parameters: dict[str, Any] = {}
    given: dict[str, Any] = {}
    try:
        parameters, hidden = validated(triton_verify, one.arguments)
        given = dict(parameters)
        with reachable(parameters, URLS, ssh) as here:
            found: dict[str, Any] = triton_verify.work(here)
    except ImportError as error:
        found = {"failed": True, "msg": missing_client(error)}
    except (FleetError, OSError) as error:
        found = {"failed": True, "msg": sentence(error, "The controller")}
    except AnsibleError as error:
        found = {"failed": True, "msg": str(error)}
    return {"item": dict(one.item), **remove_values(as_asked(found, given, parameters, URLS), hidden)}


class ActionModule(ActionBase):
    """Ask all replicas and gateways of the play's hosts, many at a time."""

    BYPASS_HOST_LOOP = True
    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables, args = task_vars or {}, self._task.args
        self._hostvars, self._known = variables["hostvars"], {}
        everyone = list(variables["ansible_play_hosts_all"])
        gateways = list(args.get("gateway_hosts") or [])
        found = {host: self._found(host) for host in everyone}
        asked = [
            one
            for host in everyone
            for one in questions(host, found[host], self._through(host), self._asks(), keys_by_model(*self._keys(host)))
        ]
        # Worked out before there are threads.
        ssh = {one.host: self._ssh(one.host) for one in asked if one.behind_ssh}
        # Here, in the one worker that asks: what Ansible's main process has read, it copies for each task of each host.
        read_clients(TRITON)
        with ThreadPoolExecutor(min(len(asked), AT_ONCE) + 1) as pool:
            # A gateway is asked last, so its client is read while the first requests wait for Triton.
            pool.submit(read_clients, OPENAI)
            answers = list(pool.map(lambda one: answer(one, ssh.get(one.host)), asked))
        told = {
            host: results_of(
                found[host],
                [answer for one, answer in zip(asked, answers) if one.host == host],
                bool(self._task.check_mode) or self._idle(host, gateways),
            )
            for host in everyone
        }
        result.update(verify_report(told), changed=False)
        return result

    def _found(self, host: str) -> Mapping[str, Any]:
        known = self._hostvars.raw_get(host)
        found = known.get("verify_found")
        if isinstance(found, Mapping) and found.get("skipped"):  # the look at the beginning has told it
            found = (known.get("fleet_settled") or {}).get("found")
        return found if isinstance(found, Mapping) else {}

    def _value(self, host: str, name: str, default: Any = None) -> Any:
        if host not in self._known:
            self._known[host] = self._hostvars[host]
        return self._known[host].get(name, default)

    def _through(self, host: str) -> dict[str, Any]:
        """What is said to the gateways of a host."""
        return {
            "gateway_key": key_of(*self._keys(host)),
            "gateway_tls_verify": self._task.args.get("gateway_tls_verify"),
        }

    def _keys(self, host: str) -> tuple[Any, Any]:
        return self._value(host, "openai_gateway_api_keys"), self._value(host, "openai_gateway_clients")

    def _asks(self) -> dict[str, Any]:
        return {"early_stop_tokens": self._task.args.get("early_stop_tokens")}

    def _idle(self, host: str, gateways: list[str]) -> bool:
        """A host that only builds, or is there for a gateway that nobody wants."""
        return not boolean(self._value(host, "trtllm_serves", True)) or (
            host in gateways and not boolean(self._value(host, "trtllm_gateway", True))
        )

    def _ssh(self, host: str) -> Callable[[str], Any] | None:
        """Looks up options of the ssh connection of a host; None where it is reached otherwise."""
        if str(self._value(host, "ansible_connection", SSH)) not in (SSH, "smart", "ansible.builtin.ssh"):
            return None
        names = C.config.get_plugin_vars("connection", SSH)
        given = {name: value for name in names if (value := self._value(host, name)) is not None}
        given.setdefault("inventory_hostname", host)
        options = C.config.get_plugin_options("connection", SSH, variables=given)
        found: Callable[[str], Any] = options.get
        return found
