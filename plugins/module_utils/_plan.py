# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a user writes (``trtllm_models``) to what each role has to do on one host.

Everything here runs on the controller and is pure: the same description
gives the same plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from ._base.errors import FleetError, nearest
from ._base.names import MODEL_NAME, check_absolute, check_image, check_name, check_path, check_paths
from ._base.tables import columns
from ._hub.request import CONSENTS, SECRETS, TAKEN, request_of
from ._release.limits import check_options
from ._release.options import ENGINE_OPTIONS, RANKS, world_size
from ._release.releases import FLOW_ENGINE, FLOW_LLMAPI, FLOW_SERVE, flow_of
from ._release.releases import release as release_of
from ._release.serve import crossing, kind_configs, serve_config
from ._repository.schema import parameters_of
from ._triton import disaggregated
from ._triton import options as replica_options
from ._triton.gang import (
    GANG_PORT,
    PORTS_PER_GANG,
    check_gang,
    is_gang,
    is_worker,
    node_names,
    own_ranks,
    ranks_per_node,
)
from ._triton.gate import parse_gate
from ._triton.ports import PORTS
from ._triton.replica import complete, gpu_name, http_url, same_gpu

Spec = Mapping[str, Mapping[str, Any]]
Item = dict[str, Any]

# What a replica takes over from what the role model_repository returned.
FROM_REPOSITORY = ("repository_dir", "fingerprint", "entry_models", "worker_models", "mode")
# What the roles of a host take, in the order of the run; a host that is only a gateway has nothing of them.
PARTS = ("checkpoints", "engines", "repositories", "replicas", "gateway_models")
# What a host that only builds has nothing of.
SERVING_PARTS = ("repositories", "replicas", "gateway_models")
# What a model may have of its own, and a replica may not.
OWN_KEYS = ("release", "image", "mode")
# The images that a model may have of its own: what serves it, and builds its engine where the other one is not given.
MODEL_IMAGES = ("image", "engine_image")
# What of its image is a path of the host.
IMAGE_PATHS = ("context", "containerfile", "authfile")
REPLICA_SPEC = replica_options.argument_spec()
# How a replica of a flow that loads checkpoints runs. In Triton the model starts its ranks, and not mpirun.
CHECKPOINT_MODES: dict[str, Item] = {
    FLOW_SERVE: {"mode": FLOW_SERVE},
    FLOW_LLMAPI: {"mode": FLOW_LLMAPI, "world_size": 1},
}
# How the backend is told how many hosts its ranks are on.
BACKEND_MODEL, NODES_PARAMETER = "tensorrt_llm", "num_nodes"
# More keys than these are not listed in a sentence.
LISTED_KEYS = 12
# A replica gets at most so many requests for each one that another gets.
MOST_WEIGHT = 1000


def refuse_unknown_keys(value: Any, spec: Spec, path: str = "", listed_in: str = "docs/reference.md") -> None:
    """Raise `FleetError` for the first key of *value* that *spec* does not have, at any depth.

    *spec* has the form of ``options`` in a role's argument_specs, and may say in ``listed_in`` beside the options of
    a dictionary where a long list of them stands. Types are not judged here.
    """
    if not isinstance(value, Mapping):
        return
    for key, item in value.items():
        at = f"{path}.{key}" if path else str(key)
        if key not in spec:
            short = len(spec) <= LISTED_KEYS
            known = ", ".join(sorted(spec)) if short else f"the {len(spec)} keys that {listed_in} lists"
            raise FleetError(f"{at} is not an option{nearest(str(key), spec) or f'; known there: {known}.'}")
        inner = spec[key].get("options")
        if inner is None:
            continue
        elements = item if isinstance(item, list) else [item]
        for index, element in enumerate(elements):
            where = f"{at}[{index}]" if isinstance(item, list) else at
            refuse_unknown_keys(element, inner, where, spec[key].get("listed_in", listed_in))


