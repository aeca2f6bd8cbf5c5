# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that decide in a rollout. Their documentation is beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Callable, Optional

from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.batches import members, slices, too_few
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.history import history_table
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.plan import (
    STARTED,
    SWITCHED,
    drains_left,
    host_from,
    plan,
    rolled_back,
    together,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.summary import gateways, summary
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.verdict import judge
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.gate import expectations
from ansible_collections.trtllm.fleet.plugins.plugin_utils._filters import as_filter_error


def rollout_plan(
    found: Mapping[str, Mapping[str, Any]],
    serial: Any = None,
    min_available: Any = None,
) -> dict[str, Any]:
    """The rollout of the fleet, from what each host would change; or ``refused``, why there is none."""
    hosts = [
        host_from(
            host,
            told["replicas"],
            told.get("unsettled") or [],
            told.get("reasons") or [],
            bool(told.get("builds")),
            told.get("services"),
        )
        for host, told in found.items()
    ]
    try:
        rollout = plan(hosts, serial, min_available)
    except FleetError as error:
        # told by a task of its own: an error of a filter is told inside Ansible's words about the task that asked it
        return {"refused": str(error)}
    return {
        "refused": "",
        "started": rollout.of_kind(STARTED),
        "switched": rollout.of_kind(SWITCHED),
        "stale": rollout.stale(),
        "batches": [list(batch) for batch in rollout.batches],
        "sizes": rollout.sizes(),
        "interrupted": list(rollout.interrupted),
        "together": {host: list(others) for host, others in together(hosts).items()},
        "replicas": {host.name: [replica.service for replica in host.taken_out()] for host in hosts},
        "urls": {host.name: [replica.url for replica in host.taken_out() if replica.url] for host in hosts},
        "table": list(rollout.table),
        "counts": {
            "switched": {host: dict(models) for host, models in rollout.switched.items()},
            "serving": {host: dict(models) for host, models in rollout.serving.items()},
            "at_least": dict(rollout.at_least),
        },
    }


def rollout_too_few(rollout: Mapping[str, Any], batch: Sequence[str], left: Sequence[str]) -> str:
    """Why the batch is not switched, where too few replicas would stay in service by now."""
    counts, gone = rollout["counts"], set(rollout["switched"]) - set(left)
    serving = {host: models for host, models in counts["serving"].items() if host not in gone}
    return too_few([host for host in batch if host not in gone], counts["switched"], serving, counts["at_least"])


def rollout_verdict(
    outcomes: Mapping[str, Optional[str]],
    batch: Sequence[str],
    failed_before: int = 0,
    max_failed: Any = 0,
    together: Optional[Mapping[str, Sequence[str]]] = None,
) -> dict[str, Any]:
    """Whether the rollout goes on after a batch, and what goes back."""
    known = {host: str(outcome) for host, outcome in outcomes.items() if outcome}
    return asdict(judge(list(batch), known, failed_before, max_failed, together))


def rollback_batches(found: Mapping[str, Mapping[str, Any]], serial: Any = 1) -> dict[str, Any]:
    """In which order hosts go back, the sizes of the batches, and by host those that go back together."""
    return rolled_back(found, serial)


def rollout_members(hosts: Sequence[str], serial: Any, placeholder: str = "") -> dict[str, Any]:
    """The members of the batches of a play, and the sizes of the batches."""
    batches = slices(list(hosts), serial if isinstance(serial, list) else [serial], "rollout_gateway_serial")
    return {
        "members": members(batches, placeholder),
        "sizes": [len(batch) + bool(placeholder) for batch in batches] or [1],
    }


def rollout_summary(
    rollout: Mapping[str, Any], identity: str, hosts: Mapping[str, Mapping[str, Any]], check: bool = False
) -> list[str]:
    """Where a rollout stands when it ends, from what it recorded as facts of its hosts."""
    found = {
        host: {name: facts.get(f"rollout_{name}") for name in ("outcome", "seconds", "why")}
        for host, facts in hosts.items()
    }
    fronts = gateways({host: facts.get("rollout_gateway") or {} for host, facts in hosts.items()}, check)
    if check:
        return fronts
    return (
        fronts
        + [""] * bool(fronts)
        + summary(identity, rollout["batches"], rollout["started"], found, rollout["stale"])
    )


def gate_expectations(
    gates: Mapping[str, Mapping[str, Any]], sent: Sequence[Mapping[str, Any]] = ()
) -> dict[str, dict[str, Any]]:
    """The gates of a host, with the answers of before where a model shall give the same."""
    return expectations(gates, {str(one["gate_replica"]["model"]): dict(one.get("answers") or {}) for one in sent})


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        found = (
            rollout_plan, rollout_members, rollout_too_few, rollout_verdict, rollout_summary, rollback_batches,
            gate_expectations, history_table, drains_left,
        )  # fmt: skip
        return {work.__name__: as_filter_error(work) for work in found}
