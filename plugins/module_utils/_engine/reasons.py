# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why an engine is stale, in the words of its options: what two ``made_from`` differ in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .._artifact.fingerprint import content_differences, differences
from .._base.errors import FleetError
from .._release.lookup import PRODUCTS, default_of, flags, option_of
from .._release.releases import release

SHORT = 12  # characters of a digest in a sentence


def explain(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line for each input that differs between two ``made_from``."""
    lines = content_differences(
        before.get("checkpoint", {}).get("files", {}), after["checkpoint"]["files"], "checkpoint: "
    )
    return lines + differences(*_sides(before, after))


def diff(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """``before`` and ``after`` for Ansible's diff; of the checkpoint's files only those that differ."""
    old, new = _sides(before or {}, after or {})
    return {"before": _side(before, after, old), "after": _side(after, before, new)}


def _side(this: Mapping[str, Any] | None, other: Mapping[str, Any] | None, flat: dict[str, Any]) -> dict[str, Any]:
    if this is None:
        return {}
    mine = this.get("checkpoint", {}).get("files", {})
    theirs = other.get("checkpoint", {}).get("files", {}) if other else mine
    changed = {path: digest[:SHORT] for path, digest in mine.items() if theirs.get(path) != digest}
    digest = this.get("checkpoint", {}).get("digest")
    checkpoint = {"digest": digest[:SHORT] if digest else None, **({"files": changed} if changed else {})}
    return {"checkpoint": checkpoint, **flat}


def _sides(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything but the files, under the names that an operator knows.

    An option that only one side has, with the value that the other side's tools have by default, is no difference.
    """
    new = _options(after)
    old = _options(before, alike=new)
    for mine, theirs, their_tools in ((old, new, after), (new, old, before)):
        for option in [name for name in mine if name not in theirs]:
            if _default(option, their_tools) == mine[option]:
                del mine[option]
    return {**_facts(before), **old}, {**_facts(after), **new}


def _facts(made_from: Mapping[str, Any]) -> dict[str, Any]:
    """All that is no option."""
    gpu = made_from.get("gpu") or {}
    facts: dict[str, Any] = {
        "image": _short(made_from.get("image")),
        "release": made_from.get("release"),
        "model_family": made_from.get("family"),
        "GPU": gpu.get("name"),
        "GPU compute capability": gpu.get("compute_capability"),
        "GPU count": gpu.get("count"),
        "nodes": (made_from.get("nodes") or {}).get("count"),
    }
    for option, digest in made_from.get("inputs", {}).items():
        facts[f"{option} content"] = digest[:SHORT]
    return {key: value for key, value in facts.items() if value is not None}


def _short(value: Any) -> Any:
    """A digest cut to what a reader needs; anything else as it is."""
    return f"{value[: 7 + SHORT]}" if isinstance(value, str) and value.startswith("sha256:") else value


def _default(option: str, made_from: Mapping[str, Any]) -> Any:
    """What the tools that *made_from* names do about *option* where it is not given; None where it is not known."""
    try:
        version = release(str(made_from.get("release")))
    except FleetError:
        return None
    return default_of(option, version, str(made_from.get("family")), "qformat" in _options(made_from))


def _options(made_from: Mapping[str, Any], alike: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The options that an engine was made from.

    Manifests of collection 0.1.0 have only the tools' arguments; these are told as options, a length as *alike* has it.
    """
    if "options" in made_from:
        return dict(made_from["options"])
    found: dict[str, Any] = {}
    for option, value in _from_arguments(made_from):
        found.setdefault(option, value)
    total, output = found.get("max_seq_len"), found.get("max_output_len")
    prompt = found.get("max_input_len") or _prompt(made_from)
    if output is not None and prompt and "max_seq_len" in (alike or {}):
        found["max_seq_len"] = found.pop("max_output_len") + prompt
    elif total is not None and prompt and "max_output_len" in (alike or {}):
        found["max_output_len"] = found.pop("max_seq_len") - prompt
    return found


def _prompt(made_from: Mapping[str, Any]) -> int | None:
    """The default of max_input_len of the tool that was used."""
    for tool in made_from.get("build", {}):
        for found in flags(tool).get("max_input_len", []):
            if found.default:
                return int(found.default)
    return None


def _from_arguments(made_from: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(option, value) for each argument in ``convert`` and ``build``."""
    for stage in ("convert", "build"):
        for values in made_from.get(stage, {}).values():
            for name, value in values.items():
                if name == "use-weight-only-with-precision":
                    yield from (("use_weight_only", True), ("weight_only_precision", value))
                elif name == "paged_kv_cache":
                    yield "kv_cache_type", "continuous" if value == "disable" else "paged"
                elif name not in PRODUCTS or not {*PRODUCTS[name]} & {*values}:
                    yield option_of(name), {"enable": True, "disable": False}.get(str(value), value)