def plan(description: Mapping[str, Any]) -> dict[str, Any]:
    """Derive the inputs of all roles for one host.

    *description* holds ``trtllm_release``, ``trtllm_root``, ``trtllm_triton_address``, ``trtllm_port_base``
    and ``trtllm_models``, already validated against the role's argument_specs, with defaults filled in, and
    ``held_ports`` and ``held_gpus``: what replicas have on the host by now, which stays theirs. ``serves`` is false for
    a host that is only a gateway, ``trtllm_serves`` for one that only builds. ``host`` is the host's name,
    ``serving_hosts`` all that serve, and ``node_addresses`` where those are reached that are nodes of one replica.
    Raises `FleetError` where models contradict each other or themselves.
    """
    root = check_path(description["trtllm_root"], "trtllm_root").rstrip("/")
    if not description.get("serves", True):
        lists: dict[str, Any] = {part: [] for part in ("images", *PARTS)}
        nothing: dict[str, Any] = {"serves": False, "shared_image": False, "gates": {}, **lists}
        return {"release": str(description["trtllm_release"]), "root": root, **nothing}
    models = list(description["trtllm_models"])
    _check_names(models)
    for model in models:
        if not model["serving"]["replicas"]:
            raise FleetError(
                f"{model['name']}: serving.replicas is empty; describe at least one, or leave serving out for one."
            )
        check_paths(ENGINE_OPTIONS, model["engine"], f"{model['name']}: engine.")
    _check_engines(models)
    for model in models:
        parse_gate(model.get("gate") or {}, f"{model['name']}: gate")
        _check_weights(model)
    release = str(description["trtllm_release"])
    own = {model["name"]: _own(model, release) for model in models}
    models = _of_host(models, description)
    own = {model["name"]: own[model["name"]] for model in models}
    flows = {model["name"]: _flow(model, own[model["name"]].get("release") or release) for model in models}
    replicas = complete(
        _described(models, description.get("held_gpus") or {}),
        {"address": str(description["trtllm_triton_address"])},
        int(description["trtllm_port_base"]),
        description.get("held_ports"),
    )
    first = {replica["model"]: replica for replica in reversed(replicas)}
    checkpoints = [_checkpoint(model["name"], model["checkpoint"]) for model in models]
    directories = {item["name"]: _checkpoint_dir(item, root) for item in checkpoints}
    found = {
        "release": str(description["trtllm_release"]),
        "root": root,
        "serves": True,
        "images": _images(models, str(description["trtllm_release"])),
        "shared_image": any("image" not in found for found in own.values()),
        "checkpoints": checkpoints,
        "engines": [
            {
                "name": model["name"],
                "checkpoint": directories[model["name"]],
                "gpus": first[model["name"]]["gpus"],
                **_spread([replica for replica in replicas if replica["model"] == model["name"]], description),
                "options": {option: value for option, value in model["engine"].items() if value is not None},
                **own[model["name"]],
                **({"image": str(model["engine_image"]["name"])} if model.get("engine_image") else {}),
            }
            for model in models
            if flows[model["name"]] == FLOW_ENGINE
        ],
        "repositories": [
            {
                "name": model["name"],
                "checkpoint": directories[model["name"]],
                "streaming": model["serving"]["streaming"],
                "parameters": _parameters(
                    model, flows[model["name"]], first[model["name"]], own[model["name"]].get("release") or release
                ),
                **({"layout": flows[model["name"]]} if flows[model["name"]] != FLOW_ENGINE else {}),
                **own[model["name"]],
            }
            for model in models
        ],
        "gates": {model["name"]: model["gate"] for model in models if model.get("gate")},
        "replicas": [
            {
                **replica,
                "checkpoint_dirs": [directories[replica["model"]]],
                **CHECKPOINT_MODES.get(flows[replica["model"]], {}),
                **own[replica["model"]],
            }
            for replica in replicas
        ],
        "gateway_models": [
            {
                "name": model["name"],
                "entry_model": model["serving"]["entry_model"],
                "tokenizer_dir": directories[model["name"]],
                "urls": [
                    http_url(replica)
                    for replica in replicas
                    if replica["model"] == model["name"] and not is_worker(replica)
                ],
                **_weights(model, replicas),
                **{key: value for key, value in own[model["name"]].items() if key == "release"},
            }
            for model in models
        ],
    }
    if not description.get("trtllm_serves", True):
        found.update({part: [] for part in SERVING_PARTS}, gates={})
    return found


def nodes_named(models: Any) -> list[str]:
    """The hosts that models of a description, which is not validated yet, name as nodes of their replicas."""
    found: list[str] = []
    for model in models if isinstance(models, list) else []:
        serving = model.get("serving") if isinstance(model, Mapping) else None
        replicas = serving.get("replicas") if isinstance(serving, Mapping) else None
        for replica in replicas if isinstance(replicas, list) else []:
            nodes = replica.get("nodes") if isinstance(replica, Mapping) else None
            found += [str(node) for node in nodes] if isinstance(nodes, list) else []
    return list(dict.fromkeys(found))


