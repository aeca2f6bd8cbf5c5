# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Triton model repository as an artefact: rendered, checked, named by its content and published by a rename."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

from .._artifact.artifact_store import ArtifactStore
from .._artifact.fingerprint import fingerprint
from .._base.errors import FleetError
from .._base.files import naming
from .._checkpoint.read import checkpoint_tree
from .._checkpoint.tokenizer import Tokenizer, read_tokenizer
from .._checkpoint.xgrammar import INFO_FILE, tokenizer_info
from .._podman import cli
from .._release.releases import Release, release
from .._release.serve import SERVER_KINDS
from .engine import Engine, check_release, engine_directory, read_engine
from .entry import INFO_PATH, LLM, OWN_DIRECTORY, PRE, EntryRequest, NotBuiltYet, Resolved, given_directory
from .facts import inflight_facts, llmapi_facts, serve_facts
from .gpus import assign_gpus
from .llmapi import MODEL_YAML, LlmApi, render_config, resolve_llmapi, yaml_text
from .render import RenderedModel, fit, render_model, repository_files
from .request import RepositoryRequest, check_request, model_names
from .resolve import Resolver
from .schema import INFLIGHT, LLMAPI, SERVE
from .schema_llmapi import normalise_kinds, normalise_serve
from .secure import insecure, secure
from .templates import CONFIG, ImageTemplates, checkout, layout_directory, read_templates
from .wiring import check_calls, check_repository

# Part of the fingerprint: a change of what this code writes makes new repositories.
RENDERER = 1
# What trtllm-serve is started with.
LLM_ARGS = "llm_args.yaml"
Found = TypeVar("Found")


