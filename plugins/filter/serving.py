# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that put together what the hosts of a fleet told. Their documentation is beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

from ansible_collections.trtllm.fleet.plugins.module_utils._triton import state, verify
from ansible_collections.trtllm.fleet.plugins.plugin_utils._gateway import gateway_config

UNKNOWN = "the replica was not verified, and nothing says why; run the playbook with -vvv."

UNANSWERED: Sequence[Mapping[str, Any]] = ({"item": {"replica": "-"}, "msg": "the host did not answer"},)


def verify_report(found: Mapping[str, Optional[Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
    """One object for the fleet: ``ok``, ``hosts`` and the lines of a table. A host with None did not answer."""
    hosts: dict[str, Any] = {}
    lines: list[str] = []
    for host, results in sorted(found.items()):
        replicas: dict[str, Any] = {}
        for result in UNANSWERED if results is None else results:
            name = str(result["item"]["replica"])
            checks = list(result.get("checks") or [])
            problem = str(result["item"].get("problem") or ("" if checks else result.get("msg") or UNKNOWN))
            replicas[name] = {"ok": bool(result.get("ok", False)), "checks": checks, "error": problem}
            lines += [f"{host}: {name}", *verify.table([verify.Outcome(**check) for check in checks])]
            lines += [problem] if problem else []
            lines.append("")
        hosts[host] = {"ok": all(replica["ok"] for replica in replicas.values()), "replicas": replicas}
    ok = bool(hosts) and all(host["ok"] for host in hosts.values())
    return {"ok": ok, "hosts": hosts, "table": lines[:-1]}


def status_table(
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    workers: Optional[Mapping[str, Sequence[Mapping[str, Any]]]] = None,
) -> list[str]:
    """One screen for the fleet."""
    each = [{host: [dict(item) for item in items] for host, items in hosts.items()} for hosts in (found, workers or {})]
    return state.status_table(*each)


def gateway_checks(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What to ask the gateways of a host for: the models that none of its replicas serves."""
    served = {replica["model"] for replica in found.get("replicas") or []}
    return [
        {
            "replica": f"gateway, {model}",
            "model": (gateway.get("names") or {}).get(model, model),
            "gateway_url": gateway["url"],
        }
        for gateway in found.get("gateways") or []
        for model in gateway["models"]
        if model not in served
    ]


def gateway_table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The gateways of the fleet and what they front."""
    return state.gateway_table(
        {host: [{**item, "fronts": fronts(item.get("config"))} for item in items] for host, items in found.items()}
    )


def fronts(config: Any) -> dict[str, dict[str, int]]:
    """By model the URLs of its replicas and the weight of each; empty where the configuration does not tell."""
    return {
        model["name"]: {url: (model.get("weights") or {}).get(url, 1) for url in model["urls"]}
        for model in (gateway_config(config) or {"models": []})["models"]
    }


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "gateway_checks": gateway_checks,
            "gateway_table": gateway_table,
            "status_table": status_table,
            "verify_report": verify_report,
        }
