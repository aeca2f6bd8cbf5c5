# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tools a release builds an engine with, under which names they know an option, and which releases know it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from .cli_data import CHOICES, TOOLS
from .options import BUILD, CONVERSION, ENGINE_OPTIONS, LIMITS, LORA, PARALLELISM, PLUGINS, QUANTIZATION
from .releases import RELEASES, Release, span

BUILD_TOOL, QUANTIZE_TOOL = "trtllm-build", "quantization/quantize.py"

# family | releases | tools in the order in which they run
_FLOWS = """
llama    | 0.7.1        | llama/build.py
llama    | 0.8.0-       | llama/convert_checkpoint.py trtllm-build
mistral  | 0.7.1        | llama/build.py
mistral  | 0.8.0-       | llama/convert_checkpoint.py trtllm-build
mixtral  | 0.7.1        | llama/build.py
mixtral  | 0.8.0-       | llama/convert_checkpoint.py trtllm-build
baichuan | 0.7.1        | baichuan/build.py
baichuan | 0.8.0-       | baichuan/convert_checkpoint.py trtllm-build
gpt2     | 0.7.1-0.8.0  | gpt/hf_gpt_convert.py gpt/build.py
gpt2     | 0.9.0-       | gpt/convert_checkpoint.py trtllm-build
qwen     | 0.7.1-0.8.0  | qwen/build.py
qwen     | 0.9.0-       | qwen/convert_checkpoint.py trtllm-build
qwen2    | 0.10.0-      | qwen/convert_checkpoint.py trtllm-build
phi      | 0.8.0-       | phi/convert_checkpoint.py trtllm-build
phi3     | 0.11.0-      | phi/convert_checkpoint.py trtllm-build
gemma    | 0.9.0-       | gemma/convert_checkpoint.py trtllm-build
falcon   | 0.8.0-       | falcon/convert_checkpoint.py trtllm-build
"""

# Flags that take a product of options. Of the flags for ranks a tool gets each that it knows, not the first alone.
PRODUCTS: dict[str, tuple[str, ...]] = {"world_size": ("tp_size", "pp_size")}

# What each kind of tool may be given. An option of the engine goes to every tool of the flow that takes it.
_CONVERT = {*PARALLELISM, *CONVERSION, *QUANTIZATION, *LORA, "model_version", "log_level"} - {"lora_plugin"}
_QUANTIZE = {*PARALLELISM, *QUANTIZATION, "dtype", "log_level"} - {"workers"}
_BUILD = {*LIMITS, *BUILD, *LORA, *PLUGINS, "logits_dtype", "workers"}
_EVERYTHING = {*_CONVERT, *_BUILD}
# What a tool may be given for one family only: the ranks of all others are those of the converted checkpoint.
_TAKES_BESIDES = {(BUILD_TOOL, "phi"): {"tp_size", "pp_size"}}


@dataclass(frozen=True)
class Flag:
    """One option of one tool over a range of releases."""

    name: str
    first: tuple[int, ...]
    last: tuple[int, ...]
    kind: str
    default: str | None
    choices: tuple[str, ...]
    says: tuple[str, ...]


@cache
def flags(tool: str) -> dict[str, list[Flag]]:
    """All options of *tool*, by name, over all releases."""
    found: dict[str, list[Flag]] = {}
    for line in TOOLS[tool].strip().splitlines():
        name, releases, kind, default, choices, *says = (cell.strip() for cell in line.split("|"))
        words = tuple(word for word in CHOICES.get(choices, choices).split(",") if word)
        options = (name, *"".join(says).split())
        found.setdefault(name, []).append(Flag(name, *span(releases), kind, default or None, words, options))
    return found


@cache
def _names(tool: str) -> dict[str, tuple[str, ...]]:
    """Option -> flags of *tool* that say it, that of the option's own name first."""
    names: dict[str, list[str]] = {}
    for name, rows in flags(tool).items():
        for option in dict.fromkeys(option for row in rows for option in row.says):
            names.setdefault(option, []).append(name)
    return {option: tuple(sorted(found, key=lambda name: name != option)) for option, found in names.items()}


def flag(tool: str, name: str, release: Release) -> Flag | None:
    """The option *name* of *tool* in *release*, or None where it is not known there."""
    for candidate in flags(tool).get(name, []):
        if candidate.first <= release.key <= candidate.last:
            return candidate
    return None