@dataclass
class Rendered:
    """The whole repository: files by path, directories, its fingerprint, and what the caller gets to know."""

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
        self.store = ArtifactStore(request.root / "repositories", looks=check_mode)
        self.image_templates = ImageTemplates(request.root)
        self.awaited: list[str] = []
        self.store.home(request.name)  # refuses a name that would lead out of it

    def present(self) -> Outcome:
        """Render the repository and publish it, unless it is there already, whole and unaltered."""
        check_request(self.release, self.request)
        self.store.home(self.request.name)
        templates, rendered = self._rendered()
        if rendered is None:
            facts = {"repository_dir": str(self.store.root / self.request.name / "pending")}
            return Outcome(True, self.awaited, {**facts, **model_names(self.request)})
        target = self.store.path(self.request.name, rendered.fingerprint)
        rendered = _placed(rendered, target)
        problems = self._problems(target, rendered)
        facts = {**rendered.facts, "repository_dir": str(target), "fingerprint": rendered.fingerprint}
        if problems == []:
            return Outcome(False, [], {**facts, "notes": rendered.notes})
        reasons = problems or self._changes(target, rendered)
        diffs = self._diffs(target, rendered)
        if not self.check_mode:
            if templates is not None and self.request.templates is None:
                self.image_templates.verify(templates)
            self._publish(rendered)
        return Outcome(True, reasons, {**facts, "notes": rendered.notes}, diffs)

    def _rendered(self) -> tuple[Path | None, Rendered | None]:
        """Where the templates are, and the repository; None where something is awaited."""
        if self.request.layout == SERVE:
            return None, self._serve()
        templates = self._unless_awaited(self._templates)
        directory = templates and layout_directory(templates, self.request.layout)
        rendered = self._llmapi(directory) if self.request.layout == LLMAPI else self._inflight(directory)
        return templates, rendered if templates is not None else None

    @staticmethod
    def absent(request: RepositoryRequest, fingerprint_: str | None, check_mode: bool = False) -> Outcome:
        """Remove one repository of the name, or all of them."""
        store = ArtifactStore(request.root / "repositories")
        wanted = store.path(request.name, fingerprint_) if fingerprint_ is not None else None
        found = [path for path in store.published(request.name) if wanted in (None, path)]
        if found and not check_mode:
            with store.lock(request.name):
                for path in found:
                    store.remove(request.name, path.name)
        return Outcome(bool(found), [f"removed {path}" for path in found], {})

    # -- input ----------------------------------------------------------------------------------------------------

    def _unless_awaited(self, make: Callable[[], Optional[Found]]) -> Found | None:
        """What *make* returns; in check mode None where an earlier stage of the run has yet to bring what it needs."""
        try:
            return make()
        except NotBuiltYet as missing:
            if not self.check_mode:
                raise
            self.awaited.append(str(missing))
            return None

    def _templates(self) -> Path:
        """The directory that holds the layouts, out of the image where no checkout is given."""
        if self.request.templates is not None:
            return checkout(Path(self.request.templates))
        if self.request.image is None:
            raise FleetError(
                "Neither templates nor image is given; give the image that serves the model, or the directory of a "
                "checkout of its templates on the host."
            )
        if not self.check_mode:
            return self.image_templates.take(self.request.image, self.release)
        if cli.executable() is None:
            raise NotBuiltYet("podman is not on the host yet, and so neither is the image with the templates.")
        _, place = self.image_templates.find(self.request.image)
        if place is None:
            raise NotBuiltYet(f"The templates of the image {self.request.image} are not on the host yet.")
        return place

    def _engine(self, entry: EntryRequest) -> Engine | None:
        directory, _ = given_directory(entry, LLM, "engine_dir", entry.engine_dir)
        if directory is None:
            raise NotBuiltYet("engine_dir is missing; give the directory of the engine on the host.")
        if not os.path.isdir(directory):
            raise NotBuiltYet(f"The engine's directory {directory} does not exist; build the engine first.")
        engine = read_engine(engine_directory(directory))
        check_release(engine, self.release)
        return engine

    @staticmethod
    def _tokenizer(entry: EntryRequest) -> Tokenizer | None:
        directory, _ = given_directory(entry, PRE, "tokenizer_dir", entry.tokenizer_dir)
        if directory is None:
            if PRE not in entry.models:
                return None
            raise NotBuiltYet("tokenizer_dir is missing; give the directory of the tokenizer on the host.")
        if os.path.isfile(directory):
            return None  # tokenizer_type t5 of releases before 0.9 names the vocabulary itself
        if not os.path.isdir(directory):
            raise NotBuiltYet(
                f"The tokenizer's directory {directory} does not exist; bring the checkpoint onto the host first."
            )
        return read_tokenizer(directory)

    # -- rendering ------------------------------------------------------------------------------------------------

    def _inflight(self, directory: Path | None) -> Rendered | None:
        """The repository of an engine; None where something is awaited, once all that can be judged is judged."""
        entries = self.request.entries
        engines = [self._unless_awaited(partial(self._engine, entry)) for entry in entries]
        tokenizers = [self._unless_awaited(partial(self._tokenizer, entry)) for entry in entries]
        resolved = [
            Resolver(self.release, entry, engine, tokenizer).resolve()
            for entry, engine, tokenizer in zip(entries, engines, tokenizers)
        ]
        assign_gpus(resolved, self.release)
        check_calls(resolved)
        if directory is None:
            return None
        if self.awaited:
            for entry in resolved:
                fit(self.release, entry, read_templates(directory, entry.request.models))
            return None
        return render_inflight(self.release, resolved, tokenizers, directory)

    def _llmapi(self, directory: Path | None) -> Rendered | None:
        """The same of a checkpoint."""
        entry = self.request.entries[0]
        model = resolve_llmapi(entry)
        checkpoint = EntryRequest(entry.label, tokenizer_dir=model.arguments["model"])
        tokenizer = self._unless_awaited(partial(self._tokenizer, checkpoint))
        if directory is None or self.awaited:
            return None
        return render_llmapi(self.release, model, tokenizer, directory, self._content(model.arguments["model"]))

    def _serve(self) -> Rendered | None:
        """The same of a checkpoint that no Triton serves: its content counts, as there is no engine that would tell."""
        entry = self.request.entries[0]
        tokenizer = self._unless_awaited(partial(self._tokenizer, entry))
        if self.awaited:
            return None
        config = normalise_serve(self.release, entry.parameters, entry.label)
        kinds = normalise_kinds(self.release, entry.parameters, entry.label)
        return render_serve(
            self.release, self.request.name, config, tokenizer, self._content(entry.tokenizer_dir), kinds
        )

    def _content(self, checkpoint: str | None) -> str:
        """The digest of a checkpoint, so that another one at the same place is another repository."""
        return checkpoint_tree(self.request.root, Path(str(checkpoint)), "stat", not self.check_mode).digest

    # -- publication ----------------------------------------------------------------------------------------------

    def _problems(self, target: Path, rendered: Rendered) -> list[str] | None:
        """What is wrong with the published repository; [] when nothing is, None when there is none."""
        if not target.is_dir():
            return None
        problems = self.store.verify(target, full=True)
        problems += [f"{path} is missing" for path in sorted(rendered.directories) if not (target / path).is_dir()]
        problems += insecure(target)
        return [f"{target.name[:12]}: {problem}" for problem in problems]

    def _changes(self, target: Path, rendered: Rendered) -> list[str]:
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
                with naming(staging / path):
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
    entries: list[Resolved] = []
    models: dict[str, RenderedModel] = {}
    for request, tokenizer in zip(resolved, tokenizers):
        templates = read_templates(directory, request.request.models)
        entry = fit(rel, request, templates)
        entries.append(entry)
        for template in templates.values():
            model = render_model(rel, entry, template)
            models[model.name] = model
        if tokenizer and (entry.text(LLM, INFO_PATH) or "").startswith(OWN_DIRECTORY):
            models[entry.model_name(LLM)].files[INFO_FILE] = tokenizer_info(tokenizer)
    check_repository(models)
    files, directories = repository_files(models)
    record = {
        "release": rel.version,
        "layout": INFLIGHT,
        "engines": {
            entry.model_name(LLM): {"directory": entry.engine.directory, "identity": entry.engine.identity}
            for entry in entries
            if entry.engine is not None
        },
    }
    facts = inflight_facts(entries, tokenizers, models)
    notes = [note for entry in entries for note in entry.notes]
    return Rendered(files, directories, _address(files, record), facts, record, notes)


