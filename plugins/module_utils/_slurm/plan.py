# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plan of a fleet becomes where Slurm chooses the nodes: how many each replica takes, and where it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._plan import BACKEND_MODEL, NODES_PARAMETER
from .._release.options import world_size
from .._release.releases import release as release_of
from .._repository.schema import parameters_of
from .._triton.ports import PORTS
from .._triton.replica import http_url
from .._triton.serve import refuse_elsewhere
from .script import layout
from .submit import PORTS_PER_SLOT

Item = dict[str, Any]


def engines(
    items: Sequence[Mapping[str, Any]], gpus_per_node: int, checkpoints: Mapping[str, Mapping[str, Any]]
) -> list[Item]:
    """Each engine of a plan with the number of ``nodes`` that its ranks will be on, of ``gpus`` of each, and the digest
    of its checkpoint where that is known.
    """
    found = []
    for engine in items:
        nodes, tasks = layout(engine["name"], world_size(engine["options"]), gpus_per_node)
        digest = (checkpoints.get(engine["name"]) or {}).get("digest")
        found.append({**engine, "nodes": nodes, "gpus": tasks, "checkpoint_digest": digest})
    return found


def repositories(items: Sequence[Mapping[str, Any]], of: Sequence[Mapping[str, Any]], release: str) -> list[Item]:
    """Each model repository, of which the backend is told of several nodes where its release has a word for it.

    *of*: the engines, from `engines`.
    """
    refuse_elsewhere([{**item, "mode": item.get("layout")} for item in items], "as a job of Slurm")
    nodes = {engine["name"]: int(engine["nodes"]) for engine in of}
    return [_told_of_nodes(item, nodes[item["name"]], release) for item in items]


def _told_of_nodes(item: Mapping[str, Any], nodes: int, release: str) -> Item:
    known = parameters_of(BACKEND_MODEL, release_of(str(item.get("release") or release)).key)
    if nodes < 2 or NODES_PARAMETER not in known:
        return dict(item)
    given = dict(item["parameters"])
    return {
        **item,
        "parameters": {**given, BACKEND_MODEL: {NODES_PARAMETER: nodes, **(given.get(BACKEND_MODEL) or {})}},
    }


def result(item: Mapping[str, Any], submitted: Mapping[str, Any], job: Mapping[str, Any]) -> Item:
    """What is known of a replica that serves: *item* of `serving_job`, what the module said when the job was submitted,
    and the job by now. It has what the gate asks for.
    """
    shift = PORTS_PER_SLOT * int(job["slot"])
    urls = {
        f"{kind}_url": f"http://{job['address']}:{int(item['ports'][f'{kind}_port']) + shift}"
        for kind in ("http", "metrics")
    }
    told = {key: item[key] for key in ("name", "model", "release", "entry_models")}
    how = {key: submitted.get(key, "") for key in ("action", "reason")}
    return {**job, **told, **how, **urls, "service": item["name"]}


def serving(plan: Mapping[str, Any], jobs: Mapping[str, Mapping[str, Any]]) -> Item:
    """The plan with what serves: *jobs* are those of M(trtllm.fleet.slurm_job) whose gate was passed, by replica.

    A replica has the address of its first node and the ports of its job; one without a job is left out, and so is a
    model without replicas.
    """
    replicas = [_served(replica, jobs[replica["name"]]) for replica in plan["replicas"] if replica["name"] in jobs]
    urls = {model["name"]: _urls(replicas, model["name"]) for model in plan["gateway_models"]}
    return {
        **plan,
        "replicas": replicas,
        "gateway_models": [
            {**_without(model, "weights"), "urls": urls[model["name"]], **_weights(model, plan["replicas"], replicas)}
            for model in plan["gateway_models"]
            if urls[model["name"]]
        ],
    }


def _served(replica: Mapping[str, Any], job: Mapping[str, Any]) -> Item:
    ports = {key: int(replica[key]) + PORTS_PER_SLOT * int(job["slot"]) for key, _what in PORTS}
    return {**replica, "address": job["address"], **ports}


def _weights(model: Mapping[str, Any], planned: Sequence[Mapping[str, Any]], served: Sequence[Item]) -> Item:
    """The weights of a model's replicas, which stand at other addresses than planned."""
    given, by_name = model.get("weights") or {}, {replica["name"]: http_url(replica) for replica in planned}
    found = {http_url(replica): given[url] for replica in served if (url := by_name[replica["name"]]) in given}
    return {"weights": found} if found else {}


def _without(item: Mapping[str, Any], key: str) -> Item:
    return {name: value for name, value in item.items() if name != key}


def _urls(replicas: Sequence[Mapping[str, Any]], model: str) -> list[str]:
    return [http_url(replica) for replica in replicas if replica["model"] == model]