def _of_host(models: list[Item], description: Mapping[str, Any]) -> list[Item]:
    """The models of which a replica is on this host, each with its replicas here: ``index`` and, where they are on
    several hosts, ``nodes`` with their addresses, ``node`` and ``gang_port``.
    """
    host, serving = str(description.get("host") or ""), description.get("serving_hosts") or []
    addresses = description.get("node_addresses") or {}
    found = []
    for model in models:
        here = []
        for index, replica in enumerate(model["serving"]["replicas"]):
            named = [str(node) for node in replica.get("nodes") or []]
            for node in named:
                _check_node(f"{model['name']}-{index}", node, serving, addresses)
            if not named:
                here.append({**replica, "index": index})
            elif host in named or not description.get("trtllm_serves", True):
                # A host that only builds makes the engine as a node would.
                place = named.index(host) if host in named else 0
                nodes = [{"name": name, "address": addresses[name]} for name in named]
                port = replica.get("gang_port") or GANG_PORT + PORTS_PER_GANG * index
                here.append({**replica, "index": index, "nodes": nodes, "node": place, "gang_port": port})
        sizes = {len(replica.get("nodes") or []) for replica in here}
        if len(sizes) > 1:
            raise FleetError(
                f"{model['name']}: its replicas on {host} are on different numbers of hosts, but share one engine; "
                "give the second a model of its own."
            )
        if here:
            found.append({**model, "serving": {**model["serving"], "replicas": here}})
    if not found:
        raise FleetError(
            f"{host} is no node of any replica that trtllm_models describes for it; name it in nodes, or leave this "
            "host out of the group."
        )
    return found


def _spread(replicas: list[Item], description: Mapping[str, Any]) -> Item:
    """Of an engine whose ranks are on several hosts: how many, and the ranks of this one. A builder needs all."""
    if not is_gang(replicas[0]):
        return {}
    nodes = {"nodes": len(replicas[0]["nodes"])}
    if not description.get("trtllm_serves", True):
        return nodes
    return {**nodes, "ranks": sorted({rank for replica in replicas for rank in own_ranks(replica)})}


def _check_node(replica: str, node: str, serving: list[str], addresses: Mapping[str, str]) -> None:
    if node not in addresses or (serving and node not in serving):
        hint = nearest(node, serving) or "; name hosts of the inventory that serve."
        raise FleetError(f"{replica}: nodes has {node}, which is no host that serves{hint}")


def _flow(model: Item, release: str) -> str:
    """How the model is served; raises `FleetError` for what its release has not, or nothing here can serve."""
    name, known = model["name"], release_of(release)
    try:
        flow = flow_of(known, model.get("flow"))
        if flow != FLOW_ENGINE:
            serve_config(known, model["engine"], model["repository"]["parameters"], model.get("llm_args") or {}, flow)
        elif model.get("llm_args"):
            raise FleetError(
                f"llm_args is for the flows {FLOW_SERVE} and {FLOW_LLMAPI}, and flow is {flow}; leave llm_args out, or "
                "set flow."
            )
    except FleetError as error:
        raise FleetError(f"{name}: {error}") from error
    two = any(disaggregated.is_disaggregated(replica) for replica in model["serving"]["replicas"])
    if two and flow != FLOW_SERVE:
        raise FleetError(
            f"{name}: serving.replicas has context and generation servers, which flow {flow} has not; set flow: "
            f"{FLOW_SERVE} and a release that has it, or give gpus in the place of both."
        )
    if flow != FLOW_ENGINE:
        if any(replica.get("nodes") for replica in model["serving"]["replicas"]):
            raise FleetError(
                f"{name}: serving.replicas has nodes, but flow {flow} runs on one host here; leave nodes out, or take "
                f"flow {FLOW_ENGINE} and a release that has it."
            )
        if model.get("engine_image"):
            raise FleetError(f"{name}: engine_image builds engines, and flow {flow} has none; leave it out.")
    return flow


