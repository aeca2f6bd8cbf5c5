# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters in Prometheus' text format. One process and one event loop, so no locks."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from openai_gateway.errors import ApiError
from openai_gateway.generation import Ending
from openai_gateway.serving import CLIENT_GONE, ClientGone

LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Counter:
    """A number per combination of labels that only grows, or that is set (*kind* gauge)."""

    def __init__(self, name: str, text: str, labels: Sequence[str], kind: str = "counter") -> None:
        self.name, self._text, self._labels, self._kind = name, text, tuple(labels), kind
        self._values: dict[tuple[str, ...], float] = defaultdict(float)

    def add(self, *labels: str, amount: float = 1) -> None:
        """Add *amount* for these label values."""
        self._values[labels] += amount

    def set(self, *labels: str, value: float) -> None:
        """Set the value for these label values."""
        self._values[labels] = value

    def lines(self) -> Iterable[str]:
        """Yield the lines of the text format."""
        yield f"# HELP {self.name} {self._text}"
        yield f"# TYPE {self.name} {self._kind}"
        for values, number in sorted(self._values.items()):
            yield f"{self.name}{_labels(dict(zip(self._labels, values)))} {_number(number)}"


class Histogram:
    """Seconds in cumulative buckets, per combination of labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self.name, self._text, self._labels = name, text, tuple(labels)
        self._buckets: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = defaultdict(float)

    def observe(self, *labels: str, seconds: float) -> None:
        """Count one observation."""
        counts = self._buckets.setdefault(labels, [0] * (len(LATENCY_BUCKETS) + 1))
        for index, bound in enumerate((*LATENCY_BUCKETS, float("inf"))):
            counts[index] += seconds <= bound
        self._sums[labels] += seconds

    def lines(self) -> Iterable[str]:
        """Yield the lines of the text format."""
        yield f"# HELP {self.name} {self._text}"
        yield f"# TYPE {self.name} histogram"
        for values, counts in sorted(self._buckets.items()):
            labels = dict(zip(self._labels, values))
            for bound, count in zip((*map(str, LATENCY_BUCKETS), "+Inf"), counts):
                yield f"{self.name}_bucket{_labels({**labels, 'le': bound})} {count}"
            yield f"{self.name}_sum{_labels(labels)} {_number(self._sums[values])}"
            yield f"{self.name}_count{_labels(labels)} {counts[-1]}"


class Metrics:
    """All that the gateway measures."""

    def __init__(self) -> None:
        both = ("model", "endpoint")
        self.requests = Counter("openai_gateway_requests_total", "Requests by outcome.", (*both, "code"))
        self.running = Counter("openai_gateway_requests_running", "Requests at work.", (), "gauge")
        self.prompt_tokens = Counter("openai_gateway_prompt_tokens_total", "Tokens read.", ("model",))
        self.completion_tokens = Counter("openai_gateway_completion_tokens_total", "Tokens written.", ("model",))
        self.duration = Histogram("openai_gateway_request_seconds", "From request to last byte.", both)
        self.first_token = Histogram("openai_gateway_first_token_seconds", "From request to first text.", both)
        self.outstanding = Counter(
            "openai_gateway_replica_requests", "Requests at work by replica.", ("model", "replica"), "gauge"
        )
        self.resting = Counter(
            "openai_gateway_replica_failures", "Failures in a row by replica.", ("model", "replica"), "gauge"
        )
        self.running.set(value=0)

    def render(self) -> str:
        """Return the whole exposition."""
        lines: list[str] = []
        for metric in vars(self).values():
            lines.extend(metric.lines())
        return "\n".join(lines) + "\n"


class RequestMeter:
    """Measures one request from its start to its last byte, for the counters and for its line in the log."""

    def __init__(self, metrics: Metrics, model: str, endpoint: str, started: float, log: dict[str, Any]) -> None:
        self._metrics, self._labels, self._started, self._log = metrics, (model, endpoint), started, log
        self._first = True
        self._open = True
        self._code = 500
        metrics.running.add(amount=1)

    def text(self) -> None:
        """Text is there; only the first time counts."""
        if self._first:
            self._first = False
            seconds = time.monotonic() - self._started
            self._metrics.first_token.observe(*self._labels, seconds=seconds)
            self._log["first_token"] = f"{seconds:.3f}s"

    def ended(self, ending: Ending) -> None:
        """The answer is complete."""
        self._code = 200
        self._metrics.prompt_tokens.add(self._labels[0], amount=ending.prompt_tokens)
        self._metrics.completion_tokens.add(self._labels[0], amount=ending.completion_tokens)
        self._log.update(prompt=ending.prompt_tokens, completion=ending.completion_tokens)
        self._log["finish"] = ending.finish_reason

    def close(self, error: BaseException | None = None) -> None:
        """The request is over; *error* is what ended it."""
        if not self._open:
            return
        self._open = False
        if isinstance(error, ApiError):
            self._code = error.status
            self._log["error"] = error.status
        elif isinstance(error, (ClientGone, GeneratorExit, asyncio.CancelledError)):
            self._code = CLIENT_GONE
        self._metrics.running.add(amount=-1)
        self._metrics.requests.add(*self._labels, str(self._code))
        self._metrics.duration.observe(*self._labels, seconds=time.monotonic() - self._started)

    def __enter__(self) -> RequestMeter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.close(error)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
