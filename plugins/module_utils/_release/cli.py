# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From one description of an engine to the commands of the release that makes it.

`plan` is pure: it needs no host, no image and no checkpoint. What a release does not know is an error that names
the releases that do; nothing is ever dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._base.errors import FleetError
from .limits import check_options, is_set
from .lookup import BUILD_TOOL, PRODUCTS, QUANTIZE_TOOL, Flag, find, find_all, flag, flow, takes
from .options import RANKS, WITHOUT_EFFECT_ON_ENGINE, world_size
from .refusals import refuse_choice, refuse_family, refuse_option
from .releases import Release, require_engines
from .rules import check_rules

EXAMPLES_DIR = "/app/examples"
# From this release on the examples stand in models/core and models/contrib. In the one before some already do.
MOVED_EXAMPLES = (0, 20)
CONTRIB = frozenset({"baichuan", "falcon"})

# Where a tool takes its input and puts its output; others use --model_dir and --output_dir.
_IO = {
    BUILD_TOOL: ("checkpoint_dir", "output_dir"),
    "gemma/convert_checkpoint.py": ("model-dir", "output-model-dir"),
    "gpt/hf_gpt_convert.py": ("in-file", "out-dir"),
    "qwen/build.py": ("hf_model_dir", "output_dir"),
}
# Arguments that a tool needs for a Hugging Face checkpoint whatever the user says.
_FIXED = {"gemma/convert_checkpoint.py": {"ckpt-type": "hf"}}
# Tools that tell models of one family apart by an argument only: architecture of the checkpoint -> value.
_VARIANTS = {
    "gpt/hf_gpt_convert.py": ("model", {"GPTBigCodeForCausalLM": "starcoder", "GPT2LMHeadCustomModel": "santacoder"}),
}
# Tools that calibrate with a file of the checkpoint, which they have to be given; and what makes them calibrate.
_CALIBRATION_FILES = {"gemma/convert_checkpoint.py": ("tokenizer_dir", "tokenizer.model")}
_CALIBRATING = ("smoothquant", "int8_kv_cache")


@dataclass(frozen=True)
class Paths:
    """Where commands read and write; the same in the container as on the host."""

    checkpoint: str
    converted: str
    engine: str
    examples: str = EXAMPLES_DIR


@dataclass(frozen=True)
class Command:
    """One command. *phase*: convert, quantize or build. *alternatives*: other places of the same script."""

    phase: str
    tool: str
    argv: list[str]
    ranks: int
    output: str
    alternatives: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EnginePlan:
    """What will be run, and the arguments as far as they determine what comes out.

    *convert_arguments* and *build_arguments*: tool -> flag -> value, without the tool's own defaults and
    without paths, so that two ways of saying the same compare equal. *options*: the same under the names that the
    user knows, as given. *dtype*: the precision of the weights, None where only the checkpoint can tell.
    """

    commands: list[Command]
    world_size: int
    convert_arguments: dict[str, dict[str, Any]]
    build_arguments: dict[str, dict[str, Any]]
    options: dict[str, Any]
    dtype: str | None


def resolve_dtype(options: Mapping[str, Any], checkpoint_dtype: str | None, tool: str, release: Release) -> str | None:
    """The precision that *tool*, the first of the flow, gives the weights; it is what ``auto`` of a plugin stands for.

    As upstream, ``auto`` is the checkpoint's own, and float16 for a float32 one; a tool may have another default.
    """
    given = options.get("dtype")
    found = find(tool, "dtype", release)
    default = found.default if found is not None and not _needs_dtype(found) else "auto"
    wanted = str(given or default or "auto")
    if wanted != "auto":
        return wanted
    return "float16" if checkpoint_dtype == "float32" else checkpoint_dtype


def _needs_dtype(found: Flag) -> bool:
    """Whether a tool is always given the checkpoint's precision: it has no default, or one that suits no GPU."""
    return found.name == "storage-type" or (found.default is None and bool(found.choices))


def _word(value: Any) -> str:
    return {True: "enable", False: "disable"}[bool(value)]


