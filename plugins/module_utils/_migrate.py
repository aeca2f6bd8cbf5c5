# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a fleet goes from engines to trtllm-serve and back, by what is described of each host in each phase.

Pure, on the controller. A phase follows from the inventory and from what the operator asks for alone, so that it can be
run again, by another controller too: nothing else is remembered.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from ._base.errors import FleetError, nearest
from ._base.names import show
from ._base.tables import columns
from ._plan import MOST_WEIGHT
from ._release.releases import FLOW_SERVE, flow_of
from ._release.releases import release as release_of
from ._release.serve import crossing

Item = dict[str, Any]
Found = Mapping[str, Mapping[str, Any]]

# A part of the replicas crosses over and gets a share of the requests; all do; all are as the inventory has them.
TRY, SWITCH, BACK = "try", "switch", "back"
PHASES = (TRY, SWITCH, BACK)
GOES = "goes"
# What the engine alone has of a model.
ENGINE_KEYS = ("flow", "engine_image")
# What of a model the operator writes into the inventory to keep it so.
KEPT_KEYS = ("release", "flow", "image", "engine", "repository")


@dataclass(frozen=True)
class Wanted:
    """What the operator asks for.

    *image*: that of trtllm-serve, its name or what a model says of an image; *hosts*: those that cross over first;
    *models*: those that cross over, all by default; *share*: percent of the requests that trtllm-serve gets meanwhile.
    """

    to: str
    phase: str
    image: Optional[Union[str, Mapping[str, Any]]] = None
    hosts: Sequence[str] = ()
    models: Sequence[str] = ()
    share: Union[int, str] = 10
    same_answers: bool = True


@dataclass
class _Model:
    """One model of the fleet: where Triton serves it, and where trtllm-serve will in this phase."""

    engines: dict[str, Item] = field(default_factory=dict)
    flows: dict[str, str] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)
    crossing: list[str] = field(default_factory=list)


def migration(plans: Found, described: Mapping[str, Sequence[Item]], fleet: Found, wanted: Wanted) -> Item:
    """What is described of each host in this phase (``models``, by host), and a ``table`` of it.

    *plans*: by host, as the inventory has it; *described*: by host its ``trtllm_models``; *fleet*: their map.
    ``write`` has the lines to write into the inventory, so that what crosses over stays so. Raises `FleetError` for
    what cannot be done so.
    """
    _check(plans, described, wanted)
    found = _models(plans, described, wanted)
    image = _image(described, found, wanted)
    weights = _weights(fleet, found, _share(wanted.share)) if wanted.phase == TRY else {}
    crossed: dict[str, list[Item]] = {}
    for host, models in described.items():
        crossed[host] = []
        for model in models:
            name = model["name"]
            if name in found and host in found[name].crossing:
                model = _crossed(model, image, wanted)
            elif name in found and wanted.phase == BACK:
                model = _own_answers(model)
            if name in weights:
                model = _weighed(model, weights[name][host not in found[name].engines or host in found[name].crossing])
            crossed[host].append(model)
    return {"models": crossed, "table": _table(found, weights, wanted), "write": _write(found, crossed, wanted)}


def _check(plans: Found, described: Mapping[str, Sequence[Item]], wanted: Wanted) -> None:
    if wanted.phase not in PHASES:
        raise FleetError(f"migrate_phase is {show(wanted.phase)}; it is one of {', '.join(PHASES)}.")
    flow_of(release_of(wanted.to), FLOW_SERVE)
    names = {model["name"] for models in described.values() for model in models}
    for what, given, known in (("migrate_hosts", wanted.hosts, plans), ("migrate_models", wanted.models, names)):
        if isinstance(given, str):
            listed = json.dumps({what: [given]})
            raise FleetError(f"{what} is {show(given)}; give a list: -e '{listed}'.")
        for name in given:
            if name not in known:
                hint = nearest(name, known) or f"; known are {', '.join(sorted(known))}."
                raise FleetError(f"{what} has {show(name)}, which the inventory does not serve{hint}")
    if wanted.hosts and wanted.phase != TRY:
        raise FleetError(
            f"migrate_hosts names the hosts that cross over first, and the phase {wanted.phase} is of all; leave it "
            f"out, or take migrate_phase={TRY}."
        )
    _share(wanted.share)