def _check_weights(model: Item) -> None:
    given = {"serving.weight": model["serving"].get("weight")}
    for index, replica in enumerate(model["serving"]["replicas"]):
        given[f"serving.replicas[{index}].weight"] = replica.get("weight")
    for where, weight in given.items():
        if weight is not None and not 0 <= weight <= MOST_WEIGHT:
            raise FleetError(f"{model['name']}: {where} is {weight}; give a whole number from 0 to {MOST_WEIGHT}.")


def _weights(model: Item, replicas: list[Item]) -> Item:
    """By address the replicas that get more or fewer requests than one of weight 1."""
    given = {
        f"{model['name']}-{replica['index']}": model["serving"].get("weight")
        if replica.get("weight") is None
        else replica["weight"]
        for replica in model["serving"]["replicas"]
    }
    found = {
        http_url(replica): weight
        for replica in replicas
        if replica["model"] == model["name"] and not is_worker(replica)
        for weight in [given[replica["name"]]]
        if weight not in (None, 1)
    }
    return {"weights": found} if found else {}


def _parameters(model: Item, flow: str, replica: Item, release: str) -> dict[str, Any]:
    """What is asked of the model repository; the backend is told of several hosts where its release has a word."""
    if flow != FLOW_ENGINE:
        parameters = model["repository"]["parameters"]
        config = serve_config(release_of(release), model["engine"], parameters, model.get("llm_args") or {}, flow)
        two = any(disaggregated.is_disaggregated(one) for one in model["serving"]["replicas"])
        return {BACKEND_MODEL: config, **(kind_configs(release_of(release), config) if two else {})}
    given: dict[str, Any] = dict(model["repository"]["parameters"])
    if is_gang(replica) and NODES_PARAMETER in parameters_of(BACKEND_MODEL, release_of(release).key):
        given[BACKEND_MODEL] = {NODES_PARAMETER: len(replica["nodes"]), **(given.get(BACKEND_MODEL) or {})}
    return given


def _own(model: Item, release: str) -> dict[str, str]:
    """The release and the image (its name) of a model that has its own; what it has not is the fleet's."""
    name, own = model["name"], {}
    if model.get("release"):
        release_of(str(model["release"]))  # refuses one that is not known
        own["release"] = str(model["release"])
    for which in MODEL_IMAGES:
        if model.get(which):
            check_image(model[which]["name"], f"{name}: {which}.name")
        for key in _paths_of(model.get(which) or {}):
            check_absolute(model[which][key], f"{name}: {which}.{key}")
    if model.get("image"):
        own["image"] = str(model["image"]["name"])
    elif own and release_of(own["release"]) != release_of(release):
        raise FleetError(
            f"{name}: release is {own['release']}, but its image is that of trtllm_release, {release}; give the "
            "image of its release as image.name."
        )
    for index, replica in enumerate(model["serving"]["replicas"]):
        given = replica.get("options") or {}
        check_paths(REPLICA_SPEC, given, f"{name}: serving.replicas[{index}].options.")
        for key in OWN_KEYS:
            if given.get(key) is not None:
                raise FleetError(
                    f"{name}: serving.replicas[{index}].options.{key} is of the whole model; give the model its {key}."
                )
    return own


def _paths_of(image: Item) -> list[str]:
    """The keys whose values are paths of the host: what is of the controller, or an archive's URL, is none."""
    remote = image.get("archive_location") == "controller" or "://" in (image.get("archive") or "")
    sent = ["authfile"] if image.get("context_location") == "controller" else [*IMAGE_PATHS]
    return [key for key in (*sent, *([] if remote else ["archive"])) if image.get(key) is not None]


def _images(models: list[Item], release: str) -> list[Item]:
    """The images of models that have their own, each once, with the release that it is of."""
    found: dict[str, tuple[str, Item]] = {}
    for model, given in ((model, model[which]) for model in models for which in MODEL_IMAGES if model.get(which)):
        image = {key: value for key, value in given.items() if value is not None}
        image["release"] = str(model.get("release") or release)
        other, seen = found.setdefault(image["name"], (model["name"], image))
        if seen != image:
            raise FleetError(
                f"{model['name']} and {other} name the image {image['name']}, but differ in how it is brought; say the "
                "same of it in both."
            )
    return [image for _model, image in found.values()]