class _Composer:
    """Turns options into the arguments of one tool of one release."""

    def __init__(self, tool: str, release: Release, family: str, options: Mapping[str, Any], dtype: str | None) -> None:
        self.tool, self.release, self.family, self.options, self.dtype = tool, release, family, options, dtype
        self.used: set[str] = set()
        self.values: dict[str, Any] = {}  # flag name -> value as it is passed; True for a bare flag
        self.of_option: dict[str, str] = {}  # flag name -> option

    def compose(self) -> None:
        """Take every option that this tool knows."""
        self._take_parallelism()
        self._take_lengths()
        self._take_weight_only()
        for option in sorted(self.options):
            if option not in self.used:
                found = find(self.tool, option, self.release, self.family)
                if found is not None:
                    self._take(option, self.options[option], found)
        self._take_needed_dtype()

    def _set(self, option: str, name: str, value: Any) -> None:
        self.used.add(option)
        self.values[name] = value
        self.of_option[name] = option

    def _take(self, option: str, value: Any, found: Flag) -> None:
        """Pass one option under the name and in the form that this release knows."""
        self.used.add(option)
        if option == "kv_cache_type" and found.name == "paged_kv_cache":
            if value == "disabled":
                raise FleetError(
                    f"kv_cache_type is 'disabled', which TensorRT-LLM {self.release.version} does not know; "
                    "0.13.0 and later have it."
                )
            value = value == "paged"
        if option == "workers" and found.kind == "flag":
            value = value > 1
        if found.kind == "flag":
            if is_set(value):
                self._set(option, found.name, True)
        elif found.kind == "word":
            self._check_choice(option, _word(value), found)
            self._set(option, found.name, _word(value))
        elif found.kind == "list":
            words = [str(word) for word in (value if isinstance(value, list) else [value])]
            for word in words:
                self._check_choice(option, word, found)
            self._set(option, found.name, words)
        else:
            self._take_value(option, value, found)

    def _take_value(self, option: str, value: Any, found: Flag) -> None:
        if isinstance(value, list):
            if len(value) != 1:
                raise FleetError(f"{option} has {len(value)} entries; release {self.release.version} takes one.")
            value = value[0]
        if value == "auto" and found.choices and "auto" not in found.choices:
            value = self._known_dtype(option)
        if value == "auto" and option == "dtype" and not found.choices:
            value = self._known_dtype(option)
        if value == "disable" and found.choices and "disable" not in found.choices:
            return  # the plugin options of build.py are off unless given
        self._check_choice(option, str(value), found)
        self._set(option, found.name, value)

    def _known_dtype(self, option: str) -> str:
        if self.dtype is None:
            raise FleetError(
                f"{option} is 'auto', but TensorRT-LLM {self.release.version} wants it spelled out and the "
                "checkpoint's config.json has no torch_dtype; set dtype."
            )
        return self.dtype

    def _check_choice(self, option: str, value: str, found: Flag) -> None:
        if found.choices and value not in found.choices:
            raise refuse_choice(option, value, found, self.release, self.tool)

    def _take_parallelism(self) -> None:
        """Ranks: some tools want the product as well, some nothing else. One rank is never passed."""
        for option in RANKS:
            if self.options.get(option) == 1:
                self.used.add(option)
                continue
            for found in find_all(self.tool, option, self.release, self.family):
                ranks = math.prod(int(self.options.get(name) or 1) for name in PRODUCTS.get(found.name, (option,)))
                if ranks > 1:
                    self._set(option, found.name, ranks)

    def _take_lengths(self) -> None:
        """The total length or the output's: each release knows one of them."""
        wanted = {name: self.options.get(name) for name in ("max_seq_len", "max_output_len")}
        if "max_seq_len" not in takes(self.tool) or not any(wanted.values()):
            return
        self.used |= {"max_seq_len", "max_output_len"}
        prompt = self._input_length()
        total = int(wanted["max_seq_len"] or prompt + int(wanted["max_output_len"] or 0))
        if flag(self.tool, "max_seq_len", self.release):
            self._set("max_seq_len", "max_seq_len", total)
            return
        if total <= prompt:
            raise FleetError(
                f"max_seq_len is {total} but max_input_len is {prompt}: nothing is left to generate. "
                "max_seq_len counts prompt and output together; raise it."
            )
        self._set("max_output_len", "max_output_len", total - prompt)

    def _input_length(self) -> int:
        given = self.options.get("max_input_len")
        if given:
            return int(given)
        found = flag(self.tool, "max_input_len", self.release)
        return int(found.default) if found and found.default else 1024

    def _take_weight_only(self) -> None:
        """Gemma's converter had one option for the switch and the precision, and later a precision without default."""
        found = find(self.tool, "weight_only_precision", self.release)
        if found is None or found.default is not None:
            return
        if found.name == "use-weight-only-with-precision":
            self.used |= {"use_weight_only", "weight_only_precision"} & set(self.options)
        if self.options.get("use_weight_only"):
            precision = str(self.options.get("weight_only_precision") or "int8")
            self._check_choice("weight_only_precision", precision, found)
            self._set("weight_only_precision", found.name, precision)

    def _take_needed_dtype(self) -> None:
        """A converter without a default precision gets the checkpoint's."""
        found = find(self.tool, "dtype", self.release)
        if found is not None and found.name not in self.values and _needs_dtype(found):
            self._set("dtype", found.name, self.dtype or "float16")

    def vary(self, architecture: str) -> None:
        """Name the variant of the family, where the tool cannot see it in the checkpoint."""
        name, variants = _VARIANTS.get(self.tool, ("", {}))
        if architecture in variants:
            self.values[name] = variants[architecture]

    def arguments(self) -> list[str]:
        """The argument list, in a fixed order."""
        words: list[str] = []
        for name in sorted(self.values):
            value = self.values[name]
            words.append(f"--{name}")
            if isinstance(value, list):
                words += value
            elif value is not True:
                words.append(str(value))
        return words

    def determining(self) -> dict[str, Any]:
        """What of it determines the result: no defaults, no paths, nothing that only changes how it is made."""
        kept = {}
        for name, value in self.values.items():
            option = self.of_option.get(name, name)
            found = flag(self.tool, name, self.release)
            if option in WITHOUT_EFFECT_ON_ENGINE or is_host_path(option, value) or self._is_derived(option, value):
                continue
            if option == "dtype" or (found is not None and found.default == str(value)):
                continue
            kept[name] = value
        precision = find(self.tool, "dtype", self.release)
        if precision is not None:
            effective = self.values.get(precision.name, precision.default)
            kept[precision.name] = self.dtype or "auto" if effective == "auto" else effective
        return kept

    def _is_derived(self, option: str, value: Any) -> bool:
        """Whether *value* is what the tool works out by itself: experts are split as the tensors are."""
        if option == "moe_tp_size":
            return bool(value == self.options.get("tp_size", 1) and self.options.get("moe_ep_size", 1) in (1, -1))
        return option == "moe_ep_size" and value == 1


