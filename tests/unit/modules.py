# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's modules as Ansible calls them: their options, and their answer to a set of arguments."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.testing import patch_module_args
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._plan import plan
from ansible_collections.trtllm.fleet.plugins.plugin_utils._description import load_spec, with_defaults
from ansible_collections.trtllm.fleet.plugins.plugin_utils._kubernetes import Output, cluster

PACKAGE = "ansible_collections.trtllm.fleet.plugins.modules"
DIRECTORY = Path(__file__).resolve().parents[2] / "plugins" / "modules"
# What runs on the controller alone is an action: its options are those that it documents.
DESCRIBED_ELSEWHERE = {"fleet_plan": load_spec}
NAMES = sorted(path.stem for path in DIRECTORY.glob("[a-z]*.py"))


class Option(NamedTuple):
    """An option that holds no others: ``services[].listen[].address``."""

    module: str
    path: str
    about: Mapping[str, Any]

    def takes(self, kind: str) -> bool:
        """Whether it takes a value of this type, or a list of them."""
        return kind in (self.about.get("type", "str"), self.about.get("elements"))


class _Captured(Exception):
    pass


def load(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}")


def spec(name: str) -> Mapping[str, Any]:
    """The argument specification of a module."""
    if name in DESCRIBED_ELSEWHERE:
        return DESCRIBED_ELSEWHERE[name]()
    module = load(name)
    if not hasattr(module, "AnsibleModule"):
        documented: Mapping[str, Any] = yaml.safe_load(module.DOCUMENTATION)["options"]
        return documented
    original = module.AnsibleModule

    def capture(argument_spec: Mapping[str, Any], **_: Any) -> None:
        raise _Captured(argument_spec)

    module.AnsibleModule = capture  # type: ignore[attr-defined]
    try:
        module.main()
    except _Captured as captured:
        (argument_spec,) = captured.args
        return dict(argument_spec)
    finally:
        module.AnsibleModule = original  # type: ignore[attr-defined]
    raise AssertionError(f"{name} makes no AnsibleModule")


def _leaves(module: str, options: Mapping[str, Any], at: str = "") -> Iterator[Option]:
    for name, about in options.items():
        if about.get("options"):
            many = "[]" if about.get("type") == "list" else ""
            yield from _leaves(module, about["options"], f"{at}{name}{many}.")
        else:
            yield Option(module, f"{at}{name}", about)


def options() -> list[Option]:
    """All options of all modules."""
    return [option for name in NAMES for option in _leaves(name, spec(name))]


def given(option: Option, value: Any, others: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the module, with *value* for *option*, however deep it is."""
    arguments: dict[str, Any] = json.loads(json.dumps(others))
    *parents, last = option.path.split(".")
    place: Any = arguments
    for parent in parents:
        name = parent.removesuffix("[]")
        place = place.setdefault(name, [{}] if parent.endswith("[]") else {})
        place = place[0] if isinstance(place, list) else place
    place[last] = [value] if option.about.get("type") == "list" else value
    return arguments


def call(name: str, arguments: Mapping[str, Any], *, check: bool = False) -> dict[str, Any]:
    """The module's result."""
    if name == "fleet_plan":
        return _planned(arguments)
    if name == "kubernetes_manifests":
        return _rendered(arguments)
    said = io.StringIO()
    with (
        patch_module_args({**arguments, "_ansible_check_mode": check}),
        contextlib.redirect_stdout(said),
        contextlib.suppress(SystemExit),
    ):
        importlib.reload(load(name)).main()  # validation fills in a specification's own defaults
    result: dict[str, Any] = json.loads(said.getvalue().strip().splitlines()[-1])
    return result


def _planned(arguments: Mapping[str, Any]) -> dict[str, Any]:
    given = {"trtllm_triton_address": "127.0.0.1", **arguments}
    validated = ArgumentSpecValidator(with_defaults(load_spec())).validate(given)
    assert not validated.error_messages, validated.error_messages
    try:
        return {"changed": False, "plan": plan(validated.validated_parameters)}
    except FleetError as error:
        return {"failed": True, "msg": str(error)}


def _rendered(arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        output = Output(arguments["output"])
        return {"changed": bool(output.differences({})), "objects": cluster(arguments, {})}
    except FleetError as error:
        return {"failed": True, "msg": str(error)}