def _check_names(models: list[Item]) -> None:
    if not models:
        raise FleetError("trtllm_models is empty; describe at least one model, or leave this host out of the group.")
    seen: set[str] = set()
    for index, model in enumerate(models):
        name = check_name(model["name"], f"trtllm_models[{index}].name", MODEL_NAME)
        if name in seen:
            raise FleetError(f"trtllm_models[{index}].name {name!r} is given twice; give each model its own name.")
        seen.add(name)


def _check_engines(models: list[Item]) -> None:
    for model in models:
        try:
            check_options(model["engine"])
        except FleetError as error:
            raise FleetError(f"{model['name']}: engine.{error}") from error


def _checkpoint(name: str, given: Item) -> Item:
    """What the role checkpoint takes, without what was not given and without the token: a plan is shown."""
    found = {key: value for key, value in given.items() if value not in (None, []) and key != "token"}
    where = f"{name}: checkpoint."
    for option in ("cache", "token_file"):
        if given.get(option) is not None:
            check_absolute(given[option], f"{where}{option}")
    if found["source"] == "path":
        for option in (*SECRETS, *CONSENTS, *TAKEN):
            if given.get(option):
                raise FleetError(f"{where}{option} is given, but source path takes path, location and in_place.")
        if not found.get("path"):
            raise FleetError(f"{where}path is missing; give the directory that holds the checkpoint, or a source.")
        return {"name": name, "location": "controller", **{k: v for k, v in found.items() if k not in CONSENTS}}
    if found.get("path") or found.get("in_place"):
        raise FleetError(f"{where}path and in_place belong to source path; leave them out for {found['source']}.")
    if given.get("token") and found.get("token_file"):
        raise FleetError(f"{where}token and token_file are both given; give one of them.")
    request_of(given, where)
    found.pop("in_place", None)
    return {"name": name, "location": "host", **found}


def _checkpoint_dir(item: Item, root: str) -> str:
    if item["source"] != "path":
        return f"{root}/checkpoints/{item['name']}"
    if item["location"] == "host":
        check_absolute(item["path"], f"{item['name']}: checkpoint.path")
    if item.get("in_place"):
        if item["location"] != "host":
            raise FleetError(
                f"{item['name']}: checkpoint.in_place needs a directory of the host, but checkpoint.location is "
                f"{item['location']!r}; set location: host, or leave in_place out."
            )
        return str(item["path"])
    return f"{root}/checkpoints/{item['name']}"


def _described(models: list[Item], held: Mapping[str, list[str]]) -> list[Item]:
    """The replicas of the host with their GPUs; the ports that are not given are left to `complete`."""
    given = [
        {
            "name": f"{model['name']}-{replica['index']}",
            "model": model["name"],
            "world_size": world_size(model["engine"]),
            **{key: value for key, value in replica.items() if key not in ("options", "index", "weight")},
            **{key: value for key, value in (replica.get("options") or {}).items() if value is not None},
        }
        for model in models
        for replica in model["serving"]["replicas"]
    ]
    for replica in given:
        if disaggregated.is_disaggregated(replica):
            disaggregated.check(replica, replica["world_size"])
            replica["gpus"] = disaggregated.gpus(replica)
            replica["world_size"] = len(replica["gpus"]) or 1
    claimed = [gpu for replica in given for gpu in replica.get("gpus") or []]
    for replica in given:
        if is_gang(replica):
            check_gang(replica)
        if replica.get("gpus") is None:
            replica["gpus"] = _kept_gpus(held.get(replica["name"], []), ranks_per_node(replica), claimed)
    for replica in given:
        replica["gpus"] = _gpus(replica, claimed)
    return given


def _kept_gpus(own: list[str], ranks: int, claimed: list[Any]) -> list[int] | None:
    """The indices that a replica has by now, unless it needs another number of them or one was given away."""
    kept = [int(gpu) for gpu in own if gpu.isdigit()]
    if not len(kept) == len(own) == ranks or any(same_gpu(gpu, other) for gpu in kept for other in claimed):
        return None
    claimed += kept
    return kept