@cache
def flow_rows() -> tuple[tuple[str, tuple[int, ...], tuple[int, ...], tuple[str, ...]], ...]:
    rows = []
    for line in _FLOWS.strip().splitlines():
        family, releases, tools = (cell.strip() for cell in line.split("|"))
        rows.append((family, *span(releases), tuple(tools.split())))
    return tuple(rows)


def flow(release: Release, family: str, quantized: bool) -> tuple[str, ...] | None:
    """Tools that make an engine of *family* in *release*, in order; None where there is no way."""
    for known, first, last, tools in flow_rows():
        if known == family and first <= release.key <= last:
            if not quantized:
                return tools
            return (QUANTIZE_TOOL, BUILD_TOOL) if tools[-1] == BUILD_TOOL else None
    return None


def engine_releases() -> list[Release]:
    """Releases that build engines, oldest first."""
    return [row for row in RELEASES.values() if row.builds_engines]


def listing(found: Iterable[Release]) -> str:
    """``0.8.0 to 0.11.0 and 1.0.0 to 1.2.0``: runs of neighbouring releases."""
    order, wanted = engine_releases(), set(found)
    runs: list[list[str]] = []
    for index, row in enumerate(order):
        if row not in wanted:
            continue
        if index and order[index - 1] in wanted and runs:
            runs[-1].append(row.version)
        else:
            runs.append([row.version])
    return " and ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def takes(tool: str, family: str = "") -> set[str]:
    """Options that may be given to *tool*, whatever the release."""
    besides = _TAKES_BESIDES.get((tool, family), set())
    if tool == BUILD_TOOL:
        return _BUILD | besides
    if tool == QUANTIZE_TOOL:
        return _QUANTIZE
    return _CONVERT if "convert" in tool else _EVERYTHING


def find_all(tool: str, option: str, release: Release, family: str = "") -> list[Flag]:
    """All flags of *tool* in *release* that say the option, that of its own name first."""
    if option not in takes(tool, family):
        return []
    named = (flag(tool, name, release) for name in _names(tool).get(option, ()))
    return [found for found in named if found is not None and option in found.says]


def find(tool: str, option: str, release: Release, family: str = "") -> Flag | None:
    """The flag of *tool* that says the option, under whichever name it had in *release*."""
    return next(iter(find_all(tool, option, release, family)), None)


def releases_with(option: str, family: str | None = None, quantized: bool | None = None) -> list[Release]:
    """Releases in which some tool of the flow knows *option*; of any family and flow where not given."""
    families = [family] if family else sorted({row[0] for row in flow_rows()})
    ways = [quantized] if quantized is not None else [False, True]

    def knows(row: Release, name: str, way: bool) -> bool:
        return any(find(tool, option, row, name) for tool in flow(row, name, way) or ())

    return [row for row in engine_releases() if any(knows(row, name, way) for name in families for way in ways)]


@cache
def _options_by_name() -> dict[str, str]:
    said = {name: rows[-1].says[-1] for tool in TOOLS for name, rows in flags(tool).items()}
    return {**said, **{option: option for option in ENGINE_OPTIONS}}


def option_of(name: str) -> str:
    """The option that a flag says, whichever tool has it; the option of its own name where there is one."""
    return _options_by_name().get(name, name)


def default_of(option: str, release: Release, family: str, quantized: bool) -> Any:
    """What the tools of the flow do about *option* where it is not given; None where that is not known."""
    for tool in flow(release, family, quantized) or ():
        found = find(tool, option, release, family)
        if found is not None and found.name == "paged_kv_cache":
            return "paged" if found.default == "enable" else "continuous"
        if found is not None and (found.kind == "flag" or found.default not in (None, "?")):
            return _typed(found)
    return None


def default_text(found: Flag) -> str | None:
    """What a tool does where the flag is not given, as its documentation spells it; None where it says nothing."""
    if found.kind != "flag" and found.default in (None, "?"):
        return None
    value = _typed(found)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _typed(found: Flag) -> Any:
    """A default as a user would write it."""
    if found.kind in ("flag", "word"):
        return found.default == "enable"
    return {"int": int, "float": float}.get(found.kind, str)(found.default or "")