# Options whose value is a path: what is in there counts, and the caller adds its digest.
PATH_OPTIONS = frozenset({"quant_ckpt_path", "lora_dir", "input_timing_cache"})


def is_host_path(option: str, value: Any) -> bool:
    """Whether *value* of *option* is a path of the host; a data set may also be a name of the Hugging Face Hub."""
    return option in PATH_OPTIONS or (option == "calib_dataset" and str(value).startswith(("/", ".", "~")))


def _script(release: Release, tool: str, examples: str) -> tuple[str, list[str]]:
    """Where the script stands in the image of *release*, and where else it may stand."""
    directory, name = tool.split("/")
    flat = f"{examples}/{directory}/{name}"
    if directory == "quantization":
        return flat, []
    moved = f"{examples}/models/{'contrib' if directory in CONTRIB else 'core'}/{directory}/{name}"
    return (moved, [flat]) if release.key >= MOVED_EXAMPLES else (flat, [moved])


def _normalised(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that were given, under their newest names."""
    given = {name: value for name, value in options.items() if value is not None and value != []}
    paged = given.pop("paged_kv_cache", None)
    if paged is not None:
        given["kv_cache_type"] = "paged" if paged else "continuous"
    return given


def _tools(release: Release, family: str, quantized: bool) -> tuple[str, ...]:
    """The tools of the flow, or an error that names the releases that have one."""
    require_engines(release)
    found = flow(release, family, quantized)
    if found is not None:
        return found
    if quantized and flow(release, family, False) is not None:
        raise refuse_option("qformat", release, family, quantized)
    raise refuse_family(release, family)


def _phase(tool: str) -> str:
    return "quantize" if tool == QUANTIZE_TOOL else "convert" if "convert" in tool else "build"


def plan(
    release: Release,
    family: str,
    options: Mapping[str, Any],
    paths: Paths,
    *,
    checkpoint_dtype: str | None = None,
    model_version: str | None = None,
    architecture: str = "",
) -> EnginePlan:
    """The commands that make an engine of *family* with *release*, in order.

    *checkpoint_dtype* is what ``auto`` means where a release wants it spelled out; *model_version* is Baichuan's;
    *architecture* is the checkpoint's own word for what it is. Raises `FleetError` for whatever the release does not
    know, and for what its tools would stop at.
    """
    check_options(options)
    given = _normalised(options)
    given.pop("model_family", None)
    quantized = "qformat" in given
    tools = _tools(release, family, quantized)
    if family == "baichuan" and not quantized:
        given.setdefault("model_version", model_version)
        if given["model_version"] is None:
            raise FleetError("The Baichuan generation cannot be told from config.json; set model_version, e.g. v2_13b.")
    dtype = resolve_dtype(given, checkpoint_dtype, tools[0], release)
    composers = [_Composer(tool, release, family, given, dtype) for tool in tools]
    for composer in composers:
        composer.compose()
    for option in sorted(given):
        if not any(option in composer.used for composer in composers):
            raise refuse_option(option, release, family, quantized)
    check_rules(release, family, given)
    composers[0].vary(architecture)
    ranks = world_size(given)
    commands, source = [], paths.checkpoint
    for composer in composers:
        last = composer is composers[-1]
        target = paths.engine if last else paths.converted
        commands.append(_command(composer, source, target, paths.examples, ranks))
        # The old GPT converter puts its output into a directory named after the number of ranks.
        source = f"{target}/{given.get('tp_size') or 1}-gpu" if composer.tool == "gpt/hf_gpt_convert.py" else target
    return EnginePlan(
        commands,
        ranks,
        {composer.tool: composer.determining() for composer in composers[:-1]},
        {composers[-1].tool: composers[-1].determining()},
        _told(given, dtype),
        dtype,
    )


def _told(given: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
    """The options that determine the engine, as the user gave them, and its precision."""
    as_given = {
        option: value
        for option, value in given.items()
        if option not in WITHOUT_EFFECT_ON_ENGINE and not is_host_path(option, value)
    }
    return {**as_given, "dtype": dtype or "auto"}


def _command(composer: _Composer, source: str, target: str, examples: str, ranks: int) -> Command:
    tool, release = composer.tool, composer.release
    input_name, output_name = _IO.get(tool, ("model_dir", "output_dir"))
    fixed = [word for name, value in _FIXED.get(tool, {}).items() for word in (f"--{name}", value)]
    if tool in _CALIBRATION_FILES and any(is_set(composer.options.get(option)) for option in _CALIBRATING):
        name, file = _CALIBRATION_FILES[tool]
        fixed += [f"--{name}", f"{source}/{file}"]
    words = [f"--{input_name}", source, f"--{output_name}", target, *fixed, *composer.arguments()]
    if tool == BUILD_TOOL:
        return Command(_phase(tool), tool, [BUILD_TOOL, *words], ranks, target)
    script, alternatives = _script(release, tool, examples)
    return Command(_phase(tool), tool, ["python3", script, *words], ranks, target, alternatives)
