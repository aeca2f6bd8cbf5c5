# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Triton model repository as an artefact: rendered, checked, named by its content and published by a rename."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils import _podman
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact_store import ArtifactStore
from ansible_collections.trtllm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._fingerprint import fingerprint
from ansible_collections.trtllm.fleet.plugins.module_utils._model_repository_engine import (
    Engine,
    check_release,
    read_engine,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._model_repository_llmapi import (
    MODEL_YAML,
    LlmApi,
    render_llmapi,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._model_repository_render import (
    RenderedModel,
    check_repository,
    render_model,
    repository_files,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._model_repository_resolve import (
    BLS,
    ENSEMBLE,
    LLM,
    PRE,
    EntryRequest,
    Resolved,
    Resolver,
    assign_gpus,
    given_directory,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._model_repository_secure import insecure, secure
from ansible_collections.trtllm.fleet.plugins.module_utils._model_repository_templates import (
    CONFIG,
    ImageTemplates,
    MissingTemplates,
    layout_directory,
    read_templates,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._names import check_name
from ansible_collections.trtllm.fleet.plugins.module_utils._release import Release, release
from ansible_collections.trtllm.fleet.plugins.module_utils._template_schema import (
    INFLIGHT,
    LLMAPI,
    MODELS,
    MULTIMODAL,
    check_layout,
    validate_parameters,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._template_schema_values import is_true
from ansible_collections.trtllm.fleet.plugins.module_utils._tokenizer import Tokenizer, read_tokenizer

# Part of the fingerprint: a change of what this code writes makes new repositories.
RENDERER = 1
ENTRIES = (ENSEMBLE, BLS)
# How Triton is started for the repository; the third way is the llmapi layout's.
LEADER, ORCHESTRATOR = "leader", "orchestrator"
# What is told of the first entry as if it were the only one, which it mostly is.
SHARED = (
    "max_batch_size", "max_input_len", "max_seq_len", "decoupled", "cumulative", "end_id", "pad_id", "stop_ids",
)  # fmt: skip


class Unmade(FleetError):
    """Something that an earlier stage of the same run would have made; in check mode a reason, else an error."""


@dataclass
class RepositoryRequest:
    """What the user asks for; names are those of the module's options."""

    name: str
    release: str
    root: Path = Path("/var/lib/trtllm")
    layout: str = INFLIGHT
    templates: str | None = None
    image: str | None = None
    entries: Sequence[EntryRequest] = field(default_factory=lambda: [EntryRequest()])


@dataclass
class Rendered:
    """The whole repository: files by path, directories, its fingerprint, and what the caller is told."""

    files: dict[str, bytes]
    directories: set[str]
    fingerprint: str
    facts: dict[str, Any]
    record: dict[str, Any]
    notes: list[str]


@dataclass
class Outcome:
    """What `Repository.present` found or did. *diffs* are (path, before, after)."""

    changed: bool
    reasons: list[str]
    facts: dict[str, Any]
    diffs: list[tuple[str, str, str]] = field(default_factory=list)


class Repository:
    """One model repository on one host."""

    def __init__(self, request: RepositoryRequest, check_mode: bool = False) -> None:
        self.request = request
        self.check_mode = check_mode
        self.release = release(request.release)
        self.store = ArtifactStore(request.root / "repositories")
        self.image_templates = ImageTemplates(request.root)
        self.store.home(request.name)  # refuses a name that would lead out of it

    def present(self) -> Outcome:
        """Render the repository and publish it, unless it is there already, whole and unaltered."""
        self._validate()
        try:
            templates = self._templates()
            rendered = self._render(templates)
        except (Unmade, MissingTemplates) as missing:
            if not self.check_mode:
                raise
            facts = {"repository_dir": str(self.store.root / self.request.name / "pending"), **self._names()}
            return Outcome(True, [str(missing)], facts)
        target = self.store.path(self.request.name, rendered.fingerprint)
        problems = self._problems(target, rendered)
        facts = {**rendered.facts, "repository_dir": str(target), "fingerprint": rendered.fingerprint}
        if problems == []:
            return Outcome(False, [], {**facts, "notes": rendered.notes})
        reasons = problems or self._news(target, rendered)
        diffs = self._diffs(target, rendered)
        if not self.check_mode:
            if self.request.templates is None:
                self.image_templates.verify(templates)
            self._publish(rendered)
        return Outcome(True, reasons, {**facts, "notes": rendered.notes}, diffs)

    @staticmethod
    def absent(request: RepositoryRequest, fingerprint_: str | None, check_mode: bool = False) -> Outcome:
        """Remove one repository of the name, or all of them."""
        store = ArtifactStore(request.root / "repositories")
        found = store.published(request.name)
        if fingerprint_ is not None:
            only = store.path(request.name, fingerprint_)
            found = [path for path in found if path == only]
        if found and not check_mode:
            with store.lock(request.name):
                for path in found:
                    store.remove(request.name, path.name)
        return Outcome(bool(found), [f"removed {path}" for path in found], {})

    # -- input ----------------------------------------------------------------------------------------------------

    def _validate(self) -> None:
        """What needs nothing but the request."""
        check_layout(self.release, self.request.layout)
        entries = self.request.entries
        if not entries:
            raise FleetError("entries is empty; describe at least one set of models.")
        prefixes: dict[str, str] = {}
        for entry in entries:
            if entry.prefix:
                check_name(entry.prefix, "prefix")
            if entry.prefix in prefixes:
                raise FleetError(
                    f"{prefixes[entry.prefix]} and {entry.label} have the same prefix '{entry.prefix}'; give each set "
                    "of models in one repository its own."
                )
            prefixes[entry.prefix] = entry.label
            validate_parameters(self.request.release, self.request.layout, entry.parameters, entry.label)
            if self.request.layout == INFLIGHT:
                self._check_models(entry)
        if self.request.layout == LLMAPI and len(entries) > 1:
            raise FleetError(
                f"The llmapi layout has one model in a repository, but {len(entries)} are given; give each a "
                "repository of its own."
            )

    @staticmethod
    def _check_models(entry: EntryRequest) -> None:
        for model in entry.models:
            if model not in (*MODELS, MULTIMODAL):
                raise FleetError(f"models names '{model}'; known are {', '.join((*MODELS, MULTIMODAL))}.")
        if LLM not in entry.models:
            given = ", ".join(entry.models) or "empty"
            raise FleetError(f"models is {given}; it needs {LLM}, the model that generates.")

    def _templates(self) -> Path:
        """The directory that holds the layouts, out of the image where no checkout is given."""
        if self.request.templates is not None:
            return Path(self.request.templates)
        if self.request.image is None:
            raise FleetError(
                "Neither templates nor image is given; give the image that serves the model, or the directory of a "
                "checkout of its templates on the host."
            )
        if self.check_mode:
            if _podman.executable() is None:
                raise MissingTemplates("podman is not on the host yet, and so neither is the image with the templates.")
            _, place = self.image_templates.find(self.request.image)
            if place is None:
                raise MissingTemplates(f"The templates of the image {self.request.image} are not on the host yet.")
            return place
        return self.image_templates.take(self.request.image, self.release)

    def _engine(self, entry: EntryRequest) -> Engine | None:
        directory, _ = given_directory(entry, LLM, "engine_dir", entry.engine_dir)
        if directory is None:
            raise Unmade("engine_dir is missing; give the directory of the engine on the host.")
        if not os.path.isdir(directory):
            raise Unmade(f"The engine's directory {directory} does not exist; build the engine first.")
        decoder = os.path.join(directory, "decoder")
        if not os.path.exists(os.path.join(directory, "config.json")) and os.path.isdir(decoder):
            directory = entry.engine_dir = decoder
        engine = read_engine(directory)
        check_release(engine, self.release)
        return engine

    @staticmethod
    def _tokenizer(entry: EntryRequest) -> Tokenizer | None:
        directory, _ = given_directory(entry, PRE, "tokenizer_dir", entry.tokenizer_dir)
        if directory is None:
            if PRE not in entry.models:
                return None
            raise Unmade("tokenizer_dir is missing; give the directory of the tokenizer on the host.")
        if not directory.startswith("/"):
            raise FleetError(f"tokenizer_dir is '{directory}'; it takes an absolute path of the host.")
        if os.path.isfile(directory):
            return None  # tokenizer_type t5 of releases before 0.9 names the vocabulary itself
        if not os.path.isdir(directory):
            raise Unmade(
                f"The tokenizer's directory {directory} does not exist; bring the checkpoint onto the host first."
            )
        return read_tokenizer(directory)

    # -- rendering ------------------------------------------------------------------------------------------------

    def _render(self, templates: Path) -> Rendered:
        directory = layout_directory(templates, self.request.layout)
        if self.request.layout == LLMAPI:
            return self._render_llmapi(directory)
        engines = [self._engine(entry) for entry in self.request.entries]
        tokenizers = [self._tokenizer(entry) for entry in self.request.entries]
        resolved = [
            Resolver(self.release, entry, engine, tokenizer).resolve()
            for entry, engine, tokenizer in zip(self.request.entries, engines, tokenizers)
        ]
        return render_inflight(self.release, resolved, tokenizers, directory)

    def _render_llmapi(self, directory: Path) -> Rendered:
        entry = self.request.entries[0]
        template = read_templates(directory, [LLM])[LLM]
        rendered = render_llmapi(entry, template)
        tokenizer = self._tokenizer(EntryRequest(entry.label, tokenizer_dir=entry.tokenizer_dir or _model(entry)))
        files = {f"{LLM}/{path}": content for path, content in template.files.items()}
        files[f"{LLM}/{MODEL_YAML}"] = rendered.yaml.encode()
        files[f"{LLM}/{CONFIG}"] = rendered.config.encode()
        facts = _llmapi_facts(rendered, tokenizer)
        record = {"release": self.release.version, "layout": LLMAPI, "engines": {}}
        return Rendered(files, {LLM, f"{LLM}/1"}, _address(files, record), facts, record, [])

    def _names(self) -> dict[str, Any]:
        """The names of the models, which are known before anything else is."""
        if self.request.layout == LLMAPI:
            return {"models": [LLM], "entry_models": [LLM], "worker_models": [LLM], "mode": LLMAPI}
        entries = self.request.entries
        return {
            "models": [f"{entry.prefix}{model}" for entry in entries for model in entry.models],
            "entry_models": [f"{e.prefix}{model}" for e in entries for model in ENTRIES if model in e.models],
            "worker_models": [f"{entry.prefix}{LLM}" for entry in entries],
            "mode": ORCHESTRATOR if len(entries) > 1 else LEADER,
        }

    # -- publication ----------------------------------------------------------------------------------------------

    def _problems(self, target: Path, rendered: Rendered) -> list[str] | None:
        """What is wrong with the published repository; [] when nothing is, None when there is none."""
        if not target.is_dir():
            return None
        problems = self.store.verify(target, full=True)
        problems += [f"{path} is missing" for path in sorted(rendered.directories) if not (target / path).is_dir()]
        problems += insecure(target)
        return [f"{target.name[:12]}: {problem}" for problem in problems]

    def _news(self, target: Path, rendered: Rendered) -> list[str]:
        """Why there is something to publish: the files that differ from the latest repository of the name."""
        before = [path for path in self.store.published(self.request.name) if path != target]
        if not before:
            return ["the repository is not on the host yet"]
        held = (self.store.manifest(before[0]) or {}).get("files", {})
        digests = {path: hashlib.sha256(content).hexdigest() for path, content in rendered.files.items()}
        changed = [p for p in digests if p not in held or held[p]["sha256"] != digests[p]]
        gone = [path for path in held if path not in digests]
        reasons = [f"{path} {'differs' if path in held else 'is new'}" for path in sorted(changed)]
        return [*reasons, *(f"{path} is gone" for path in sorted(gone))] or ["the engine is another one"]

    def _diffs(self, target: Path, rendered: Rendered) -> list[tuple[str, str, str]]:
        """(path, before, after) of each configuration that differs from what is, or was last, published."""
        before = target if target.is_dir() else next(iter(self.store.published(self.request.name)), None)
        names = {path for path in rendered.files if _is_configuration(path)}
        if before is not None:
            names |= {str(path.relative_to(before)) for path in before.glob(f"*/{CONFIG}")}
        diffs = []
        for name in sorted(names):
            after = rendered.files.get(name, b"").decode()
            old = _text(before / name) if before is not None else ""
            if old != after:
                diffs.append((name, old, after))
        return diffs

    def _publish(self, rendered: Rendered) -> None:
        with self.store.lock(self.request.name):
            staging = self.store.staging(self.request.name, rendered.fingerprint)
            for directory in sorted(rendered.directories):
                (staging / directory).mkdir(parents=True, exist_ok=True)
            for path, content in rendered.files.items():
                (staging / path).write_bytes(content)
            secure(staging)
            target = self.store.publish(self.request.name, rendered.fingerprint, rendered.record)
            secure(target)


def render_inflight(
    rel: Release,
    resolved: Sequence[Resolved],
    tokenizers: Sequence[Tokenizer | None],
    directory: Path,
) -> Rendered:
    """Fill the templates in *directory* with what was resolved, and check the repository as a whole."""
    assign_gpus(resolved, rel)
    models: dict[str, RenderedModel] = {}
    for entry in resolved:
        for template in read_templates(directory, entry.request.models).values():
            model = render_model(rel, entry, template)
            models[model.name] = model
    check_repository(models)
    files, directories = repository_files(models)
    record = {
        "release": rel.version,
        "layout": INFLIGHT,
        "engines": {
            entry.model_name(LLM): {"directory": entry.engine.directory, "identity": entry.engine.identity}
            for entry in resolved
            if entry.engine is not None
        },
    }
    facts = _facts(resolved, tokenizers, models)
    notes = [note for entry in resolved for note in entry.notes]
    return Rendered(files, directories, _address(files, record), facts, record, notes)


def _address(files: Mapping[str, bytes], record: Mapping[str, Any]) -> str:
    """The fingerprint: over every byte of the repository, and which engines it serves."""
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    return fingerprint({"renderer": RENDERER, "files": digests, **record})


def _facts(
    resolved: Sequence[Resolved], tokenizers: Sequence[Tokenizer | None], models: Mapping[str, RenderedModel]
) -> dict[str, Any]:  # fmt: skip
    """What later roles need: of the whole repository, and of each entry."""
    entries = [_entry_facts(entry, tokenizer) for entry, tokenizer in zip(resolved, tokenizers)]
    orchestrator = len(entries) > 1
    first = entries[0]
    derived: dict[str, Any] = {}
    for entry in resolved:
        derived.update(entry.derived())
    return {
        **{key: first[key] for key in SHARED},
        # In orchestrator mode one process starts the workers of all models itself.
        "world_size": 1 if orchestrator else first["world_size"],
        "mode": ORCHESTRATOR if orchestrator else LEADER,
        "models": list(models),
        "entry_models": [name for entry in entries for name in entry["entry_models"]],
        "worker_models": [entry["worker_model"] for entry in entries],
        "entries": entries,
        "derived": derived,
    }


def _entry_facts(entry: Resolved, tokenizer: Tokenizer | None) -> dict[str, Any]:
    accumulate = entry.text(BLS, "accumulate_tokens")
    batch = entry.text(LLM, "triton_max_batch_size")
    return {
        "prefix": entry.request.prefix,
        "entry_models": [entry.model_name(model) for model in ENTRIES if model in entry.values],
        "worker_model": entry.model_name(LLM),
        "world_size": entry.world_size,
        "max_batch_size": int(batch) if batch else None,
        "max_input_len": entry.engine.max_input_len if entry.engine else None,
        "max_seq_len": entry.engine.max_seq_len if entry.engine else None,
        "decoupled": entry.streaming,
        "gpu_device_ids": entry.text(LLM, "gpu_device_ids"),
        # With accumulated tokens the BLS streams all the text so far in every response, not the new piece.
        "cumulative": entry.streaming and is_true(accumulate),
        **_token_facts(tokenizer),
    }


def _token_facts(tokenizer: Tokenizer | None) -> dict[str, Any]:
    if tokenizer is None:
        return {"end_id": None, "pad_id": None, "stop_ids": []}
    return {"end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id, "stop_ids": list(tokenizer.stop_ids)}


def _llmapi_facts(rendered: LlmApi, tokenizer: Tokenizer | None) -> dict[str, Any]:
    entry = {
        "prefix": "",
        "entry_models": [LLM],
        "worker_model": LLM,
        "world_size": 1,  # the model starts its own ranks
        "gpus": rendered.gpus * rendered.instances,
        "max_batch_size": rendered.max_batch_size,
        "max_input_len": rendered.arguments.get("max_input_len"),
        "max_seq_len": rendered.arguments.get("max_seq_len"),
        "decoupled": rendered.streaming,
        "gpu_device_ids": None,
        "cumulative": False,
        **_token_facts(tokenizer),
    }
    return {
        **{key: entry[key] for key in SHARED},
        "world_size": entry["world_size"],
        "mode": LLMAPI,
        "models": [LLM],
        "entry_models": [LLM],
        "worker_models": [LLM],
        "entries": [entry],
        "derived": {LLM: rendered.derived},
    }


def _model(entry: EntryRequest) -> str | None:
    """The checkpoint that model.yaml names."""
    model = (entry.parameters.get(LLM) or {}).get("model")
    return str(model) if model is not None else None


def _is_configuration(path: str) -> bool:
    return path.endswith((f"/{CONFIG}", f"/{MODEL_YAML}"))


def _text(path: Path) -> str:
    """A file as text; what cannot be read is nothing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
