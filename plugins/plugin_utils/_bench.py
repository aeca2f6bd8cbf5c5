# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a benchmark is made of: its points, the client's configuration for each, and what became of them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError

FORMAT = 1
KEY_VARIABLE = "OPENAI_API_KEY"  # the client reads the key there, so that it stands in no file and no list of arguments
LATENCIES = {
    "time_to_first_token_ms": "time_to_first_token",
    "inter_token_latency_ms": "inter_token_latency",
    "request_latency_ms": "request_latency",
}
RATES = {"output_tokens_per_second": "output_token_throughput", "requests_per_second": "request_throughput"}
PERCENTILES = (50, 90, 95, 99)
LEVELS = tuple(LATENCIES.values())
GRACE = 30  # seconds for what still runs when the time of a point is over
# Triton's own way of generating. The ensemble streams each token as it comes.
TRITON_BODY = (
    '{"text_input": {{ text|tojson }}, "max_tokens": {{ max_tokens or 16 }}, "stream": true, "bad_words": "", '
    '"stop_words": ""}'
)
# name -> the least and the most that it may be
BOUNDS = {"concurrency": (1, 4096), "requests": (0, 100_000), "seconds": (1, 3600), "repeats": (1, 20)}

Values = dict[str, Any]


@dataclass(frozen=True)
class Load:
    """What is sent."""

    concurrency: Sequence[int] = (1, 4, 16)
    lengths: Sequence[tuple[int, int]] = ((128, 64),)  # tokens in, tokens out
    requests: int = 0  # of each point and repeat; 0 for as many as there is something to tell of
    seconds: int = 30  # that a point may take each time
    repeats: int = 3
    trace: str = ""  # a file of timestamps and lengths, instead of concurrency and lengths
    level: Mapping[str, float] = field(default_factory=dict)  # by latency the most ms that are good
    ignore_eos: bool = True

    def check(self) -> None:
        """Raise `FleetError` for what would run without an end, or not at all."""
        given = {"concurrency": self.concurrency, "requests": [self.requests], "seconds": [self.seconds]}
        for name, values in {**given, "repeats": [self.repeats]}.items():
            least, most = BOUNDS[name]
            if not values or not all(least <= value <= most for value in values):
                shown = list(values) if name == "concurrency" else next(iter(values), None)
                raise FleetError(f"benchmark_{name} is {shown}; it takes from {least} to {most:,}.")
        if not self.trace and (not self.lengths or not all(low >= 1 and high >= 1 for low, high in self.lengths)):
            raise FleetError(
                "benchmark_lengths is empty or has a length below 1; give for example [{input: 128, output: 64}]."
            )
        unknown = sorted(set(self.level) - set(LEVELS))
        if unknown:
            raise FleetError(
                f"benchmark_service_level has {unknown[0]}; it takes {', '.join(LEVELS)}, in milliseconds."
            )

    def cases(self) -> list[Case]:
        """The points, each once."""
        if self.trace:
            return [Case(0, 0, 0)]
        return [Case(count, *length) for length in self.lengths for count in self.concurrency]

    def rounds(self) -> Iterator[tuple[int, Case]]:
        """All points, then all again: what changes on the machines meanwhile does so to all of them."""
        for repeat in range(self.repeats):
            for case in self.cases():
                yield repeat, case


@dataclass(frozen=True)
class Case:
    """One point. A trace has 0 of everything."""

    concurrency: int
    input_tokens: int
    output_tokens: int

    def words(self) -> str:
        """What it is, for a line on the terminal."""
        if not self.concurrency:
            return "the trace"
        return f"{self.concurrency} at once, {self.input_tokens} tokens in, {self.output_tokens} out"


@dataclass(frozen=True)
class Target:
    """Who is asked."""

    url: str
    model: str
    api: str = "chat"  # chat, completions, or triton
    entry_model: str = "ensemble"
    key: str = ""


def requests_of(load: Load, case: Case) -> int:
    """How many requests a point has: enough for each that waits at once to do so more than a few times."""
    return load.requests or max(16, 6 * case.concurrency)


def config(target: Target, load: Load, case: Case, tokenizer: str, directory: str, seed: int) -> Values:
    """The client's configuration for one point. The same *seed* gives the same prompts."""
    endpoint: Values = {"urls": [target.url], "type": target.api, "streaming": True, "timeout": load.seconds + GRACE}
    if target.key:
        endpoint["api_key"] = f"${{{KEY_VARIABLE}}}"
    if target.api == "triton":
        endpoint["type"] = "template"
        endpoint["path"] = f"/v2/models/{target.entry_model}/generate_stream"
        endpoint["template"] = {"body": TRITON_BODY, "response_field": "text_output"}
    elif load.ignore_eos and not load.trace:
        endpoint["extra"] = {"ignore_eos": True}
    count = requests_of(load, case)
    if load.trace:
        data: Values = {"type": "file", "path": load.trace, "format": "mooncake_trace"}
        phases: list[Values] = [{"name": "profiling", "type": "fixed_schedule", "end_offset": load.seconds * 1000}]
    else:
        lengths = {"isl": _exactly(case.input_tokens), "osl": _exactly(case.output_tokens)}
        data = {"type": "synthetic", "entries": count, "prompts": lengths}
        one = {"type": "concurrency", "concurrency": case.concurrency}
        warm = {"name": "warmup", **one, "requests": case.concurrency, "exclude_from_results": True}
        limits = {"requests": count, "duration": load.seconds, "grace_period": GRACE}
        phases = [warm, {"name": "profiling", **one, **limits}]
    return {
        "schema_version": "2.0",
        "random_seed": seed,
        "benchmark": {
            "models": [target.model],
            "endpoint": endpoint,
            "datasets": [{"name": "main", "random_seed": seed, **data}],
            "phases": phases,
            "tokenizer": {"name": tokenizer},
            "slos": {name: float(most) for name, most in load.level.items()},
            "artifacts": {"dir": directory},
            "server_metrics": {"enabled": False},
            "gpu_telemetry": {"enabled": False},
            "runtime": {"ui": "none"},
        },
    }


