# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is rendered, as files: plain manifests, a kustomize base and a Helm chart, all of the same objects.

A file is a stage or an object; its text follows from its objects alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .objects import STAGES, Item
from .text import TEMPLATE, Namespace, Value, dump, plain

CHART = "trtllm-fleet"
# The version of the chart's form; what it serves is told by the digests in it.
CHART_VERSION = "0.1.0"
MARK = ".trtllm-fleet"
MARK_TEXT = "The role trtllm.fleet.kubernetes writes and removes the files of this directory.\n"
NAMES = {"PersistentVolumeClaim": "claim", "PersistentVolume": "volume", "HorizontalPodAutoscaler": "autoscaler"}


def files(stages: Mapping[str, Sequence[Item]], release: str) -> dict[str, str]:
    """Every file by its path."""
    found = {MARK: MARK_TEXT}
    used = [stage for stage in STAGES if stages[stage]]
    for number, stage in enumerate(used, 1):
        found[f"plain/{number}-{stage}.yaml"] = "---\n".join(dump(plain(one)) for one in stages[stage])
    found.update(_base(stages, used))
    found.update(_chart(stages, used, release))
    return {path: found[path] for path in sorted(found)}


def _base(stages: Mapping[str, Sequence[Item]], used: Sequence[str]) -> dict[str, str]:
    """A base whose parts can be applied one after the other."""
    found = {"base/kustomization.yaml": _kustomization(used)}
    for stage in used:
        names = [f"{_file_of(one)}.yaml" for one in stages[stage]]
        found[f"base/{stage}/kustomization.yaml"] = _kustomization(sorted(names))
        for one in stages[stage]:
            found[f"base/{stage}/{_file_of(one)}.yaml"] = dump(plain(one))
    return found


def _kustomization(resources: Sequence[str]) -> str:
    return dump({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
                 "resources": list(resources)})  # fmt: skip


def _chart(stages: Mapping[str, Sequence[Item]], used: Sequence[str], release: str) -> dict[str, str]:
    values: dict[str, Any] = {"stages": dict.fromkeys(used, True)}
    found = {
        "chart/Chart.yaml": dump({
            "apiVersion": "v2", "name": CHART, "version": CHART_VERSION, "appVersion": release, "type": "application",
            "description": "Models of a fleet of TensorRT-LLM, as trtllm.fleet has rendered them",
        }),
    }  # fmt: skip
    for stage in used:
        for one in stages[stage]:
            condition, where = f".Values.stages.{stage}", f"chart/templates/{stage}-{_file_of(one)}.yaml"
            if one["kind"] == "Namespace":
                # Its name is that of the release's namespace; who lets Helm make it says so in the values.
                values["createNamespace"] = True
                condition = f"and {condition} .Values.createNamespace"
                one = {**one, "metadata": {**one["metadata"], "name": Namespace(str(one["metadata"]["name"]))}}
            _collect(one, values)
            found[where] = f"{TEMPLATE}- if {condition} }}}}\n{dump(one, chart=True)}{TEMPLATE}- end }}}}\n"
    found["chart/values.yaml"] = dump(values)
    return found


def _collect(value: Any, values: dict[str, Any]) -> None:
    """Put the default of each `Value` in its place."""
    if isinstance(value, Value):
        place = values
        for key in value.path[:-1]:
            place = place.setdefault(key, {})
        place[value.path[-1]] = plain(value.default)
    elif isinstance(value, Mapping):
        for item in value.values():
            _collect(item, values)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, values)


def _file_of(one: Mapping[str, Any]) -> str:
    kind = str(one["kind"])
    return f"{NAMES.get(kind, kind.lower())}-{one['metadata']['name']}"
