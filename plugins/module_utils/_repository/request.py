# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user asks a repository to be, and what of it can be judged before anything else is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._base.errors import FleetError
from .._base.names import DEFAULT_ROOT, check_name
from .._release.releases import Release
from .entry import ENTRIES, LLM, PRE, EntryRequest, given_directory
from .schema import INFLIGHT, LLMAPI, MODELS, MULTIMODAL, SERVE, check_layout, validate_parameters
from .schema_values import Limits, whole

# How Triton is started for the repository; the other layouts have a way of their own.
LEADER, ORCHESTRATOR = "leader", "orchestrator"
GPU_MEMORY = Limits(low=1)


@dataclass
class RepositoryRequest:
    """What the user asks for; names are those of the module's options."""

    name: str
    release: str
    root: Path = Path(DEFAULT_ROOT)
    layout: str = INFLIGHT
    templates: str | None = None
    image: str | None = None
    entries: Sequence[EntryRequest] = field(default_factory=lambda: [EntryRequest()])


def check_request(rel: Release, request: RepositoryRequest) -> None:
    """Raise for what is wrong with *request* whatever is on the host."""
    check_layout(rel, request.layout)
    if not request.entries:
        raise FleetError("entries is empty; describe at least one set of models.")
    _check_prefixes(request.entries)
    for entry in request.entries:
        validate_parameters(request.release, request.layout, entry.parameters, entry.label)
        _check_options(request.layout, entry)
    if request.layout != INFLIGHT and len(request.entries) > 1:
        raise FleetError(
            f"The {request.layout} layout has one model in a repository, but {len(request.entries)} are given; give "
            "each a repository of its own."
        )


def _check_prefixes(entries: Sequence[EntryRequest]) -> None:
    labels: dict[str, str] = {}
    for entry in entries:
        if entry.prefix:
            check_name(entry.prefix, "prefix")
        if entry.prefix in labels:
            raise FleetError(
                f"{labels[entry.prefix]} and {entry.label} have the same prefix '{entry.prefix}'; give each set "
                "of models in one repository its own."
            )
        labels[entry.prefix] = entry.label


def _check_options(layout: str, entry: EntryRequest) -> None:
    """The options of one set of models, as strictly as the parameters of the same meaning."""
    if entry.gpu_memory_mib is not None:
        whole(entry.gpu_memory_mib, GPU_MEMORY, entry.option("gpu_memory_mib"), ())
    given_directory(entry, LLM, "engine_dir", entry.engine_dir)
    given_directory(entry, PRE, "tokenizer_dir", entry.tokenizer_dir)
    if layout == INFLIGHT:
        _check_models(entry)


def _check_models(entry: EntryRequest) -> None:
    known = (*MODELS, MULTIMODAL)
    for model in entry.models:
        if model not in known:
            raise FleetError(f"models names '{model}'; known are {', '.join(known)}.")
        if entry.models.count(model) > 1:
            raise FleetError(f"models names {model} twice; name each once.")
    if LLM not in entry.models:
        given = ", ".join(entry.models) or "empty"
        raise FleetError(f"models is {given}; it needs {LLM}, the model that generates.")


def model_names(request: RepositoryRequest) -> dict[str, Any]:
    """The names of the models, which are known before anything else is."""
    if request.layout == SERVE:
        return {"models": [request.name], "entry_models": [request.name], "worker_models": [], "mode": SERVE}
    if request.layout == LLMAPI:
        return {"models": [LLM], "entry_models": [LLM], "worker_models": [LLM], "mode": LLMAPI}
    entries = request.entries
    return {
        "models": [entry.model_name(model) for entry in entries for model in entry.models],
        "entry_models": [entry.model_name(m) for entry in entries for m in ENTRIES if m in entry.models],
        "worker_models": [entry.model_name(LLM) for entry in entries],
        "mode": ORCHESTRATOR if len(entries) > 1 else LEADER,
    }
