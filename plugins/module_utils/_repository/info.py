# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model repository on a host serves, whoever made it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .._artifact.artifact_store import ArtifactStore
from .._base.errors import FleetError
from .._checkpoint.tokenizer import read_json
from .._release.releases import Release, release
from .pbtxt import PLACEHOLDER, PbtxtError, parse
from .schema import MODELS, MULTIMODAL, SERVE, find
from .schema_values import BOOLS, same
from .secure import insecure
from .templates import CONFIG

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def describe(path: Path, version: str | None = None) -> dict[str, Any]:
    """The repository at *path*. *version* tells the release where no manifest does; without it no default is known."""
    if not path.is_dir():
        raise FleetError(f"There is no model repository at {path}; give the directory that Triton serves.")
    store = ArtifactStore(path.parent.parent, looks=True)
    manifest = store.manifest(path) or {}
    version = version or manifest.get("release")
    rel = release(version) if version else None
    models = {place.parent.name: _model(place, rel) for place in sorted(path.glob(f"*/{CONFIG}"))}
    # What trtllm-serve is started with has no models of Triton.
    if not models and manifest.get("layout") != SERVE:
        raise FleetError(f"{path} holds no */{CONFIG}; give the directory that Triton serves.")
    return {
        "path": str(path),
        "name": path.parent.name,
        "fingerprint": manifest.get("fingerprint"),
        "release": rel.version if rel else None,
        "layout": manifest.get("layout"),
        "problems": [*store.verify(path, full=True), *insecure(path)] if manifest else [],
        "managed": bool(manifest),
        "models": models,
        "entry_models": [name for name, model in models.items() if model["kind"] in ("ensemble", "tensorrt_llm_bls")],
        "engines": {name: _engine(model["engine_dir"]) for name, model in models.items() if model["engine_dir"]},
    }


def kind_of(name: str) -> str | None:
    """Which of upstream's models *name* is, with or without a prefix."""
    known = [kind for kind in (*MODELS, MULTIMODAL) if name == kind or name.endswith(kind)]
    return max(known, key=len, default=None)


def _model(place: Path, rel: Release | None) -> dict[str, Any]:
    """One model: how Triton runs it, and what its parameters say."""
    name = place.parent.name
    try:
        config = parse(place.read_text(encoding="utf-8")).value
    except (PbtxtError, UnicodeDecodeError) as error:
        raise FleetError(f"{place} is not a model configuration: {error}; Triton will not load it.") from error
    kind = kind_of(name)
    values = {key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()}
    given = {key: text for key, text in values.items() if text and not PLACEHOLDER.fullmatch(text)}
    groups = config.get("instance_group", [])
    return {
        "kind": kind,
        "backend": config.get("backend") or config.get("platform"),
        "max_batch_size": config.get("max_batch_size", 0),
        "decoupled": config.get("model_transaction_policy", {}).get("decoupled", False),
        "instances": sum(group.get("count", 1) for group in groups) if groups else 1,
        "engine_dir": given.get("gpt_model_path") if kind == "tensorrt_llm" else None,
        "parameters": given,
        "non_default": {key: text for key, text in given.items() if not _is_default(kind, key, text, rel)},
        "unset": sorted(key for key in values if key not in given),
    }


def _is_default(kind: str | None, key: str, text: str, rel: Release | None) -> bool:
    """Whether *text* is what upstream takes anyway; a parameter without a default always differs."""
    parameter = find(kind, key) if kind else None
    if parameter is None or rel is None:
        return False
    default = parameter.default_of(rel.key)
    if default is None or (parameter.kind == "bool" and text not in BOOLS):
        return False
    if parameter.kind in ("int", "float") and not _NUMBER.fullmatch(text):
        return False
    return same(parameter.kind, text, default)


def _engine(directory: str) -> dict[str, Any]:
    """Which engine a path in a configuration is, by its manifest and config.json."""
    try:
        manifest = read_json(f"{directory}/manifest.json") or {}
        config = read_json(f"{directory}/config.json")
    except FleetError as error:
        return {"directory": directory, "present": False, "problem": str(error)}
    return {
        "directory": directory,
        "present": config is not None,
        "fingerprint": manifest.get("fingerprint"),
        "version": (config or {}).get("version"),
    }