def _share(given: Union[int, str]) -> int:
    """The percent that *given* says, with its sign or without."""
    found = re.fullmatch(r"([1-9]\d?)\s*%?", str(given).strip())
    if not found:
        raise FleetError(f"migrate_share is {show(given)}; give the percent of the requests, from 1 to 99.")
    return int(found[1])


def _models(plans: Found, described: Mapping[str, Sequence[Item]], wanted: Wanted) -> dict[str, _Model]:
    found: dict[str, _Model] = {}
    for host, models in described.items():
        for model in models:
            if wanted.models and model["name"] not in wanted.models:
                continue
            one = found.setdefault(model["name"], _Model())
            known = release_of(str(model.get("release") or plans[host]["release"]))
            flow = flow_of(known, model.get("flow"))
            if flow != FLOW_SERVE:
                one.engines[host] = model
                one.flows[host] = flow
            else:
                one.served.append(host)
    found = {name: model for name, model in found.items() if model.engines}
    for one in found.values():
        if wanted.phase == SWITCH:
            one.crossing = list(one.engines)
        elif wanted.phase == TRY:
            one.crossing = [host for host in one.engines if host in wanted.hosts]
    if not found and wanted.phase != BACK:
        raise FleetError("No model of the inventory is served by Triton any more, so there is nothing to migrate.")
    return found


def _image(described: Mapping[str, Sequence[Item]], found: Mapping[str, _Model], wanted: Wanted) -> Item:
    """The image of what crosses over: as given, or that of a model which is of the release already."""
    if wanted.image:
        return {"name": wanted.image} if isinstance(wanted.image, str) else dict(wanted.image)
    known = release_of(wanted.to)
    for model in (one for models in described.values() for one in models):
        if model.get("release") and model.get("image") and release_of(str(model["release"])) == known:
            return dict(model["image"])
    if any(one.crossing for one in found.values()):
        raise FleetError(
            f"No model has an image of TensorRT-LLM {known.version} yet; name it in migrate_image, such as "
            f"nvcr.io/nvidia/tensorrt-llm/release:{known.version}."
        )
    return {}


def _weights(fleet: Found, found: Mapping[str, _Model], share: int) -> dict[str, tuple[int, int]]:
    """By model the weight of a replica with an engine, and of one that is trtllm-serve."""
    weights = {}
    for name, model in found.items():
        on = {
            host: [replica["url"] for replica in values["replicas"] if replica["model"] == name]
            for host, values in fleet["hosts"].items()
        }
        serving = [*model.served, *model.crossing]
        new = sum(len(urls) for host, urls in on.items() if host in serving)
        old = sum(len(urls) for host, urls in on.items() if host not in serving)
        if not new:
            raise FleetError(
                f"{name}: trtllm-serve serves no replica of it in this phase; name hosts that cross over first in "
                "migrate_hosts."
            )
        if not old:
            raise FleetError(
                f"{name}: every host that serves it would cross over, and nothing would be left to compare with; name "
                f"fewer in migrate_hosts, or take migrate_phase={SWITCH}."
            )
        _refuse_narrow(name, fleet, new + old)
        # A share of all new ones together: that of one follows from how many there are of each.
        weights[name] = _least((100 - share) * new, share * old)
    return weights


def _least(old: int, new: int) -> tuple[int, int]:
    """The smallest weights with the same ratio, or nearly so where they would be more than a replica may have."""
    common = math.gcd(old, new)
    old, new = old // common, new // common
    most = max(old, new)
    if most > MOST_WEIGHT:
        old, new = (max(1, round(weight * MOST_WEIGHT / most)) for weight in (old, new))
    return old, new


