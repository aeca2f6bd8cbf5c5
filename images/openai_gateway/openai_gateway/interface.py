# SPDX-License-Identifier: GPL-3.0-or-later
"""How to speak to a Triton entry model: names by release, and what the model's own configuration declares.

Triton's generate endpoint silently turns a JSON key that is no input of the model into a request parameter
that nobody reads, so a misspelt tensor is not an error there. Therefore the entry model's configuration is
asked (``/v2/models/<entry>/config``) and a parameter that the model does not declare is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from openai_gateway.errors import unsupported
from openai_gateway.guides import INPUTS as GUIDE

BLS = "tensorrt_llm_bls"
GUIDES = {"xgrammar", "llguidance"}
GUIDED_OFF = (
    "needs guided decoding, which is off in this model's engine; set guided_decoding_backend of its model repository to"
    " xgrammar"
)
GUIDED_UNKNOWN = (
    "needs guided decoding, which this model's release does not have; serve it with release 0.19 or later and"
    " guided_decoding_backend xgrammar"
)
TRUE_WORDS = {"true", "1", "t", "y", "yes"}
FALSE_WORDS = {"false", "0", "f", "n", "no"}


@dataclass(frozen=True)
class ReleaseRow:
    """What differs between releases in the tensors of ensemble and tensorrt_llm_bls."""

    first: tuple[int, ...]  # the row holds from this TensorRT-LLM version on
    seed: str
    min_tokens: str
    words_required: bool  # bad_words and stop_words must be in every request, empty if need be
    words_are_csv: bool  # the first word alone counts and a comma splits it (in some tag of the range)
    adds_special_tokens: bool  # what preprocessing does when its configuration does not say


# Newest first. Sources: the input names of upstream's templates per tag; each tag's README for "required";
# preprocessing's default of add_special_tokens (hard False up to 0.8, a parameter with default True after).
RELEASES: tuple[ReleaseRow, ...] = (
    ReleaseRow((0, 20), "seed", "min_tokens", False, False, True),
    ReleaseRow((0, 9), "random_seed", "min_length", False, True, True),
    ReleaseRow((0, 0), "random_seed", "min_length", True, True, False),
)
RENAMED = {"seed": ("seed", "random_seed"), "min_tokens": ("min_tokens", "min_length")}


def parse_release(version: str) -> tuple[int, ...]:
    """(0, 7, 2) for "0.7.2"; a suffix like rc1 is left out."""
    match = re.match(r"^v?(\d+)\.(\d+)(?:\.(\d+))?", version)
    if not match:
        raise ValueError(f"release '{version}' is no TensorRT-LLM version; write for example 1.2.1")
    return tuple(int(part) for part in match.groups(default="0"))


def release_row(version: str) -> ReleaseRow:
    """The row of the table that *version* falls into."""
    parsed = parse_release(version)
    return next(row for row in RELEASES if parsed >= row.first)


@dataclass(frozen=True)
class Interface:
    """One replica's entry model as it declared itself."""

    row: ReleaseRow
    inputs: frozenset[str]
    outputs: frozenset[str]
    decoupled: bool  # may answer in several responses: only then "stream" is allowed
    cumulative: bool  # every streamed text_output repeats the text so far (accumulate_tokens)
    adds_special_tokens: bool  # preprocessing puts the tokenizer's special tokens (BOS) before the text
    guided: bool = False  # the engine can bind an answer to a schema, an expression or a grammar
    completions: str | None = None  # the model's name where the server is no Triton, but has OpenAI's completions
    llmapi: bool = False  # Triton's model loads a checkpoint, and calls its tensors otherwise

    @cached_property
    def counts_tokens(self) -> bool:
        """Whether the engine itself reports how many tokens it read and wrote."""
        return {"return_num_input_tokens", "return_num_output_tokens"} <= self.inputs and {
            "num_input_tokens",
            "num_output_tokens",
        } <= self.outputs

    def tensor(self, parameter: str) -> str | None:
        """The input that carries *parameter*, or None if this model has none."""
        if parameter not in self._tensors:
            named = {"seed": self.row.seed, "min_tokens": self.row.min_tokens}.get(parameter, parameter)
            names = [named, *RENAMED.get(parameter, ())]
            self._tensors[parameter] = next((name for name in names if name in self.inputs), None)
        return self._tensors[parameter]

    @cached_property
    def _tensors(self) -> dict[str, str | None]:
        """Those that were asked for: looking for them takes a tenth of a short answer."""
        return {}

    def payload(
        self,
        text: str,
        max_tokens: int,
        *,
        stream: bool,
        sampling: Mapping[str, Any],
        optional: Mapping[str, Any],
        stop: Sequence[str],
        names: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Build the body of generate or generate_stream.

        *sampling*: what the client asked for, refused by name where the model has no such input; *names*: what the
        client calls an input, where that is another name; *optional*: what the gateway adds by itself, left out where
        the model has no such input.
        """
        body: dict[str, Any] = {"text_input": text, "max_tokens": max_tokens}
        for parameter, value in sampling.items():
            name = self.tensor(parameter)
            param = (names or {}).get(parameter, parameter)
            if parameter in GUIDE and not self.guided:
                raise unsupported(param, GUIDED_OFF if name else GUIDED_UNKNOWN)
            if name is None:
                raise unsupported(param, "is not an input of the model that serves this request")
            if parameter == "bad_words" and self.row.words_are_csv and (len(value) > 1 or _unspeakable(value[0])):
                raise unsupported(param, "may hold one word without commas and quotes in this release")
            body[name] = value
        for parameter, value in optional.items():
            name = self.tensor(parameter)
            if name is not None and (self.guided or parameter not in GUIDE):
                body.setdefault(name, value)
        # Only a help: the engine stops early. What the client sees is cut by the gateway in any case.
        words = list(stop)
        if self.row.words_are_csv:
            words = [word for word in words if not _unspeakable(word)][:1]
        if words and "stop_words" in self.inputs:
            body["stop_words"] = words
        if self.row.words_required:
            body.setdefault("stop_words", "")
            body.setdefault("bad_words", "")
        if "exclude_input_in_output" in self.inputs:
            body["exclude_input_in_output"] = True
        if self.counts_tokens:
            body["return_num_input_tokens"] = True
            body["return_num_output_tokens"] = True
        if "stream" in self.inputs:
            body["stream"] = stream
        return body


def steps_of(entry: Mapping[str, Any]) -> list[str]:
    """The models an entry model calls: an ensemble's steps, or the names that a BLS model uses."""
    steps = [str(step.get("model_name")) for step in entry.get("ensemble_scheduling", {}).get("step", [])]
    # Several sets of models in one repository have prefixes.
    name = str(entry.get("name", ""))
    prefix = name.removesuffix(BLS) if name.endswith(BLS) else ""
    return steps or [f"{prefix}{called}" for called in ("preprocessing", "tensorrt_llm", "postprocessing")]


def describe(release: str, entry: Mapping[str, Any], called: Mapping[str, Mapping[str, Any] | None]) -> Interface:
    """Read an Interface from Triton's model configurations.

    *entry*: of the entry model; *called*: of the models it calls, None where Triton knows no such model. An
    ensemble is decoupled if one of its steps is; a BLS model says so itself.
    """
    row = release_row(release)
    policies = [entry, *(config for config in called.values() if config and "ensemble_scheduling" in entry)]
    decoupled = any(is_decoupled(config) for config in policies)
    special = row.adds_special_tokens
    for config in called.values():
        if config and "QUERY" in names_of(config, "input"):
            special = _flag(_parameter(config, "add_special_tokens"), special)
    return Interface(
        row=row,
        inputs=names_of(entry, "input"),
        outputs=names_of(entry, "output"),
        decoupled=decoupled,
        cumulative=_flag(_parameter(entry, "accumulate_tokens")),
        adds_special_tokens=special,
        guided=any(_guided(config) for config in [entry, *called.values()] if config),
    )


def _unspeakable(word: str) -> bool:
    """Whether a list that a comma splits cannot hold *word*."""
    return bool(re.search(r'[,"\n]', word))


def is_decoupled(config: Mapping[str, Any]) -> bool:
    """Whether a model may answer in several responses."""
    return _flag(config.get("model_transaction_policy", {}).get("decoupled"))


def names_of(config: Mapping[str, Any], kind: str) -> frozenset[str]:
    """The inputs or outputs of a model."""
    return frozenset(str(tensor.get("name")) for tensor in config.get(kind, []))


def _parameter(config: Mapping[str, Any], key: str) -> Any:
    return config.get("parameters", {}).get(key, {}).get("string_value")


def _guided(config: Mapping[str, Any]) -> bool:
    """Whether a model's engine guides. The C++ backend leaves it off without its file of the tokenizer."""
    path = str(_parameter(config, "xgrammar_tokenizer_info_path") or "")
    can = config.get("backend") != "tensorrtllm" or (path and not path.startswith("${"))
    return bool(can) and _parameter(config, "guided_decoding_backend") in GUIDES


def _flag(value: Any, default: bool = False) -> bool:
    """Read Triton's ways to say yes and no; anything else (an unfilled placeholder) is *default*."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    return True if word in TRUE_WORDS else False if word in FALSE_WORDS else default
