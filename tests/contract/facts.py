# SPDX-License-Identifier: GPL-3.0-or-later
"""What is recorded of upstream (``data/``): names, kinds, defaults, choices and commands; facts, none of its text.

Read from the sources of TensorRT-LLM 0.7.1 to 0.16.0 (the commits that tensorrtllm_backend's tags name) and of an
import of 1.0.0, from the tags of tensorrtllm_backend, from Triton's compatibility matrix and from podman's Quadlet.
A value that several releases share stands once, under the range of releases that share it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("data")
Fact = dict[str, Any]


def _read(name: str) -> Any:
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def _within(spans: str, order: Sequence[str]) -> Sequence[str]:
    """The members of *order* that ``0.8.0-0.12.0 1.0.0-`` names; without an end a span goes on to the last."""
    found: list[str] = []
    for span in spans.split():
        first, dash, last = span.partition("-")
        found += order[order.index(first) : order.index(last or (order[-1] if dash else first)) + 1]
    return found


@cache
def engine_options() -> dict[str, dict[str, dict[str, Fact]]]:
    """release -> tool -> flag -> what its argparse says: type, default, choices, nargs, const, action, aliases.

    What is not said is not there. The lists are complete for every tool and release that is in them.
    """
    found: dict[str, dict[str, dict[str, Fact]]] = {}
    for tool, recorded in _read("engine_options.json").items():
        for release in recorded["releases"]:
            found.setdefault(release, {})[tool] = {}
        for flag, rows in recorded["options"].items():
            for spans, fact in rows:
                for release in _within(spans, recorded["releases"]):
                    found[release][tool][flag] = fact
    return found


@cache
def openai_frontend_options() -> dict[str, dict[str, Fact]]:
    """Triton release (YY.MM) -> flag of its OpenAI frontend -> what its argparse says, oldest release first."""
    recorded = _read("openai_frontend_options.json")
    found: dict[str, dict[str, Fact]] = {triton: {} for triton in recorded["releases"]}
    for flag, rows in recorded["options"].items():
        for spans, fact in rows:
            for triton in _within(spans, recorded["releases"]):
                found[triton][flag] = fact
    return found


@cache
def serve_options() -> dict[str, Any]:
    """What trtllm-serve takes: ``flags`` by version (1.0.0, 1.3.0rc3, main), those that are ``bare``, and ``keys`` of
    the LLM API's file, by the mapping that they stand in and by version.
    """
    recorded: dict[str, Any] = _read("serve_options.json")
    return recorded


@cache
def launch_commands() -> dict[str, dict[str, list[str]]]:
    """tag -> case -> the words that upstream's own launch script would have run."""
    return {
        tag: {case: command.split(" ") for case, command in group["commands"].items()}
        for group in _read("launch_commands.json")
        for tag in group["tags"]
    }


@cache
def release_images() -> list[Fact]:
    """Triton's image tags and what they hold, newest first."""
    images: list[Fact] = _read("release_images.json")
    return images


@cache
def quadlet_keys() -> dict[str, str]:
    """Quadlet key -> first podman that knows it."""
    return {key: version for version, keys in _read("quadlet_keys.json").items() for key in keys}


@cache
def model_repository_params() -> dict[str, dict[str, dict[str, list[str]]]]:
    """tag -> model -> placeholders, pbtxt_scalar_placeholders, parameter_keys, inputs, outputs of its template."""
    recorded = _read("model_repository_params.json")
    tags: list[str] = recorded["tags"]
    found: dict[str, dict[str, dict[str, list[str]]]] = {tag: {} for tag in tags}
    for model, kinds in recorded["models"].items():
        for kind, rows in kinds.items():
            for spans, names in rows.items():
                for tag in _within(spans, tags):
                    facts = found[tag].setdefault(model, {name: [] for name in kinds})
                    facts[kind] += names
    return found


@cache
def left_out() -> dict[tuple[str, str], str]:
    """(tool, or empty for all; flag) -> why the table of options leaves it out on purpose. No fact: our decision."""
    return {
        (tool, flag): group["why"]
        for group in _read("left_out.json")
        for tool in group.get("tools", [""])
        for flag in group["flags"]
    }
