# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the plan of a fleet to the objects of a cluster that serves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from .._base.errors import FleetError
from .._base.names import check_image
from .._host.gpu import CDI_KIND
from .._release.serve import BACKEND_MODEL
from .._triton import disaggregated
from .._triton import replica as triton
from .._triton.gang import is_gang
from .._triton.ports import PORTS as PORT_KEYS
from . import jobs
from .around import around, namespace, storage
from .gateway import gateway
from .objects import BUILD, FETCH, SERVE, STAGES, Item, Settings
from .workload import GROUP_SCRIPT, GRPC, HTTP, METRICS, Server, notes_of, servers, urls, workload

# Pods have an address of their own each, and so the same ports.
POD_PORTS = {"http_port": HTTP, "grpc_port": GRPC, "metrics_port": METRICS}
ANY = "0.0.0.0"
# Stand for the pods of a group until they have addresses: of a network that is nobody's (RFC 5737).
NODE, NODE_ADDRESS, MOST_NODES = "node-{}", "192.0.2.{}", 254
Stages = dict[str, list[Item]]


def as_pods(models: Sequence[Any]) -> tuple[list[Any], dict[str, dict[str, str]]]:
    """What a user wrote, for a cluster: of a replica's GPUs and nodes their number counts, not which they are.

    Also what stands for the nodes, as `_description.nodes_told` has them. What has another form is left to be refused.
    """
    found, gpus, most = _copied(models), 0, 0
    for model in found:
        serving = model.get("serving") if isinstance(model, Mapping) else None
        replicas = serving.get("replicas") if isinstance(serving, Mapping) else None
        for replica in replicas if isinstance(replicas, list) else []:
            if not isinstance(replica, dict):
                continue
            if isinstance(replica.get("gpus"), list) and replica["gpus"]:
                _refuse_parts(model, replica["gpus"])
                replica["gpus"] = list(range(gpus, gpus + len(replica["gpus"])))
                gpus += len(replica["gpus"])
            for kind in disaggregated.KINDS:
                given = replica.get(kind)
                for server in given if isinstance(given, list) else []:
                    if isinstance(server, list):
                        _refuse_parts(model, server)
                        server[:] = range(gpus, gpus + len(server))
                        gpus += len(server)
            if isinstance(replica.get("nodes"), list) and replica["nodes"]:
                count = min(len(replica["nodes"]), MOST_NODES)
                replica["nodes"] = [NODE.format(number) for number in range(count)]
                most = max(most, count)
    nodes = {
        NODE.format(number): {"address": NODE_ADDRESS.format(number + 1), "reached_at": NODE.format(number)}
        for number in range(most)
    }
    return found, nodes


