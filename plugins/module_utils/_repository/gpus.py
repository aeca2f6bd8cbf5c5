# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several sets of models in one repository, which upstream serves in its orchestrator mode, share the host's GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from .._base.errors import FleetError
from .._base.versions import version_key
from .._release.releases import Release
from .entry import LLM, Resolved, Value, conflict
from .schema_values import id_lists

# The first release with upstream's multi-model (orchestrator) mode.
FIRST_ORCHESTRATOR = "0.9.0"


def assign_gpus(entries: Sequence[Resolved], rel: Release) -> None:
    """With several entries in one repository each LLM gets GPUs of its own; overlaps are refused."""
    if len(entries) < 2:
        return
    if rel.key < version_key(FIRST_ORCHESTRATOR):
        raise FleetError(
            f"Release {rel.version} cannot serve several models from one repository; take release "
            f"{FIRST_ORCHESTRATOR} or newer, or give each model a repository of its own."
        )
    for name in ("gpu_device_ids", "participant_ids"):
        _refuse_overlap(entries, name)
    taken = {number for entry in entries for number in _ids(entry, "gpu_device_ids")}
    for entry in entries:
        if LLM not in entry.values or entry.get(LLM, "gpu_device_ids") or entry.world_size is None:
            continue
        free = [number for number in range(len(taken) + entry.world_size) if number not in taken][: entry.world_size]
        taken.update(free)
        entry.values[LLM]["gpu_device_ids"] = Value(
            ",".join(str(number) for number in free), "the lowest GPUs that no other entry of the repository uses"
        )


def _ids(entry: Resolved, name: str) -> list[int]:
    text = entry.text(LLM, name)
    return [number for ids in id_lists(text) for number in ids] if text else []


def _refuse_overlap(entries: Sequence[Resolved], name: str) -> None:
    owners: dict[int, Value] = {}
    for entry in entries:
        value = entry.get(LLM, name)
        for number in _ids(entry, name):
            if number in owners and value is not None:
                raise conflict(
                    f"{name} {value.text}", value.source, f"{owners[number].text}", owners[number].source,
                    f"both name {number}, and models of one repository must not share it",
                )  # fmt: skip
            if value is not None:
                owners[number] = value
