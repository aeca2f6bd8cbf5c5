# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user writes about a cluster, checked on the controller, and the files that follow from it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.trtllm.fleet.plugins.module_utils._base import files
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import check_absolute, check_path, check_texts
from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes import forms
from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes.objects import Item
from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes.render import ANY, as_pods, render
from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes.workload import GROUP_SCRIPT
from ansible_collections.trtllm.fleet.plugins.module_utils._plan import refuse_unknown_keys
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import disaggregated, serve
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.options import REPLICA_OPTIONS, argument_spec
from ansible_collections.trtllm.fleet.plugins.plugin_utils._description import (
    ROLES,
    described,
    refuse_other_shapes,
    with_defaults,
)

SCRIPTS = ("run.sh", "probe.sh", "stop.py", "gang.py", *serve.SCRIPTS[1:], disaggregated.SCRIPT)
APPLIER, PREFIX = "kubernetes.core", "kubernetes_"
# A host that stands for all pods of a cluster.
HOST = "node-0"


def cluster(given: Mapping[str, Any], triton: Mapping[str, Any]) -> dict[str, list[Item]]:
    """The objects by stage. *given*: the arguments of M(trtllm.fleet.kubernetes_manifests); *triton*: what the
    inventory says for all replicas, by option.
    """
    if given.get("trtllm_root") is not None:
        check_path(given["trtllm_root"], "trtllm_root")
    models = given["trtllm_models"]
    if not isinstance(models, list):
        raise FleetError("trtllm_models is no list; describe each model as an element of it.")
    _refuse_secrets(models)
    pods, nodes = as_pods(models)
    description = {
        "trtllm_release": given["trtllm_release"],
        **({"trtllm_root": given["trtllm_root"]} if given.get("trtllm_root") is not None else {}),
        "trtllm_triton_address": ANY,
        "trtllm_models": pods,
        "host": HOST,
        "serving_hosts": [HOST, *(name for name in nodes if name != HOST)],
        "gateway": False,
    }
    scripts = {name: (ROLES / "triton" / "files" / name).read_text(encoding="utf-8").rstrip("\n") for name in SCRIPTS}
    scripts[GROUP_SCRIPT] = (ROLES / "kubernetes" / "files" / GROUP_SCRIPT).read_text(encoding="utf-8").rstrip("\n")
    _settings, stages = render(
        described(description, nodes),
        settings_of(given["settings"]),
        {**triton, "scripts": scripts},
        given["images"],
        given.get("published") or None,
    )
    return stages


def settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the role kubernetes without their prefix, judged, with its defaults at every depth."""
    role = yaml.safe_load((ROLES / "kubernetes" / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    spec = role["argument_specs"]["main"]["options"]
    values = {f"{PREFIX}{name}": value for name, value in given.items()}
    refuse_unknown_keys(values, spec)
    known = {name: spec[name] for name in values}
    refuse_other_shapes(values, known)
    validated = ArgumentSpecValidator(with_defaults(known)).validate(values)
    if validated.error_messages:
        raise FleetError("; ".join(validated.error_messages) + ".")
    found = dict(validated.validated_parameters)
    check_texts(known, found)
    return {name.removeprefix(PREFIX): value for name, value in found.items()}


def _refuse_secrets(models: Sequence[Any]) -> None:
    """No secret gets into a manifest: a cluster has it, and it is named."""
    for model in models:
        checkpoint = model.get("checkpoint") if isinstance(model, Mapping) else None
        if isinstance(checkpoint, Mapping) and (checkpoint.get("token") or checkpoint.get("token_file")):
            raise FleetError(
                f"{model.get('name')}: checkpoint has a token, and manifests hold no secret; keep it in a Secret of "
                "the cluster and name that in kubernetes_token_secret."
            )


def triton_settings(variable: Any) -> dict[str, Any]:
    """What the inventory says for all replicas: *variable* gives the value of a variable, None where there is none."""
    found = {option.name: variable(f"triton_{option.name}") for option in REPLICA_OPTIONS if option.variable}
    found = {name: value for name, value in found.items() if value is not None}
    spec = argument_spec()
    validated = ArgumentSpecValidator({f"triton_{name}": spec[name] for name in found}).validate(
        {f"triton_{name}": value for name, value in found.items()}
    )
    if validated.error_messages:
        raise FleetError("; ".join(validated.error_messages) + ".")
    return {name: validated.validated_parameters[f"triton_{name}"] for name in found}


def can_apply() -> bool:
    """Whether the collection that applies manifests is there."""
    try:
        return importlib.util.find_spec(f"ansible_collections.{APPLIER}") is not None
    except ModuleNotFoundError:
        return False


class Output:
    """The directory that the files are written to, which holds nothing else."""

    def __init__(self, path: str) -> None:
        self.path = Path(check_absolute(path, "kubernetes_output"))
        self.present = self._present()

    def _present(self) -> dict[str, str]:
        if not self.path.exists():
            return {}
        if not (self.path / forms.MARK).is_file() and any(self.path.iterdir()):
            raise FleetError(
                f"{self.path} holds other files; give kubernetes_output a directory that is empty or not there yet."
            )
        found = {}
        for path in sorted(self.path.rglob("*")):
            if path.is_symlink() or path.is_file():
                found[str(path.relative_to(self.path))] = path.read_text(encoding="utf-8", errors="replace")
        return found

    def differences(self, wanted: Mapping[str, str]) -> list[tuple[str, Optional[str], Optional[str]]]:
        """(path, before, after) of each file that differs, None for none."""
        paths = sorted({*self.present, *wanted})
        pairs = [(path, self.present.get(path), wanted.get(path)) for path in paths]
        return [(path, before, after) for path, before, after in pairs if before != after]

    def write(self, wanted: Mapping[str, str]) -> None:
        """Make the directory hold exactly these files; its mark comes first."""
        self.path.mkdir(parents=True, exist_ok=True)
        for path, _before, after in sorted(self.differences(wanted), key=lambda one: one[0] != forms.MARK):
            place = self.path / path
            if after is None:
                files.remove(place)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                files.write_atomically(place, after.encode())
        for directory in sorted((one for one in self.path.rglob("*") if one.is_dir()), reverse=True):
            if not any(directory.iterdir()):
                directory.rmdir()