def _copied(value: Any) -> Any:
    """A copy of which no part is there twice, as one that several models share would be changed for all of them."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    return value


def _refuse_parts(model: Mapping[str, Any], gpus: Sequence[Any]) -> None:
    for gpu in gpus:
        if str(gpu).removeprefix(f"{CDI_KIND}=") == "all":
            raise FleetError(f"{model.get('name')}: gpus has all; in a cluster a pod gets a number of GPUs, so give a "
                             "list as long as that.")  # fmt: skip


def render(
    plan: Mapping[str, Any],
    given: Mapping[str, Any],
    triton_settings: Mapping[str, Any],
    images: Mapping[str, str],
    published: Optional[Mapping[str, Mapping[str, Any]]] = None,
) -> tuple[Settings, Stages]:
    """The objects by stage, in the order in which they are applied.

    *plan*: of `as_pods`; *given*: the variables of the role kubernetes without their prefix; *triton_settings*: those
    of the role triton, and its ``scripts``; *images*: ``triton``, ``gateway`` and ``fetch``. *published*: by model what
    is on the hosts already (``repository_dir``, ``engine_dir``, ``fingerprint``, ``hosts``, and more that the role
    model_repository returns); without it Jobs make it in the volume.
    """
    root = str(plan["root"])
    names = [str(model["name"]) for model in plan["gateway_models"]]
    settings = Settings.of(given, root, names)
    for what, image in images.items():
        if image or what != "fetch":
            check_image(image, f"The image of {what}")
    _refuse_none(plan["gateway_models"])
    _refuse_weights(plan["gateway_models"])
    stages: Stages = {stage: [] for stage in STAGES}
    first = FETCH if published is None else SERVE
    stages[first] += namespace(settings)
    if published is None:
        stages[FETCH] += storage(settings)
    complete = _complete(plan, triton_settings, images, published)
    fronted: list[Item] = []
    for model in plan["gateway_models"]:
        own = [replica for replica in complete if replica["model"] == model["name"]]
        link, wanted, hosts = "", "", []
        if published is None:
            wanted, made = _jobs(settings, plan, str(model["name"]), images)
            for stage, objects in made.items():
                stages[stage] += objects
            link = jobs.link_of(root, str(model["name"]), wanted)
            own = [{**replica, "repository_dir": link, "engine_dirs": []} for replica in own]
        else:
            wanted = str(published[model["name"]]["fingerprint"])
            hosts = list(published[model["name"]]["hosts"])
        alike = servers(str(model["name"]), own, link, hosts)
        for server in alike:
            notes = notes_of(str(server.replica["release"]), wanted)
            stages[SERVE] += [*workload(settings, server, notes), *around(settings, server)]
        fronted.append(_fronted(settings, plan, model, alike))
    everywhere = sorted(set.intersection(*(set(one["hosts"]) for one in published.values()))) if published else []
    if published is not None and not everywhere:
        raise FleetError("No host has all models, so that none has all that the gateway needs; give one of them all "
                         "models, or let Jobs make them in a volume.")  # fmt: skip
    stages[SERVE] += gateway(settings, str(images["gateway"]), fronted, everywhere)
    return settings, _each_once(stages)


def _refuse_weights(models: Sequence[Mapping[str, Any]]) -> None:
    for model in models:
        if model.get("weights"):
            raise FleetError(
                f"{model['name']}: weight is given, but in a cluster the gateway reaches all replicas of a model as "
                "one Service, which shares evenly; leave weight out, or serve the model on hosts (rollout.yml)."
            )


def _refuse_none(models: Sequence[Mapping[str, Any]]) -> None:
    if not models:
        raise FleetError("trtllm_models describes no model that is served; describe at least one.")


def _complete(
    plan: Mapping[str, Any], settings: Mapping[str, Any], images: Mapping[str, str],
    published: Optional[Mapping[str, Mapping[str, Any]]],
) -> list[Item]:  # fmt: skip
    """Every replica with all its values, as the role triton serves it, and with what a pod makes of them."""
    replicas: list[Item] = []
    for replica in plan["replicas"]:
        own = {key: value for key, value in replica.items() if key not in dict(PORT_KEYS)}
        found = published.get(replica["model"], {}) if published is not None else {}
        told = {
            key: found[key] for key in ("repository_dir", "entry_models", "worker_models", "mode") if found.get(key)
        }
        if found:
            told["engine_dirs"] = [found["engine_dir"]] if found.get("engine_dir") else []
        replicas.append({"release": plan["release"], "image": images["triton"], **own, **told, **POD_PORTS,
                         "address": ANY})  # fmt: skip
    shared = {**settings, "release": plan["release"], "image": images["triton"]}
    # Ports are of each pod, but a host would have each once.
    done = [triton.served([replica], shared)[0] for replica in replicas]
    script = str(settings["scripts"].get(GROUP_SCRIPT, ""))
    for replica in done:
        scripts = {name: text for name, text in replica["scripts"].items() if name != GROUP_SCRIPT}
        replica["scripts"] = {**scripts, GROUP_SCRIPT: script} if is_gang(replica) else scripts
    return done


def _jobs(
    settings: Settings, plan: Mapping[str, Any], name: str, images: Mapping[str, str]
) -> tuple[str, dict[str, list[Item]]]:  # fmt: skip
    """(what is asked for, the Jobs by stage) of one model."""
    checkpoint, repository = (
        next(item for item in plan[part] if item["name"] == name) for part in ("checkpoints", "repositories")
    )
    serves = str(repository.get("image") or images["triton"])
    if checkpoint["source"] != "path" and not images["fetch"]:
        raise FleetError(f"{name}: its checkpoint is downloaded, and no image that downloads is named; give "
                         "checkpoint_image_name with the registry that nodes reach.")  # fmt: skip
    fetch = jobs.fetch(settings, checkpoint, str(images["fetch"]))
    engine = next((item for item in plan["engines"] if item["name"] == name), None)
    if engine is None:
        release = str(repository.get("release") or plan["release"])
        wanted = jobs.repository_fingerprint(checkpoint, {**repository, "release": release}, serves)
        return wanted, {FETCH: fetch, BUILD: jobs.render(settings, repository, wanted, serves, release)}
    builds = str(engine.get("image") or serves)
    release = str(engine.get("release") or plan["release"])
    product = settings.models[name].gpu_product
    wanted = jobs.request_fingerprint(checkpoint, {**engine, "release": release}, repository, builds, serves, product)
    if not product and engine["gpus"] and not settings.models[name].node_selector:
        raise FleetError(
            f"{name}: an engine is of one kind of GPU, and neither kubernetes_gpu_product nor a node_selector says "
            "which nodes have it; give the label nvidia.com/gpu.product that they have."
        )
    return wanted, {FETCH: fetch, BUILD: jobs.build(settings, engine, repository, wanted, builds, release, {})}


def _fronted(settings: Settings, plan: Mapping[str, Any], model: Mapping[str, Any], alike: Sequence[Server]) -> Item:
    """One model of the gateway's configuration."""
    engine = next((item for item in plan["engines"] if item["name"] == model["name"]), None)
    repository = next(item for item in plan["repositories"] if item["name"] == model["name"])
    found: Item = {
        "name": model["name"],
        "entry_model": model["entry_model"],
        "tokenizer_dir": model["tokenizer_dir"],
        "release": str(model.get("release") or plan["release"]),
        "urls": [url for server in alike for url in urls(settings, server)],
    }
    length = (engine["options"] if engine else repository["parameters"][BACKEND_MODEL]).get("max_seq_len")
    return {**found, **({"max_seq_len": int(length)} if length else {})}


def _each_once(stages: Stages) -> Stages:
    """Jobs share their code, and servers their scripts."""
    seen: set[tuple[str, str]] = set()
    found: Stages = {}
    for stage in STAGES:
        found[stage] = []
        for one in stages[stage]:
            key = (str(one["kind"]), str(one["metadata"]["name"]))
            if key not in seen:
                seen.add(key)
                found[stage].append(one)
    return found
