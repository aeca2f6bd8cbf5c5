# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes into the role kubernetes from hosts, and what an operator does with what comes out of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from .._base.errors import FleetError
from .names import SUBDOMAIN, check

# What pods are told of a repository, beside where it is.
TOLD = ("repository_dir", "fingerprint", "entry_models", "worker_models", "mode")


def published(hostvars: Mapping[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By model what the nodes *names* have, by what the roles engine and model_repository recorded in their variables;
    one without that was lost. ``kubernetes_node_name`` is what the cluster calls a node that has another name here.

    Raises `FleetError` where two nodes have another repository or engine of a model: pods are alike.
    """
    found: dict[str, dict[str, Any]] = {}
    first: dict[str, str] = {}
    for host in sorted(names):
        about = hostvars[host]
        repositories, engines = about.get("model_repository_results"), about.get("engine_results") or {}
        if not repositories:
            continue
        node = check(about.get("kubernetes_node_name") or host, SUBDOMAIN, f"kubernetes_node_name of {host}")
        for model, repository in sorted(repositories.items()):
            told = {key: repository[key] for key in TOLD if repository.get(key)}
            if model in engines:  # else the checkpoint itself is served
                told["engine_dir"] = engines[model]["engine_dir"]
            before = found.setdefault(model, {**told, "hosts": []})
            other = first.setdefault(model, host)
            if {key: before.get(key) for key in told} != told:
                raise FleetError(
                    f"{model}: {other} and {host} have made different engines or repositories of it, as for different "
                    "GPUs, but pods are alike; describe the model on one kind of host, or give one of the two another "
                    "name."
                )
            before["hosts"].append(node)
    return found


def steps(results: Mapping[str, Any], namespace: str) -> list[str]:
    """What an operator types to apply what was rendered: the lines of a table."""
    lines = [f"rendered below {results['output']}; to apply it, stage by stage:"]
    for stage in results["stages"]:
        lines.append(f"  kubectl apply --server-side -f {shlex.quote(results['output'] + '/' + stage['file'])}")
        if stage["jobs"]:
            jobs = " ".join(f"job/{name}" for name in stage["jobs"])
            lines.append(f"  kubectl wait --namespace={namespace} --for=condition=complete --timeout=4h {jobs}")
    return lines