def _gpus(replica: Item, claimed: list[Any]) -> list[Any]:
    """The GPUs of one replica on this host: those given, else the lowest indices that no replica claims."""
    given, ranks = replica.get("gpus"), ranks_per_node(replica)
    if given is None:
        # Where one replica has all of them, no index is free, and it is refused with the others given twice.
        named = [gpu for gpu in claimed if gpu_name(gpu) != "all"]
        free = (index for index in itertools.count() if not any(same_gpu(index, gpu) for gpu in named))
        chosen = list(itertools.islice(free, ranks))
        claimed += chosen
        return chosen
    if given and len(given) != ranks:
        listed = ", ".join(str(gpu) for gpu in given)
        name = replica["name"]
        if is_gang(replica):
            nodes = len(replica["nodes"])
            raise FleetError(
                f"{name}: the engine has {replica['world_size']} ranks (tp_size * pp_size * cp_size), {ranks} on each "
                f"of {nodes} nodes, but serving.replicas gives each {len(given)} GPU{'s' if len(given) != 1 else ''} "
                f"({listed}); give each {ranks}, or build the engine for {nodes * len(given)}."
            )
        raise FleetError(
            f"{name}: the engine has {ranks} ranks (tp_size * pp_size * cp_size) but serving.replicas gives it "
            f"{len(given)} GPU{'s' if len(given) != 1 else ''} ({listed}); give it {ranks}, or build the engine for "
            f"{len(given)}."
        )
    return list(given)


def checkpoint_tokens(models: list[Item]) -> dict[str, str]:
    """The tokens of the models' checkpoints, by name of the model."""
    found = {model.get("name", ""): (model.get("checkpoint") or {}).get("token") for model in models}
    return {name: token for name, token in found.items() if token}


def results_by_name(results: list[Item], keys: list[str]) -> dict[str, Item]:
    """From the results of a loop over named items to ``{name: {key: value}}`` for the given *keys*."""
    return {result["item"]["name"]: {key: result.get(key) for key in keys} for result in results}


def image_inputs(items: list[Item], images: Mapping[str, str]) -> list[Item]:
    """Each item with a reference to the image of its own in place of the name, where it has one."""
    return [{**item, "image": images[item["image"]]} if item.get("image") else item for item in items]


def _made(engines: Mapping[str, Mapping[str, Any]], model: str, key: str) -> Item:
    """What the engine of *model* says of itself; nothing where it is served without one."""
    return {key: engines[model][key]} if model in engines else {}


def repository_inputs(repositories: list[Item], engines: Mapping[str, Mapping[str, Any]]) -> list[Item]:
    """Each model repository with the engine that its model has by now (null in check mode, before the first build)."""
    return [{**item, **_made(engines, item["name"], "engine_dir")} for item in repositories]


def replica_inputs(
    replicas: list[Item], repositories: Mapping[str, Mapping[str, Any]], engines: Mapping[str, Mapping[str, Any]]
) -> list[Item]:
    """Each replica with the repository and the engine that its model has by now."""
    return [
        {
            **replica,
            **{key: value for key, value in repositories[replica["model"]].items() if key in FROM_REPOSITORY and value},
            "engine_dirs": list(_made(engines, replica["model"], "engine_dir").values()),
        }
        for replica in replicas
    ]


def plan_table(plans: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Each replica of the fleet with its GPUs and ports: the lines of a table, from the plan of each host."""
    rows = [["host", "replica", "gpus", *(key.replace("_", " ") for key, _what in PORTS)]]
    for host, found in sorted(plans.items()):
        for replica in found["replicas"]:
            gpus = ",".join(str(gpu) for gpu in replica["gpus"]) or "-"
            shown = f"{replica['name']} on {', '.join(node_names(replica))}" if is_gang(replica) else replica["name"]
            rows.append([host, shown, gpus, *(str(replica.get(key, "-")) for key, _what in PORTS)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def crossing_table(plans: Mapping[str, Mapping[str, Any]], release: str) -> list[str]:
    """What becomes of the options of each model where trtllm-serve of *release* serves it instead of an engine.

    The lines of a table, from the plan of each host; models that are served so already have none. Raises `FleetError`
    for a release whose trtllm-serve is not known.
    """
    known = release_of(release)
    flow_of(known, FLOW_SERVE)
    rows = [["model", "option", "value", "fate", "becomes"]]
    for _host, found in sorted(plans.items()):
        parameters = {item["name"]: item["parameters"] for item in found["repositories"]}
        for engine in found["engines"]:
            options = {name: value for name, value in engine["options"].items() if name not in RANKS or value != 1}
            for line in crossing(known, options, parameters.get(engine["name"]) or {}):
                row = [engine["name"], *(line[key] for key in ("option", "value", "fate", "becomes"))]
                rows += [row] if row not in rows else []
    return columns(rows)
