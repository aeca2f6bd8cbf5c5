# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters between the plan of a fleet and the jobs of Slurm that serve it. Their documentation is beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._slurm import plan as slurm_plan
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm.script import serving_job
from ansible_collections.trtllm.fleet.plugins.plugin_utils._filters import as_filter_error


def slurm_jobs(
    replicas: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], of_all: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The job of each replica."""
    return [serving_job(replica, settings, of_all) for replica in replicas]


def slurm_engines(
    engines: Sequence[Mapping[str, Any]], gpus_per_node: int, checkpoints: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The engines, each with the nodes that its ranks will be on."""
    return slurm_plan.engines(engines, int(gpus_per_node), checkpoints)


def slurm_repositories(
    repositories: Sequence[Mapping[str, Any]], engines: Sequence[Mapping[str, Any]], release: str
) -> list[dict[str, Any]]:
    """The model repositories, told of the nodes."""
    return slurm_plan.repositories(repositories, engines, str(release))


def slurm_result(item: Mapping[str, Any], submitted: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a replica that serves."""
    return slurm_plan.result(item, submitted, job)


def slurm_serving(plan: Mapping[str, Any], jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The plan with where the jobs serve."""
    return slurm_plan.serving(plan, jobs)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        found = (slurm_jobs, slurm_engines, slurm_repositories, slurm_result, slurm_serving)
        return {work.__name__: as_filter_error(work) for work in found}
