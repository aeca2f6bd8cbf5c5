# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From templates and resolved values to the files of a model repository."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from .._base.errors import FleetError
from .._base.versions import version_key
from .._release.releases import Release
from .entry import BLS, LLM, POST, PRE, Resolved, Value
from .pbtxt import COMMENT, SCALAR, Document, PbtxtError, fill, parse, placeholders, quote
from .schema import RENAMED_INPUTS, Parameter, parameters_of
from .templates import CONFIG, ModelTemplate

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


def fit(rel: Release, entry: Resolved, templates: Mapping[str, ModelTemplate]) -> Resolved:
    """*entry* as *templates* can hold it; raises where they are not the release's, or have no place for a value."""
    values: dict[str, dict[str, Value]] = {}
    notes = [*entry.notes]
    for model, template in templates.items():
        contexts = _contexts(template)
        _refuse_unexpected(rel, template, contexts)
        known = parameters_of(model, rel.key)
        values[model] = {}
        for name, value in entry.values[model].items():
            where = contexts.get(known[name].placeholder(rel.key), set())
            if known[name].documented or where - {COMMENT}:
                values[model][name] = value
            elif where and value.given and known[name].written is None:
                values[model][name] = value
                notes.append(f"{value.source} has no effect: release {rel.version} has it in a comment only")
            else:
                notes += _left_out(rel, known[name], value, template)
    return replace(entry, values=values, notes=notes)


def _contexts(template: ModelTemplate) -> dict[str, set[str]]:
    """Where in the template each placeholder stands."""
    contexts: dict[str, set[str]] = {}
    for placeholder in placeholders(template.config):
        contexts.setdefault(placeholder.name, set()).add(placeholder.context)
    return contexts


def _refuse_unexpected(rel: Release, template: ModelTemplate, contexts: Mapping[str, set[str]]) -> None:
    """A placeholder that the release does not have is of another tag's templates. Comments may say what they like."""
    known = {parameter.placeholder(rel.key) for parameter in parameters_of(template.name, rel.key).values()}
    for name, where in contexts.items():
        if name not in known and where != {COMMENT}:
            raise FleetError(
                f"{template.directory / CONFIG} asks for ${{{name}}}, which release {rel.version} does not have; "
                "give the templates of that release."
            )


def _left_out(rel: Release, parameter: Parameter, value: Value, template: ModelTemplate) -> list[str]:
    """A note on a value that the template has no place for; raises where it would be missed."""
    config, placeholder = template.directory / CONFIG, f"${{{parameter.placeholder(rel.key)}}}"
    may_lack = parameter.may_lack_place(rel.key)
    if may_lack and value.text == parameter.written:
        return []
    if not may_lack and (value.needed or parameter.written is not None):
        raise FleetError(
            f"{config} has no {placeholder}, which release {rel.version} must have for {parameter.name}; give the "
            f"templates of release {rel.version}."
        )
    if value.given:
        raise FleetError(
            f"{value.source} is '{value.text}', but {config} has no {placeholder}; give the templates of release "
            f"{rel.version}, or leave it out."
        )
    return [f"{config} has no {placeholder}, so what it says of {parameter.name} stands instead of '{value.text}'"]


def render_model(rel: Release, entry: Resolved, template: ModelTemplate) -> RenderedModel:
    """Fill and name one model; *entry* fits the template.

    An unset parameter inside a string keeps its ``${name}``: that is what "unspecified" is to upstream. Its Python
    models read a value that starts with ``${`` as absent, its C++ backend fails to convert it and takes the
    default; an empty string would be a value to some of both (a path, for one). Outside a string nothing may stay.
    """
    kind = template.name
    text = fill(template.config, _placeholder_values(rel, entry, kind))
    _refuse_unfilled(kind, text)
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
    _refuse_renamed(rel, template, document)
    files = dict(template.files)
    if entry.request.prefix and kind == BLS:
        files = _rename_calls(files, entry, template)
    return RenderedModel(name, kind, entry, text, document, files)


def _refuse_renamed(rel: Release, template: ModelTemplate, document: Document) -> None:
    """An input under a name of another release's: neither our probe nor the gateway would call it that."""
    inputs = {tensor.get("name") for tensor in document.value.get("input", [])}
    for before, since, first in RENAMED_INPUTS:
        wrong, right = (before, since) if rel.key >= version_key(first) else (since, before)
        if wrong in inputs:
            raise FleetError(
                f"{template.directory / CONFIG} has the input {wrong}, which release {rel.version} calls {right}; give "
                f"the templates of release {rel.version}."
            )


def _placeholder_values(rel: Release, entry: Resolved, kind: str) -> dict[str, str]:
    """The values of one model by the names of this release's placeholders."""
    known = parameters_of(kind, rel.key)
    return {
        known[name].placeholder(rel.key): value.text
        for name, value in entry.values.get(kind, {}).items()
        if not known[name].documented
    }


def _refuse_unfilled(kind: str, text: str) -> None:
    """Outside a string nothing may stay unfilled: it would not parse."""
    left = sorted({placeholder.name for placeholder in placeholders(text) if placeholder.context == SCALAR})
    if left:
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
