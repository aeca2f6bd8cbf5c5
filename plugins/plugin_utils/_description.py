# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user writes about one host, checked on the controller, and the plan that follows from it."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import check_texts, show
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.inspect import inspect_checkpoint
from ansible_collections.trtllm.fleet.plugins.module_utils._fleet import ALL, node_address, triton_address
from ansible_collections.trtllm.fleet.plugins.module_utils._plan import (
    MODEL_IMAGES,
    nodes_named,
    plan,
    refuse_unknown_keys,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._prune.rule import keep_of
from ansible_collections.trtllm.fleet.plugins.module_utils._release.options import ENGINE_OPTIONS, argument_spec
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.schema import validate_parameters
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import options as replica_options
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.gang import check_address
from ansible_collections.trtllm.fleet.plugins.plugin_utils._lost import limit
from ansible_collections.trtllm.fleet.plugins.plugin_utils._role_values import LOADER

ROLES = Path(__file__).resolve().parents[2] / "roles"
SPECS = ROLES / "fleet" / "meta" / "argument_specs.yml"
# What a model may say of an image of its own, as variables of the role triton_image say it. Of IMAGE_KEYS_OF_FLEET the
# role's own value holds where the model gives none.
IMAGE_KEYS = (
    "name", "source", "pull", "archive", "archive_location", "archive_sha256", "context", "context_location",
    "containerfile", "build_args", "push",
)  # fmt: skip
IMAGE_KEYS_OF_FLEET = ("tls_verify", "authfile")
# Text that a model is asked and answers may have any characters.
FREE_TEXT = ("prompt", "contains", "matches", "equals")
# What a replica may not say in its options, as its place is elsewhere or the plan says it.
SAID_ELSEWHERE = (
    "name", "model", "world_size", "repository_dir", "engine_dirs", "checkpoint_dirs", "fingerprint", "gpus",
    "http_port", "grpc_port", "metrics_port", "nodes", "node", "gang_port", "context", "generation",
)  # fmt: skip
# Far more than a host with eight GPUs takes, which has some hundred values.
MOST_VALUES, MOST_CHARACTERS = 100_000, 1_000_000
# Not a user's to write: the host and the inventory are asked.
ASKED: dict[str, dict[str, Any]] = {
    "held_ports": {"type": "dict", "default": {}},
    "held_gpus": {"type": "dict", "default": {}},
    "host": {"type": "str", "default": ""},
    "reached_at": {"type": "str", "default": ""},
    "gateway": {"type": "bool", "default": True},
    "gateway_hosts": {"type": "list", "elements": "str", "default": []},
    "serving_hosts": {"type": "list", "elements": "str", "default": []},
}


def load_spec() -> dict[str, Any]:
    """The options of the role ``fleet``, with the engine's own options in their place."""
    spec: dict[str, Any] = yaml.load(SPECS.read_text(encoding="utf-8"), Loader=LOADER)["argument_specs"]["main"][
        "options"
    ]
    engine = {"options": argument_spec(ENGINE_OPTIONS), "listed_in": "`ansible-doc trtllm.fleet.trtllm_engine`"}
    spec["trtllm_models"]["options"]["engine"].update(engine)
    for image in MODEL_IMAGES:
        spec["trtllm_models"]["options"][image]["options"] = _image_spec()
    replica = spec["trtllm_models"]["options"]["serving"]["options"]["replicas"]["options"]
    replica["options"].update(
        options=replica_options.argument_spec(SAID_ELSEWHERE), listed_in="the role trtllm.fleet.triton"
    )
    return {**spec, **ASKED}


def _image_spec() -> dict[str, Any]:
    path = ROLES / "triton_image" / "meta" / "argument_specs.yml"
    role = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    options: dict[str, Any] = role["argument_specs"]["main"]["options"]
    found = {key: dict(options[f"triton_image_{key}"]) for key in (*IMAGE_KEYS, *IMAGE_KEYS_OF_FLEET)}
    for key in IMAGE_KEYS_OF_FLEET:
        found[key].pop("default", None)
    return found


def described(
    given: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> dict[str, Any]:
    """The plan of the host whose description is *given*; raises `FleetError` for what contradicts itself.

    *nodes*: see `nodes_told`.
    """
    refuse_too_much(given)
    spec = load_spec()
    refuse_unknown_keys(given, spec)
    only_gateway = _only_gateway(given)
    if only_gateway:
        spec["trtllm_models"]["required"] = False
    refuse_other_shapes(given, spec)
    validated = ArgumentSpecValidator(with_defaults(spec)).validate(given)
    if validated.error_messages:
        raise FleetError("; ".join(validated.error_messages) + ".")
    values = dict(validated.validated_parameters)
    check_texts(spec, values, FREE_TEXT)
    limit(values["trtllm_max_lost"], 1)
    keep_of(values["trtllm_keep"])
    if values["trtllm_node_address"] is not None:
        check_address(values["trtllm_node_address"], "trtllm_node_address")
    values["serves"] = not only_gateway
    values["trtllm_triton_address"] = triton_address(
        values["trtllm_triton_address"], values["reached_at"], _fronted_elsewhere(values), addresses_of
    )
    values["node_addresses"] = {
        name: node_address(told.get("address"), told["reached_at"], name, addresses_of) for name, told in nodes.items()
    }
    found = plan(values)
    for repository in found["repositories"]:
        where = f"{repository['name']}: repository.parameters"
        release = repository.get("release") or found["release"]
        layout = repository.get("layout", "inflight_batcher_llm")
        validate_parameters(release, layout, repository["parameters"], where)
    for checkpoint in found["checkpoints"]:
        if checkpoint["source"] == "path" and checkpoint["location"] == "controller":
            inspect_checkpoint(Path(os.path.expanduser(checkpoint["path"])))
    return found


def refuse_too_much(given: Mapping[str, Any]) -> None:
    """Refuse what nobody has written: a file read into a value, or YAML aliases that repeat each other.

    What aliases repeat is counted as often as it would be written; the count ends where it is too much.
    """
    left = [(name, value) for name, value in given.items() if name not in ASKED]
    values = characters = 0
    while left:
        name, value = left.pop()
        values += 1
        if isinstance(value, (str, bytes)):
            characters += len(value)
        elif isinstance(value, Mapping):
            left += [(name, part) for pair in value.items() for part in pair]
        elif isinstance(value, (list, tuple)):
            left += [(name, part) for part in value]
        if values > MOST_VALUES or characters > MOST_CHARACTERS:
            raise FleetError(
                f"The description of this host has more than {MOST_VALUES} values or {MOST_CHARACTERS} characters, "
                f"in {name} at least; look for a file read into a value, or for aliases that repeat each other."
            )


def refuse_other_shapes(value: Any, spec: Mapping[str, Any], path: str = "") -> None:
    """Refuse what Ansible's own validation cannot judge but ends on: another value in the place of a dictionary with
    options, and a number that is none.
    """
    for name, option in spec.items():
        given = value.get(name)
        at = f"{path}{name}"
        many = option.get("type") == "list" and isinstance(given, list)
        for index, one in enumerate(given if many else [given]):
            where = f"{at}[{index}]" if many else at
            if isinstance(one, float) and not math.isfinite(one):
                raise FleetError(f"{where} is {one}; give a number.")
            if "options" not in option or (one is None and not many):
                continue
            if not isinstance(one, Mapping):
                raise FleetError(f"{where} is {show(one)}; give a dictionary with {_some(option['options'])}.")
            refuse_other_shapes(one, option["options"], f"{where}.")


def _some(options: Mapping[str, Any]) -> str:
    """The options that are required, or else some of them."""
    required = [name for name, option in options.items() if option.get("required")]
    return " and ".join(required) or f"options such as {', '.join(sorted(options)[:3])}"


def nodes_told(models: Any, hostvars: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the inventory tells of the hosts that *models* name as nodes; of those that it does not know, nothing."""
    return {
        name: {
            "address": host_value(hostvars, name, "trtllm_node_address"),
            "reached_at": str(host_value(hostvars, name, "ansible_host") or name),
        }
        for name in nodes_named(models)
        if name in hostvars
    }


def host_value(hostvars: Any, name: str, variable: str, default: Any = None) -> Any:
    """A variable of a host as its tasks would see it."""
    try:
        return hostvars[name].get(variable, default) if variable in hostvars.raw_get(name) else default
    except AnsibleError as error:
        raise FleetError(
            f"{variable} of {name} cannot be worked out: {error}; correct it, though the run may be limited to other "
            "hosts: gateways or nodes of one replica depend on it."
        ) from error


def addresses_of(name: str) -> list[str]:
    """The IP addresses of *name*, those of IPv4 where it has any; none where it has no meaning here."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    four = {str(entry[4][0]) for entry in found if entry[0] == socket.AF_INET}
    return sorted(four or {str(entry[4][0]) for entry in found if entry[0] == socket.AF_INET6})


def _only_gateway(given: Mapping[str, Any]) -> bool:
    host = given.get("host")
    return host in given.get("gateway_hosts", []) and host not in given.get("serving_hosts", [])


def _fronted_elsewhere(values: Mapping[str, Any]) -> bool:
    """Whether gateways of other hosts front the replicas of this one."""
    if not values["serves"] or not values["trtllm_serves"] or not values["gateway"]:
        return False
    gateways = values["gateway_hosts"] or (values["serving_hosts"] if values["trtllm_gateway_fronts"] == ALL else [])
    return any(gateway != values["host"] for gateway in gateways)


def with_defaults(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The same spec, with every dictionary that has options filled with their defaults."""
    known = ("type", "required", "default", "choices", "elements", "no_log", "aliases")
    out: dict[str, Any] = {}
    for name, option in spec.items():
        out[name] = {key: value for key, value in option.items() if key in known}
        if "options" in option:
            out[name]["options"] = with_defaults(option["options"])
            # One without a default is given as a whole or not at all.
            if option.get("type") == "dict" and not option.get("required") and "default" in option:
                out[name]["apply_defaults"] = True
                out[name].pop("default", None)
    return out
