# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The llmapi repository: one Python model whose engine is described by a model.yaml."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._base.errors import FleetError
from .entry import EntryRequest, conflict
from .pbtxt import PbtxtError, parse
from .schema_llmapi import MODEL, normalise_llmapi
from .schema_values import id_lists
from .templates import CONFIG, ModelTemplate

MODEL_YAML = "1/model.yaml"
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
# What YAML 1.1, as PyYAML reads it, takes for something other than text.
_WORDS = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"])


@dataclass
class LlmApi:
    """What the model is told, and what follows from it. *instances* copies of *gpus* ranks each."""

    arguments: dict[str, Any]
    triton: dict[str, Any]
    gpus: int
    instances: int
    gpu_ids: str | None
    derived: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def streaming(self) -> bool:
        """Whether the model answers token by token."""
        return bool(self.triton["decoupled"])

    @property
    def max_batch_size(self) -> int:
        """The batch size that Triton sees."""
        return int(self.triton["max_batch_size"])

    def yaml(self) -> str:
        """The model.yaml."""
        return yaml_text({**self.arguments, "triton_config": self.triton})


def resolve_llmapi(request: EntryRequest) -> LlmApi:
    """The arguments of the model: what was given, what is derived, and no two that contradict each other."""
    given = normalise_llmapi(request.parameters, request.label)
    triton = dict(given.pop("triton_config", {}))
    instances, gpu_ids = given.pop("instance_count", None), given.pop("gpu_device_ids", None)
    derived: dict[str, dict[str, str]] = {}

    def derive(name: str, value: Any, source: str) -> None:
        if name not in given:
            given[name] = value
            derived[name] = {"value": str(value), "source": source}

    if request.tokenizer_dir:
        if given.get("model", request.tokenizer_dir).rstrip("/") != request.tokenizer_dir.rstrip("/"):
            raise conflict(
                f"model '{given['model']}'", f"{request.label}.{MODEL}.model", f"'{request.tokenizer_dir}'",
                "the option tokenizer_dir", "give one of them",
            )  # fmt: skip
        derive("model", request.tokenizer_dir, "the option tokenizer_dir")
    if "model" not in given:
        raise FleetError("tokenizer_dir is missing; give the checkpoint's directory on the host, the LLM API loads it.")
    derive("backend", "pytorch", "upstream's template")
    for name in ("tensor_parallel_size", "pipeline_parallel_size"):
        derive(name, 1, "upstream's default")
    triton = {"max_batch_size": 0, **triton, "decoupled": _streaming(request, triton)}
    gpus = given["tensor_parallel_size"] * given["pipeline_parallel_size"] * given.get("context_parallel_size", 1)
    instances = _check_instances(request, instances, gpu_ids, gpus)
    return LlmApi(given, triton, gpus, instances, gpu_ids, derived)


def _streaming(request: EntryRequest, triton: Mapping[str, Any]) -> bool:
    given = triton.get("decoupled")
    if given is not None and request.streaming is not None and given != request.streaming:
        raise conflict(
            f"decoupled {str(given).lower()}", f"{request.label}.{MODEL}.triton_config.decoupled",
            str(request.streaming).lower(), "streaming", "set the option streaming only",
        )  # fmt: skip
    return bool(request.streaming if given is None else given)


def _check_instances(request: EntryRequest, instances: int | None, gpu_ids: str | None, gpus: int) -> int:
    """One list of GPUs for each instance, each as long as the model has ranks."""
    lists = id_lists(gpu_ids) if gpu_ids else []
    at = f"{request.label}.{MODEL}"
    for ids in lists:
        if len(ids) != gpus:
            raise conflict(
                f"gpu_device_ids {gpu_ids}", f"{at}.gpu_device_ids", f"{gpus} GPUs for each instance",
                "tensor_parallel_size * pipeline_parallel_size", "list as many for each instance",
            )  # fmt: skip
    count = instances or len(lists) or 1
    if count != (len(lists) or 1):
        raise conflict(
            f"instance_count {count}", f"{at}.instance_count", f"{len(lists)} lists in gpu_device_ids",
            f"{at}.gpu_device_ids", "separate one list for each instance by ';'",
        )  # fmt: skip
    return count


def render_config(template: ModelTemplate, model: LlmApi) -> str:
    """config.pbtxt with what auto-complete, which Triton runs without, would set: policy, batch size, instances."""
    try:
        document = parse(template.config)
    except PbtxtError as error:
        raise FleetError(
            f"{template.directory / CONFIG} is not a model configuration: {error}; give the templates of the release."
        ) from error
    replaced = ["max_batch_size", "model_transaction_policy", *(["instance_group"] if model.instances > 1 else [])]
    text = template.config
    places = [place for name in replaced for place in document.places.get(name, [])]
    for place in sorted(places, key=lambda place: -place.start):
        text = text[: place.start] + text[place.end :].lstrip(",;")
    added = [
        f"max_batch_size: {model.max_batch_size}",
        f"model_transaction_policy {{\n  decoupled: {str(model.streaming).lower()}\n}}",
    ]
    if model.instances > 1:
        added.append(f"instance_group [\n  {{\n    count: {model.instances}\n    kind: KIND_CPU\n  }}\n]")
    if model.gpu_ids:
        value = f'value: {{\n    string_value: "{model.gpu_ids}"\n  }}'
        added.append(f'parameters: {{\n  key: "gpu_device_ids"\n  {value}\n}}')
    text = text.rstrip("\n") + "\n\n" + "\n".join(added) + "\n"
    parse(text)  # as Triton will
    return text


def yaml_text(value: Mapping[str, Any]) -> str:
    """A mapping as YAML."""
    return "".join(_yaml(value, 0))


def _yaml(value: Mapping[str, Any], depth: int) -> list[str]:
    """Lines of block YAML that PyYAML reads back as *value*; lists and what is in them stand in JSON's form."""
    lines = []
    for key, item in value.items():
        head = f"{'  ' * depth}{_scalar(str(key))}:"
        if isinstance(item, Mapping) and item:
            lines += [f"{head}\n", *_yaml(item, depth + 1)]
        else:
            lines.append(f"{head} {_scalar(item)}\n")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
        return value if plain else json.dumps(value)
    if isinstance(value, float):
        # YAML 1.1 wants a point in a number with an exponent.
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text if math.isfinite(value) else "null"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_scalar(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(str(key))}: {_scalar(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)
