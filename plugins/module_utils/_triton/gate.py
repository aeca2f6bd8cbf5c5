# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator expects of a replica before it may serve: answers to prompts of their own, and speed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from .._base.errors import FleetError
from .client import Event

DEFAULT_MAX_TOKENS = 16
# How an answer is judged; at least one of these belongs to a prompt.
EXPECTATIONS = ("contains", "matches", "equals")


@dataclass(frozen=True)
class Prompt:
    """A prompt and what its greedy answer shall contain, match (a regular expression) or be."""

    prompt: str
    max_tokens: int = DEFAULT_MAX_TOKENS
    contains: Optional[str] = None
    matches: Optional[str] = None
    equals: Optional[str] = None

    def expectation(self) -> str:
        """The same for a table."""
        given = [(name, getattr(self, name)) for name in EXPECTATIONS if getattr(self, name) is not None]
        return ", ".join(f"{name} {value!r}" for name, value in given) or "text"

    def problem(self, text: str) -> str:
        """What is wrong with an answer, empty where nothing is."""
        if not text.strip():
            return f"no text: {text!r}"
        if self.contains is not None and self.contains not in text:
            return f"{self.contains!r} is not in {text!r}"
        if self.matches is not None and not re.search(self.matches, text):
            return f"{self.matches!r} does not match {text!r}"
        if self.equals is not None and text != self.equals:
            return f"{text!r} instead of {self.equals!r}"
        return ""


@dataclass(frozen=True)
class Gate:
    """*max_time_to_first_token_ms* and *min_tokens_per_second* hold for one stream on a replica without other load."""

    prompts: Sequence[Prompt] = field(default_factory=list)
    max_time_to_first_token_ms: Optional[float] = None
    min_tokens_per_second: Optional[float] = None


def parse_gate(given: Mapping[str, Any], where: str = "gate") -> Gate:
    """Read and judge a gate; raises `FleetError` for what could never hold."""
    prompts = []
    for number, entry in enumerate(given.get("prompts") or []):
        known = {name: value for name, value in entry.items() if value is not None}
        if not str(known.get("prompt") or "").strip():
            raise FleetError(f"{where}.prompts[{number}].prompt is empty; give the text to ask.")
        if int(known.get("max_tokens", 1)) < 1:
            raise FleetError(f"{where}.prompts[{number}].max_tokens is {known['max_tokens']}; give a number from 1 on.")
        try:
            re.compile(known.get("matches", ""))
        except re.error as error:
            raise FleetError(
                f"{where}.prompts[{number}].matches is {known['matches']!r}, which is no regular expression ({error}); "
                "correct it, or use contains for a text as it is."
            ) from error
        prompts.append(Prompt(**known))
    limits: dict[str, Optional[float]] = {}
    for name in ("max_time_to_first_token_ms", "min_tokens_per_second"):
        value = given.get(name)
        limits[name] = None if value is None else float(value)
        if value is not None and float(value) <= 0:
            raise FleetError(f"{where}.{name} is {value}; give a number above 0.")
    return Gate(prompts, **limits)


def expectations(
    gates: Mapping[str, Mapping[str, Any]], answers: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, Any]]:
    """The gates by model as they hold after a change: where the same answers are asked for, *answers* by prompt."""
    found: dict[str, dict[str, Any]] = {}
    for model, gate in gates.items():
        kept = {key: value for key, value in gate.items() if value is not None and key != "same_answers"}
        if gate.get("same_answers"):
            before = answers.get(model) or {}
            prompts = [dict(prompt) for prompt in gate.get("prompts") or []]
            for prompt in prompts:
                if prompt.get("equals") is None and prompt["prompt"] in before:
                    prompt["equals"] = before[prompt["prompt"]]
            kept["prompts"] = prompts
        kept["prompts"] = [
            {key: value for key, value in prompt.items() if value is not None} for prompt in kept.get("prompts") or []
        ]
        found[model] = kept
    return found


def too_slow(gate: Gate, events: Sequence[Event]) -> str:
    """What is too slow about a stream, empty where nothing is. An event is taken for a token."""
    first = events[0].seconds * 1000
    limit = gate.max_time_to_first_token_ms
    if limit is not None and first > limit:
        return f"the first token came after {first:.0f} ms, later than {limit:g}"
    if gate.min_tokens_per_second is None:
        return ""
    rate = tokens_per_second(events)
    if rate is None:
        return f"{len(events)} token, too few to tell how fast they come; ask for more"
    return (
        "" if rate >= gate.min_tokens_per_second else f"{rate:.1f} tokens/s, less than {gate.min_tokens_per_second:g}"
    )


def tokens_per_second(events: Sequence[Event]) -> Optional[float]:
    """How fast tokens follow the first; None for one alone."""
    took = events[-1].seconds - events[0].seconds
    return (len(events) - 1) / took if len(events) > 1 and took > 0 else None
