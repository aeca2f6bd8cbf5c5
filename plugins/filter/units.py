# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that turn services described as data into units. Their documentation is beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable

from ansible_collections.trtllm.fleet.plugins.module_utils._triton import gang, serve
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import replica as triton_replica
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.ports import PORTS
from ansible_collections.trtllm.fleet.plugins.plugin_utils._filters import as_filter_error


def triton_services(replicas: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The replicas as services."""
    return triton_replica.triton_services(replicas, settings)


def triton_listen(replicas: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the replicas will listen, after all that can be refused without a host was refused."""
    return [
        {"service": triton_replica.service_name(replica["name"]), **listen}
        for replica in triton_replica.served(replicas, settings)
        for listen in triton_replica.listens(replica)
    ]


def triton_results(
    replicas: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], services: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What other roles need to know of each replica."""
    return {
        str(replica["name"]): {
            "service": triton_replica.service_name(replica["name"]),
            "model": replica["model"],
            "release": str(replica["release"]),
            "entry_models": triton_replica.entry_models(replica),
            "address": replica["address"],
            **triton_replica.api(replica),
            # Its only port is that of its API.
            **({"metrics_url": ""} if serve.is_served(replica) else {}),
            **({"nodes": gang.node_names(replica), "node": replica["node"]} if gang.is_gang(replica) else {}),
            **{key: int(replica[key]) for key, _what in PORTS if not gang.is_worker(replica)},
            # Nobody asks a worker of a replica on several hosts.
            "http_url": "" if gang.is_worker(replica) else triton_replica.http_url(replica),
            **services.get(triton_replica.service_name(replica["name"]), {}),
        }
        for replica in triton_replica.served(replicas, settings)
    }


def triton_gangs(replicas: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What this host would have of each replica that is on several."""
    return triton_replica.gangs(replicas, settings)


def triton_gang_problems(own: Mapping[str, Mapping[str, Any]], told_by: Mapping[str, Any]) -> list[str]:
    """Why replicas on several hosts are not started."""
    problems = (gang.gang_problem(name, one, told_by) for name, one in own.items())
    return [problem for problem in problems if problem]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        found = (triton_services, triton_listen, triton_results, triton_gangs, triton_gang_problems)
        return {work.__name__: as_filter_error(work) for work in found}
