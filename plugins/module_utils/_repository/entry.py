# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One set of models of a repository: what the user asks for, and the values that came out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._base.errors import FleetError
from .engine import Engine
from .schema import MODELS, find
from .schema_values import KINDS, NO_LIMITS

LLM, BLS, PRE, POST, ENSEMBLE = "tensorrt_llm", "tensorrt_llm_bls", "preprocessing", "postprocessing", "ensemble"
# The models that clients send requests to.
ENTRIES = (ENSEMBLE, BLS)
# Stands for the repository's own directory, which its fingerprint names and so is known last.
OWN_DIRECTORY = "@repository_dir@"
INFO_PATH = "xgrammar_tokenizer_info_path"


class NotBuiltYet(FleetError):
    """Something that an earlier stage of the same run would have made; in check mode a reason, else an error."""


@dataclass(frozen=True)
class Value:
    """The text for a placeholder, where it came from, and whether the user gave it.

    *needed* is true where this engine cannot be loaded without the value, whatever the release says of others.
    """

    text: str
    source: str
    given: bool = False
    needed: bool = False


@dataclass
class EntryRequest:
    """One set of models in the repository. *prefix* stands before their names; *label* is how messages call it."""

    label: str = "parameters"
    prefix: str = ""
    models: tuple[str, ...] = MODELS
    engine_dir: str | None = None
    tokenizer_dir: str | None = None
    streaming: bool | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    gpu_memory_mib: int | None = None

    def option(self, name: str) -> str:
        """How messages call the option *name* of this set."""
        entry, separator, _ = self.label.rpartition(".")
        return f"the option {entry}{separator}{name}"

    def model_name(self, model: str) -> str:
        """What *model* is called in this repository."""
        return f"{self.prefix}{model}"


@dataclass
class Resolved:
    """The values of one entry: per model, by the parameter's present name."""

    request: EntryRequest
    values: dict[str, dict[str, Value]]
    notes: list[str]
    streaming: bool
    engine: Engine | None

    @property
    def world_size(self) -> int | None:
        """The number of the engine's ranks."""
        return self.engine.world_size if self.engine else None

    @property
    def backend(self) -> str:
        """Which of Triton's backends runs the engine."""
        return self.text(LLM, "triton_backend") or "tensorrtllm"

    def get(self, model: str, name: str) -> Value | None:
        """The value of one parameter, None where it is left unset."""
        return self.values.get(model, {}).get(name)

    def text(self, model: str, name: str) -> str | None:
        """Its text."""
        value = self.get(model, name)
        return value.text if value else None

    def model_name(self, model: str) -> str:
        """What *model* is called in this repository."""
        return self.request.model_name(model)

    def derived(self) -> dict[str, dict[str, dict[str, str]]]:
        """What the user did not give, per model of the repository."""
        return {
            self.model_name(model): {
                name: {"value": value.text, "source": value.source}
                for name, value in sorted(values.items())
                if not value.given
            }
            for model, values in self.values.items()
        }


def conflict(one: str, one_source: str, other: str, other_source: str, advice: str) -> FleetError:
    """The sentence for two values that exclude each other."""
    return FleetError(f"{one} (from {one_source}) contradicts {other} (from {other_source}); {advice}.")


def check_directory(raw: Any, source: str) -> str:
    """A directory of the host, whether an option or a parameter gives it: both are written into a configuration."""
    return KINDS["path"](raw, NO_LIMITS, source, ())


def given_directory(request: EntryRequest, model: str, name: str, option: str | None) -> tuple[str | None, str]:
    """A directory that can be given as an option or as a parameter, and which of them gave it."""
    if option is not None:
        option = check_directory(option, request.option(name))
    given = request.parameters.get(model) or {}
    for key, raw in given.items():
        parameter = find(model, key)
        if parameter is None or parameter.name != name or raw is None:
            continue
        source = f"{request.label}.{model}.{key}"
        directory = check_directory(raw, source)
        if option is not None and directory.rstrip("/") != option.rstrip("/"):
            raise conflict(f"{name} '{raw}'", source, f"'{option}'", f"the option {name}", "give one of them")
        return directory, source
    return option, f"the option {name}"