def _refuse_narrow(name: str, fleet: Found, replicas: int) -> None:
    for gateway, values in fleet["gateways"].items():
        fronted: Sequence[str] = next((model["urls"] for model in values["models"] if model["name"] == name), [])
        if fronted and len(fronted) < replicas:
            raise FleetError(
                f"{name}: the gateway on {gateway} fronts {len(fronted)} of its {replicas} replicas, so that no client "
                "of it would see a share; set trtllm_gateway_fronts: fleet, have gateway_hosts, or take "
                f"migrate_phase={SWITCH}."
            )


def _crossed(model: Item, image: Item, wanted: Wanted) -> Item:
    """The model as trtllm-serve serves it, with the options that it has."""
    known = release_of(wanted.to)
    options = model.get("engine") or {}
    repository = model.get("repository") or {}
    parameters = repository.get("parameters") or {}
    gone = {line["option"] for line in crossing(known, options, parameters) if line["fate"] == GOES}
    left = {key: value for key, value in options.items() if f"engine.{key}" not in gone}
    kept = {
        of: {key: value for key, value in (values or {}).items() if f"repository.parameters.{of}.{key}" not in gone}
        for of, values in parameters.items()
    }
    found = {key: value for key, value in model.items() if key not in ENGINE_KEYS}
    found.update(release=wanted.to, image=image, engine=left)
    if flow_of(known) != FLOW_SERVE:
        found["flow"] = FLOW_SERVE
    if parameters:
        found["repository"] = {**repository, "parameters": {of: values for of, values in kept.items() if values}}
    return _compared(found, wanted)


def _compared(model: Item, wanted: Wanted) -> Item:
    """The model with a gate whose answers must be those that its engine gave."""
    gate = model.get("gate") or {}
    if not wanted.same_answers:
        return _own_answers(model)
    if not gate.get("prompts"):
        raise FleetError(
            f"{model['name']}: its gate has no prompts whose answers could be compared; give it some, see "
            "docs/rollout.md, or pass -e migrate_same_answers=false."
        )
    return {**model, "gate": {**gate, "same_answers": True}}


def _own_answers(model: Item) -> Item:
    """The model with a gate that does not look at what served before: it must be possible to go back in any case."""
    gate = model.get("gate") or {}
    return {**model, "gate": {**gate, "same_answers": False}} if gate.get("same_answers") else model


def _weighed(model: Item, weight: int) -> Item:
    serving = model.get("serving") or {}
    replicas = [
        {key: value for key, value in one.items() if key != "weight"} for one in serving.get("replicas") or [{}]
    ]
    return {**model, "serving": {**serving, "weight": weight, "replicas": replicas}}


def _table(found: Mapping[str, _Model], weights: Mapping[str, tuple[int, int]], wanted: Wanted) -> list[str]:
    """Each model on each host, by what serves it in this phase and which weight that has."""
    rows = [["model", "host", "served by", "weight", ""]]
    for name, model in found.items():
        for host in sorted([*model.engines, *model.served]):
            served = host in model.crossing or host in model.served
            weight = str(weights[name][served]) if name in weights else "-"
            note = f"crosses over to {wanted.to}" if host in model.crossing else ""
            rows.append([name, host, FLOW_SERVE if served else model.flows[host], weight, note])
    return columns(rows)


def _write(found: Mapping[str, _Model], crossed: Mapping[str, Sequence[Item]], wanted: Wanted) -> list[str]:
    """What stands in the inventory once all have crossed over; JSON is YAML."""
    lines: list[str] = []
    for name, model in found.items():
        if wanted.phase != SWITCH or not model.crossing:
            continue
        now = next(one for one in crossed[model.crossing[0]] if one["name"] == name)
        lines += [f"{name}:", *(f"  {key}: {json.dumps(now[key])}" for key in KEPT_KEYS if now.get(key))]
    return ["The next run brings engines back unless the inventory says of these models:", *lines] if lines else []
