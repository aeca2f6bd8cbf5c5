# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that carry results from one role to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._fleet import fleet_table
from ansible_collections.trtllm.fleet.plugins.module_utils._migrate import Wanted
from ansible_collections.trtllm.fleet.plugins.module_utils._migrate import migration as planned_migration
from ansible_collections.trtllm.fleet.plugins.module_utils._plan import (
    checkpoint_tokens,
    crossing_table,
    image_inputs,
    plan_table,
    replica_inputs,
    repository_inputs,
    results_by_name,
)


def migration(
    plans: dict[str, Any], described: dict[str, Any], fleet: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """What is described of each host in a phase of a migration; or ``refused``, why there is none."""
    given = {key: value for key, value in options.items() if value is not None}
    try:
        serving = {host: described[host] for host, found in plans.items() if found["serves"]}
        return {"refused": "", **planned_migration(plans, serving, fleet, Wanted(**given))}
    except FleetError as error:
        # Told by a task of its own, as descriptions are not shown.
        return {"refused": str(error)}


class FilterModule:
    """Filters of the plan."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "checkpoint_tokens": checkpoint_tokens,
            "crossing_table": crossing_table,
            "image_inputs": image_inputs,
            "results_by_name": results_by_name,
            "map_table": fleet_table,
            "migration": migration,
            "plan_table": plan_table,
            "replica_inputs": replica_inputs,
            "repository_inputs": repository_inputs,
        }
