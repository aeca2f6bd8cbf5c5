# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a repository's result tells the roles that follow: of the repository as a whole, and of each set of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._checkpoint.tokenizer import Tokenizer
from .entry import BLS, ENTRIES, LLM, Resolved
from .llmapi import LlmApi
from .render import RenderedModel
from .request import LEADER, ORCHESTRATOR
from .schema import LLMAPI, SERVE
from .schema_values import is_true

# Values of the first entry that are the repository's too.
SHARED = (
    "max_batch_size", "max_input_len", "max_seq_len", "decoupled", "cumulative", "end_id", "pad_id", "stop_ids",
)  # fmt: skip


def inflight_facts(
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


def llmapi_facts(model: LlmApi, tokenizer: Tokenizer | None) -> dict[str, Any]:
    entry = {
        "prefix": "",
        "entry_models": [LLM],
        "worker_model": LLM,
        "world_size": 1,  # the model starts its own ranks
        "gpus": model.gpus * model.instances,
        "max_batch_size": model.max_batch_size,
        "max_input_len": model.arguments.get("max_input_len"),
        "max_seq_len": model.arguments.get("max_seq_len"),
        "decoupled": model.streaming,
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
        "derived": {LLM: model.derived},
    }


def serve_facts(name: str, config: Mapping[str, Any], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The same of a checkpoint that trtllm-serve serves under *name*."""
    entry = {
        "prefix": "",
        "entry_models": [name],
        "worker_model": None,
        "world_size": 1,  # the server starts its own ranks
        "max_batch_size": config.get("max_batch_size"),
        "max_input_len": config.get("max_input_len"),
        "max_seq_len": config.get("max_seq_len"),
        "decoupled": True,
        "gpu_device_ids": None,
        "cumulative": False,
        **_token_facts(tokenizer),
    }
    return {
        **{key: entry[key] for key in SHARED},
        "world_size": 1,
        "mode": SERVE,
        "models": [name],
        "entry_models": [name],
        "worker_models": [],
        "entries": [entry],
        "derived": {},
    }