def _exactly(count: int) -> Values:
    return {"mean": count, "stddev": 0}


def percentile(values: Sequence[float], percent: float) -> float | None:
    """That of *values*, between the two that are nearest; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Sequence[float]) -> Values:
    """Mean and percentiles."""
    mean = {"mean": sum(values) / len(values) if values else None}
    return {**mean, **{f"p{percent}": percentile(values, percent) for percent in PERCENTILES}}


@dataclass(frozen=True)
class Outcome:
    """What the client wrote about one point, once."""

    summary: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]

    def latencies(self, name: str) -> list[float]:
        """By request, in milliseconds."""
        found = []
        for record in self.records:
            value = ((record.get("metrics") or {}).get(LATENCIES[name]) or {}).get("value")
            if isinstance(value, (int, float)):
                found.append(float(value))
        return found

    def rate(self, name: str) -> float | None:
        """Over the whole time."""
        value = (self.summary.get(name) or {}).get("avg")
        return None if value is None else float(value)

    def errors(self) -> int:
        """Requests that failed."""
        return sum(int(one.get("count") or 0) for one in self.summary.get("error_summary") or [])

    def first_error(self) -> str:
        """What the first of them said."""
        details = next((one.get("error_details") or {} for one in self.summary.get("error_summary") or []), {})
        return " ".join(str(details.get("message") or details.get("type") or "no message").split())[:300]


def point(case: Case, outcomes: Sequence[Outcome]) -> Values:
    """All repeats of a point: percentiles over the requests of all, and by repeat what another run is compared with."""
    rates = {name: [outcome.rate(key) for outcome in outcomes] for name, key in RATES.items()}
    pooled = {name: [value for one in outcomes for value in one.latencies(name)] for name in LATENCIES}
    good = [share for one in outcomes if (share := one.rate("good_request_fraction")) is not None]
    return {
        "concurrency": case.concurrency,
        "input_tokens": case.input_tokens,
        "output_tokens": case.output_tokens,
        "requests": sum(len(one.latencies("request_latency_ms")) for one in outcomes),
        "errors": sum(one.errors() for one in outcomes),
        "good_share": sum(good) / len(good) if good else None,
        "goodput": _mean([one.rate("goodput") for one in outcomes]),
        **{name: {"mean": _mean(values), "runs": values} for name, values in rates.items()},
        **{name: spread(values) for name, values in pooled.items()},
        "runs": [
            {name: spread(outcome.latencies(name)) for name in LATENCIES}
            | {name: outcome.rate(key) for name, key in RATES.items()}
            for outcome in outcomes
        ],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


COLUMNS = (
    "concurrency", "input_tokens", "output_tokens", "requests", "errors", "good_share", "goodput",
)  # fmt: skip


def table(points: Sequence[Mapping[str, Any]]) -> str:
    """The points as CSV, one a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    kinds = ["mean", *(f"p{percent}" for percent in PERCENTILES)]
    writer.writerow([*COLUMNS, *RATES, *(f"{name}_{kind}" for name in LATENCIES for kind in kinds)])
    for one in points:
        rates = [one[name]["mean"] for name in RATES]
        writer.writerow(
            [*(one[name] for name in COLUMNS), *rates, *(one[name][kind] for name in LATENCIES for kind in kinds)]
        )
    return text.getvalue()


def screen(points: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The points as rows for the terminal."""
    rows = [["at once", "tokens in, out", "tokens/s", "requests/s", "first token p50, p99 ms", "between p50, p99 ms",
             "request p50, p99 ms", "good", "failed"]]  # fmt: skip
    for one in points:
        share = "-" if one["good_share"] is None else f"{100 * one['good_share']:.0f} %"
        pairs = [f"{_short(one[name]['p50'])}, {_short(one[name]['p99'])}" for name in LATENCIES]
        shape = f"{one['input_tokens']}, {one['output_tokens']}" if one["input_tokens"] else "as in the trace"
        rates = [_short(one[name]["mean"]) for name in RATES]
        rows.append([str(one["concurrency"] or "-"), shape, *rates, *pairs, share, str(one["errors"])])
    return rows


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
