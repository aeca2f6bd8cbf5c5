# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the models of a repository find each other, and the tensors that they pass: Triton's checks before Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._base.errors import FleetError
from .entry import BLS, ENSEMBLE, LLM, POST, PRE, Resolved
from .render import RenderedModel


def check_calls(entries: Sequence[Resolved]) -> None:
    """The models that each BLS calls are there; which those are is upstream's code and three parameters."""
    names = [entry.model_name(model) for entry in entries for model in entry.request.models]
    for entry in entries:
        if BLS not in entry.request.models:
            continue
        bls = entry.model_name(BLS)
        called = {entry.model_name(model): f"the code of {bls}" for model in (PRE, POST)}
        for name in ("tensorrt_llm_model_name", "tensorrt_llm_draft_model_name", "multimodal_encoders_name"):
            value = entry.get(BLS, name)
            if value is not None:
                called[value.text] = f"{name} of {bls}, from {value.source}"
        if entry.get(BLS, "tensorrt_llm_model_name") is None:
            called[entry.model_name(LLM)] = f"the code of {bls}"
        for name, source in called.items():
            if name not in names:
                raise FleetError(
                    f"{bls} calls {name} ({source}), but the repository holds {', '.join(sorted(names))} only; add it "
                    f"to models, or leave {BLS} out."
                )


def check_repository(models: Mapping[str, RenderedModel]) -> None:
    """Raise unless every model finds the models and tensors it uses, with the types that it expects."""
    for model in models.values():
        config = model.document.value
        if config.get("name", model.name) != model.name:
            raise FleetError(
                f"The configuration of {model.name} calls it '{config['name']}'; Triton wants the directory's name. "
                "Give templates as upstream has them."
            )
        for tensor in [*config.get("input", []), *config.get("output", [])]:
            if "name" not in tensor or "data_type" not in tensor:
                raise FleetError(
                    f"A tensor of {model.name} has no name or no data_type; give templates as upstream has them."
                )
    for model in models.values():
        config = model.document.value
        if "ensemble_scheduling" in config or model.kind == ENSEMBLE:
            _check_ensemble(model, models)
        if model.kind == BLS:
            called = model.entry.text(BLS, "tensorrt_llm_model_name") or model.entry.model_name(LLM)
            _check_decoupled(model, models[called])


def _decoupled(model: RenderedModel) -> bool:
    return bool(model.document.value.get("model_transaction_policy", {}).get("decoupled", False))


def _check_decoupled(caller: RenderedModel, called: RenderedModel) -> None:
    if _decoupled(caller) != _decoupled(called):
        words = {True: "decoupled", False: "not decoupled"}
        raise FleetError(
            f"{caller.name} is {words[_decoupled(caller)]} (from its model_transaction_policy) but {called.name}, "
            f"which it calls, is {words[_decoupled(called)]} (from its own); set both with the option streaming."
        )


def _check_ensemble(model: RenderedModel, models: Mapping[str, RenderedModel]) -> None:
    """Triton's own checks of an ensemble, before Triton: names, types, every tensor made once and before its use."""
    config = model.document.value
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    if not steps:
        raise FleetError(f"{model.name} has no steps in ensemble_scheduling; give templates as upstream has them.")
    types = {tensor["name"]: tensor["data_type"] for tensor in config.get("input", [])}
    makers = dict.fromkeys(types, "its input")
    for step in steps:
        called = _called(model, step, models)
        for tensor in _tensors(called, "output").values():
            name = step.get("output_map", {}).get(tensor["name"])
            if name is None:
                continue
            if name in makers:
                raise FleetError(
                    f"The tensor {name} of {model.name} comes from {makers[name]} and from {called.name}; each tensor "
                    "of an ensemble has one source."
                )
            types[name], makers[name] = tensor["data_type"], called.name
        if "model_transaction_policy" in config and _decoupled(model) and not _any_decoupled(steps, models):
            raise FleetError(
                f"{model.name} is decoupled (from its model_transaction_policy), but none of the models it calls is "
                f"({called.name}: decoupled false); set both with the option streaming."
            )
    for step in steps:
        _check_inputs(model, step, models[step["model_name"]], types)
    for tensor in config.get("output", []):
        made = types.get(tensor["name"])
        if made is None:
            raise FleetError(
                f"No step of {model.name} makes its output {tensor['name']}; give templates as upstream has them."
            )
        if made != tensor["data_type"]:
            raise FleetError(
                f"{model.name} declares its output {tensor['name']} as {tensor['data_type']}, but "
                f"{makers[tensor['name']]} makes it as {made}; give both models the same type."
            )


def _any_decoupled(steps: list[dict[str, Any]], models: Mapping[str, RenderedModel]) -> bool:
    return any(_decoupled(models[step["model_name"]]) for step in steps if step["model_name"] in models)


def _called(model: RenderedModel, step: Mapping[str, Any], models: Mapping[str, RenderedModel]) -> RenderedModel:
    """The model of one step, with its maps checked for names that it does not have."""
    name = step.get("model_name", "")
    if name not in models:
        raise FleetError(
            f"{model.name} calls {name} in ensemble_scheduling, but the repository holds {', '.join(sorted(models))} "
            f"only; add it to models, or leave {model.kind} out."
        )
    called = models[name]
    for direction in ("input", "output"):
        known = _tensors(called, direction)
        for tensor in step.get(f"{direction}_map", {}):
            if tensor not in known:
                raise FleetError(
                    f"{model.name} maps the {direction} {tensor} of {name}, which has none of that name; give "
                    "templates of one release."
                )
    own, theirs = model.document.value.get("max_batch_size", 0), called.document.value.get("max_batch_size", 0)
    if own > theirs:
        raise FleetError(
            f"max_batch_size {own} of {model.name} is over max_batch_size {theirs} of {name}, which it calls; Triton "
            "refuses such an ensemble: give both the same triton_max_batch_size."
        )
    return called


def _tensors(model: RenderedModel, direction: str) -> dict[str, dict[str, Any]]:
    return {tensor["name"]: tensor for tensor in model.document.value.get(direction, [])}


def _check_inputs(
    model: RenderedModel, step: Mapping[str, Any], called: RenderedModel, types: Mapping[str, str]
) -> None:  # fmt: skip
    """Every input of a step is fed by a tensor that exists, with the right type, unless it is optional."""
    mapping = step.get("input_map", {})
    for tensor in _tensors(called, "input").values():
        name = mapping.get(tensor["name"])
        if name is None:
            if tensor.get("optional", False):
                continue
            raise FleetError(
                f"{model.name} does not feed the input {tensor['name']} of {called.name}, which is not optional; give "
                "templates of one release."
            )
        if name not in types:
            raise FleetError(
                f"{model.name} feeds {tensor['name']} of {called.name} from {name}, which nothing makes; give "
                "templates of one release."
            )
        if types[name] != tensor["data_type"]:
            raise FleetError(
                f"{model.name} feeds {tensor['name']} of {called.name} ({tensor['data_type']}) from {name} "
                f"({types[name]}); give both models the same type."
            )
