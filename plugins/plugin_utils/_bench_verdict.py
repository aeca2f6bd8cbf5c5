# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a benchmark is better or worse than another, and how sure that is.

A run repeats each point, and the repeats say how much it varies by itself. Of each measure the ratio between two runs
has an interval (Welch's, of the logarithms, at 95 %): with few repeats it is wide, and nothing is said that they
cannot bear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, variance
from typing import Any

BETTER, SAME, WORSE, UNKNOWN = "better", "same", "worse", "cannot tell"
CONFIDENCE = 0.95
# What is compared: name, words, the key of a repeat, its percentile, and whether more is better.
MEASURES = (
    ("output_tokens_per_second", "tokens/s", None, True),
    ("time_to_first_token_ms", "time to first token", "p50", False),
    ("inter_token_latency_ms", "time between tokens", "p50", False),
    ("request_latency_ms", "request, p90", "p90", False),
)

Values = dict[str, Any]


def t_below(value: float, degrees: float) -> float:
    """How much of Student's distribution is below *value*, by Simpson's rule over the angle."""
    angle, steps = math.atan(abs(value) / math.sqrt(degrees)), 100
    width = angle / steps
    inside = sum(
        (1 if step in (0, steps) else 4 if step % 2 else 2) * math.pow(math.cos(step * width), degrees - 1)
        for step in range(steps + 1)
    )
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    half = scale * inside * width / 3
    return 0.5 + half if value >= 0 else 0.5 - half


def t_quantile(share: float, degrees: float) -> float:
    """The value below which *share* (more than a half) of Student's distribution is."""
    low, high = 0.0, 1.0
    while t_below(high, degrees) < share and high < 1e6:
        high *= 2
    for _step in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if t_below(middle, degrees) < share else (low, middle)
    return (low + high) / 2


def ratio(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float] | None:
    """``after / before`` with the ends of its interval; None where one has fewer than two repeats, or none above 0."""
    if min(len(before), len(after)) < 2 or min(*before, *after) <= 0:
        return None
    old, new = [math.log(value) for value in before], [math.log(value) for value in after]
    parts = [variance(values) / len(values) for values in (old, new)]
    middle, both = fmean(new) - fmean(old), sum(parts)
    if both == 0:
        return (math.exp(middle),) * 3
    degrees = both**2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (old, new)))
    reach = t_quantile((1 + CONFIDENCE) / 2, degrees) * math.sqrt(both)
    return math.exp(middle), math.exp(middle - reach), math.exp(middle + reach)


def judged(found: tuple[float, float, float] | None, more_is_better: bool, tolerance: float) -> str:
    """What an interval says where changes below *tolerance* (a share) do not matter."""
    if found is None:
        return UNKNOWN
    _middle, low, high = found
    less, more = 1 - tolerance, 1 + tolerance
    if high < less or low > more:
        return BETTER if (low > more) is more_is_better else WORSE
    return SAME if less <= low and high <= more else UNKNOWN


def compare(before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float) -> Values:
    """Each measure of each point that both runs have, and what they say together."""
    old = {_shape(point): point for point in before["points"]}
    rows: list[Values] = []
    for point in after["points"]:
        if _shape(point) not in old:
            continue
        for name, words, part, more_is_better in MEASURES:
            found = ratio(_repeats(old[_shape(point)], name, part), _repeats(point, name, part))
            rows.append(
                {
                    "concurrency": point["concurrency"],
                    "input_tokens": point["input_tokens"],
                    "output_tokens": point["output_tokens"],
                    "measure": words,
                    "ratio": found and list(found),
                    "verdict": judged(found, more_is_better, tolerance),
                }
            )
        if point["errors"] > old[_shape(point)]["errors"]:
            rows.append({**_place(point), "measure": "failed requests", "ratio": None, "verdict": WORSE})
    return {
        "against": str(before.get("label") or before.get("time")),
        "tolerance": tolerance,
        "verdict": overall([row["verdict"] for row in rows]),
        "says": says(rows),
        "rows": rows,
    }


def _shape(point: Mapping[str, Any]) -> tuple[int, int, int]:
    return point["concurrency"], point["input_tokens"], point["output_tokens"]


def _place(point: Mapping[str, Any]) -> Values:
    return {key: point[key] for key in ("concurrency", "input_tokens", "output_tokens")}


def _repeats(point: Mapping[str, Any], name: str, part: str | None) -> list[float]:
    values = [run[name] if part is None else run[name][part] for run in point["runs"]]
    return [float(value) for value in values if value is not None]


def overall(verdicts: Sequence[str]) -> str:
    """What all measures say together: one that is worse is enough."""
    for verdict in (WORSE, BETTER, SAME):
        if verdict in verdicts:
            return verdict
    return UNKNOWN


def change(found: Sequence[float]) -> str:
    """``+11 % (+8 to +14 %)``."""
    middle, low, high = (100 * (value - 1) for value in found)
    return f"{middle:+.0f} % ({low:+.0f} to {high:+.0f} %)"


def says(rows: Sequence[Mapping[str, Any]]) -> str:
    """The verdict in a sentence, with what is the farthest off in each direction."""
    if not rows:
        return "cannot tell: the two runs have no point in common."
    verdict = overall([str(row["verdict"]) for row in rows])
    of_it = [row for row in rows if row["verdict"] == verdict]
    unsure = sum(row["verdict"] == UNKNOWN for row in rows)
    rest = f"; {unsure} of {len(rows)} comparisons vary too much to tell, which more repeats would" if unsure else ""
    if verdict == UNKNOWN:
        return (
            f"cannot tell: all {len(rows)} comparisons vary too much, or have one repeat; repeat each point more often."
        )
    told = [row for row in of_it if row["ratio"]]
    shown = sorted(told, key=lambda row: abs(math.log(row["ratio"][0])), reverse=True)[:2]
    words = ", ".join(
        f"{row['measure']} {change(row['ratio'])} at {row['concurrency'] or 'the trace'}" for row in shown
    )
    failed = "" if told else "more requests failed"
    return f"{verdict}: {words or failed}{rest}."


def lines(compared: Mapping[str, Any]) -> list[list[str]]:
    """All comparisons as rows for the terminal."""
    rows = [["at once", "tokens in, out", "measure", "change, with its interval", "verdict"]]
    for row in compared["rows"]:
        shape = f"{row['input_tokens']}, {row['output_tokens']}" if row["input_tokens"] else "as in the trace"
        told = change(row["ratio"]) if row["ratio"] else "-"
        rows.append([str(row["concurrency"] or "-"), shape, row["measure"], told, row["verdict"]])
    return rows
