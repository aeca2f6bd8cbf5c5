# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From templates and resolved values to the files of a model repository, and the checks of the result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._model_repository_resolve import (
    BLS,
    ENSEMBLE,
    LLM,
    POST,
    PRE,
    Resolved,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._model_repository_templates import CONFIG, ModelTemplate
from ansible_collections.trtllm.fleet.plugins.module_utils._pbtxt import (
    COMMENT,
    SCALAR,
    Document,
    PbtxtError,
    fill,
    parse,
    placeholders,
    quote,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._release import Release
from ansible_collections.trtllm.fleet.plugins.module_utils._template_schema import parameters_of

# Every model needs a version directory, the ensemble an empty one.
VERSION = "1"


@dataclass
class RenderedModel:
    """One model of the repository: its configuration, and its other files by path below its directory."""

    name: str
    kind: str
    entry: Resolved
    config: str
    document: Document
    files: dict[str, bytes] = field(default_factory=dict)


def render_model(rel: Release, entry: Resolved, template: ModelTemplate) -> RenderedModel:
    """Fill and name one model.

    An unset parameter inside a string keeps its ``${name}``: that is what "unspecified" is to upstream. Its Python
    models read a value that starts with ``${`` as absent, its C++ backend fails to convert it and takes the
    default; an empty string would be a value to some of both (a path, for one). Outside a string nothing may stay.
    """
    kind = template.name
    values = _placeholder_values(rel, entry, template)
    text = fill(template.config, values)
    _refuse_unfilled(rel, kind, text, template)
    text += _documented(rel, entry, kind)
    name = entry.model_name(kind)
    try:
        document = parse(text)
        if entry.request.prefix:
            text = _rename(text, document, entry, kind)
            document = parse(text)
    except PbtxtError as error:
        raise FleetError(
            f"{template.directory / CONFIG}, filled for release {rel.version}, is not a model configuration: {error}; "
            "give the templates of that release."
        ) from error
    files = dict(template.files)
    if entry.request.prefix and kind == BLS:
        files = _rename_calls(files, entry, template)
    return RenderedModel(name, kind, entry, text, document, files)


def _placeholder_values(rel: Release, entry: Resolved, template: ModelTemplate) -> dict[str, str]:
    """The resolved values by the names of this release's placeholders."""
    kind = template.name
    present = {placeholder.name: placeholder.context for placeholder in placeholders(template.config)}
    known = parameters_of(kind, rel.key)
    values = {}
    for name, value in list(entry.values.get(kind, {}).items()):
        parameter = known[name]
        placeholder = parameter.placeholder(rel.key)
        if parameter.documented:
            continue
        if placeholder not in present:
            if value.given and value.text != parameter.written:
                raise FleetError(
                    f"{value.source} is '{value.text}', but {template.directory / CONFIG} has no ${{{placeholder}}}; "
                    f"give the templates of release {rel.version}, or leave it out."
                )
            del entry.values[kind][name]  # these templates have no place for it
            continue
        if present[placeholder] == COMMENT and value.given:
            entry.notes.append(f"{value.source} has no effect: release {rel.version} has it in a comment only")
        values[placeholder] = value.text
    return values


def _refuse_unfilled(rel: Release, kind: str, text: str, template: ModelTemplate) -> None:
    left = sorted({placeholder.name for placeholder in placeholders(text) if placeholder.context == SCALAR})
    if not left:
        return
    known = {parameter.placeholder(rel.key) for parameter in parameters_of(kind, rel.key).values()}
    strange = [name for name in left if name not in known]
    if strange:
        raise FleetError(
            f"{template.directory / CONFIG} asks for ${{{strange[0]}}}, which release {rel.version} does not have; "
            "give the templates of that release."
        )
    raise FleetError(
        f"{left[0]} of {kind} is not known: it is not given and cannot be derived; give it under "
        f"parameters.{kind}.{left[0]}."
    )


def _documented(rel: Release, entry: Resolved, kind: str) -> str:
    """Parameters that upstream documents and reads, but has no placeholder for."""
    known = parameters_of(kind, rel.key)
    blocks = [
        f'parameters: {{\n  key: "{name}"\n  value: {{\n    string_value: "{quote(value.text)}"\n  }}\n}}\n'
        for name, value in sorted(entry.values.get(kind, {}).items())
        if known[name].documented
    ]
    return "\n" + "".join(blocks) if blocks else ""


def _rename(text: str, document: Document, entry: Resolved, kind: str) -> str:
    """Put the prefix before the model's own name, and before those of the ensemble's steps."""
    places = [*document.places.get("name", []), *document.places.get("ensemble_scheduling.step.model_name", [])]
    for place in sorted(places, key=lambda place: -place.value_start):
        literal = text[place.value_start : place.value_end]
        text = f"{text[: place.value_start]}{literal[0]}{entry.request.prefix}{literal[1:]}{text[place.value_end :]}"
    return text


def _rename_calls(files: Mapping[str, bytes], entry: Resolved, template: ModelTemplate) -> dict[str, bytes]:
    """The BLS's code with the names of the models that it calls prefixed; it has them as literals."""
    called = [model for model in (PRE, LLM, POST) if model in entry.values]
    pattern = re.compile(rb"(?<=[\"'])(" + b"|".join(model.encode() for model in called) + rb")(?=[\"'])")
    prefix = entry.request.prefix.encode()
    renamed: dict[str, bytes] = {}
    found: set[bytes] = set()
    for path, content in files.items():
        if path.endswith(".py"):
            found.update(pattern.findall(content))
            content = pattern.sub(lambda match: prefix + match.group(1), content)
        renamed[path] = content
    missing = [model for model in (PRE, POST) if model.encode() not in found]
    if missing:
        raise FleetError(
            f"The code of {template.directory} does not name {missing[0]}, so the prefix '{entry.request.prefix}' "
            f"cannot reach it; leave {BLS} out of models for that entry."
        )
    return renamed


def check_repository(models: Mapping[str, RenderedModel]) -> None:
    """Raise unless every model finds the models and tensors it uses, with the types that it expects."""
    for model in models.values():
        config = model.document.value
        if config.get("name", model.name) != model.name:
            raise FleetError(
                f"The configuration of {model.name} calls it '{config['name']}'; Triton wants the directory's name. "
                "Give templates as upstream has them."
            )
        if "ensemble_scheduling" in config or model.kind == ENSEMBLE:
            _check_ensemble(model, models)
        if model.kind == BLS:
            _check_calls(model, models)


def _check_calls(model: RenderedModel, models: Mapping[str, RenderedModel]) -> None:
    """The models that a BLS calls are there; which those are is upstream's code and three parameters."""
    entry = model.entry
    called = {entry.model_name(other): f"the code of {model.name}" for other in (PRE, POST)}
    for name in ("tensorrt_llm_model_name", "tensorrt_llm_draft_model_name", "multimodal_encoders_name"):
        value = entry.get(BLS, name)
        if value is not None:
            called[value.text] = f"{name} of {model.name}, from {value.source}"
    if entry.get(BLS, "tensorrt_llm_model_name") is None:
        called[entry.model_name(LLM)] = f"the code of {model.name}"
    for name, source in called.items():
        if name not in models:
            raise FleetError(
                f"{model.name} calls {name} ({source}), but the repository holds {', '.join(sorted(models))} only; add "
                f"it to models, or leave {model.kind} out."
            )
    llm = models[str(entry.text(BLS, "tensorrt_llm_model_name") or entry.model_name(LLM))]
    _check_decoupled(model, llm)


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


def repository_files(models: Mapping[str, RenderedModel]) -> tuple[dict[str, bytes], set[str]]:
    """All files by path below the repository, and the directories that have to exist though they may be empty."""
    files: dict[str, bytes] = {}
    directories: set[str] = set()
    for model in models.values():
        files[f"{model.name}/{CONFIG}"] = model.config.encode()
        directories.add(f"{model.name}/{VERSION}")
        for path, content in model.files.items():
            files[f"{model.name}/{path}"] = content
    for path in files:
        directories.update(str(parent) for parent in PurePosixPath(path).parents if str(parent) != ".")
    return files, directories