def render_llmapi(
    rel: Release, model: LlmApi, tokenizer: Tokenizer | None, directory: Path, checkpoint: str
) -> Rendered:
    """The one model of the llmapi layout, described for both of its readers; *checkpoint*: the digest of it."""
    template = read_templates(directory, [LLM])[LLM]
    files = {f"{LLM}/{path}": content for path, content in template.files.items()}
    files[f"{LLM}/{MODEL_YAML}"] = model.yaml().encode()
    files[f"{LLM}/{CONFIG}"] = render_config(template, model).encode()
    record = {"release": rel.version, "layout": LLMAPI, "engines": {}, "checkpoint": checkpoint}
    facts = llmapi_facts(model, tokenizer)
    return Rendered(files, {LLM, f"{LLM}/1"}, _address(files, record), facts, record, [])


def render_serve(
    rel: Release,
    name: str,
    config: Mapping[str, Any],
    tokenizer: Tokenizer | None,
    checkpoint: str,
    kinds: Mapping[str, Mapping[str, Any]],
) -> Rendered:
    """The file that trtllm-serve is started with; *checkpoint*: the digest of what it serves under *name*.

    *kinds*: what the servers of each kind are told, where there are two; they have files of their own.
    """
    files = {LLM_ARGS: yaml_text(config).encode()}
    files.update({f"{kind}.yaml": yaml_text(said).encode() for kind, said in kinds.items()})
    record = {"release": rel.version, "layout": SERVE, "engines": {}, "checkpoint": checkpoint}
    return Rendered(files, set(), _address(files, record), serve_facts(name, config, tokenizer), record, [])


def _address(files: Mapping[str, bytes], record: Mapping[str, Any]) -> str:
    """The fingerprint: over every byte of the repository, and which engines it serves."""
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    return fingerprint({"renderer": RENDERER, "files": digests, **record})


def _placed(rendered: Rendered, target: Path) -> Rendered:
    """*rendered* with the name of its own directory where that stands in a configuration or a derived value."""
    token, place = OWN_DIRECTORY.encode(), os.fsencode(target)
    files = {
        path: content.replace(token, place) if _is_configuration(path) else content
        for path, content in rendered.files.items()
    }
    derived = {
        model: {
            name: {**value, "value": value["value"].replace(OWN_DIRECTORY, str(target))}
            for name, value in values.items()
        }
        for model, values in rendered.facts["derived"].items()
    }
    return replace(rendered, files=files, facts={**rendered.facts, "derived": derived})


def _is_configuration(path: str) -> bool:
    return path in (LLM_ARGS, *(f"{kind}.yaml" for kind in SERVER_KINDS)) or path.endswith(
        (f"/{CONFIG}", f"/{MODEL_YAML}")
    )


def _text(path: Path) -> str:
    """A file as text; what cannot be read is nothing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
