# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus may ask."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, ClassVar, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
    values,
)

from openai_gateway.clients import Account
from openai_gateway.errors import ApiError
from openai_gateway.gate import Gate
from openai_gateway.generation import Finish
from openai_gateway.serving import CLIENT_GONE, ClientGone

LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
SEVERAL = "PROMETHEUS_MULTIPROC_DIR" in os.environ  # workers, which tell each other their numbers by files
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each counter
Filed: Any = values.MultiProcessValue()  # type: ignore[no-untyped-call]


class LateFiled(Filed):  # type: ignore[misc]
    """A number in a file for all workers that is written there once a second: writing takes longer than counting."""

    every: ClassVar[list[LateFiled]] = []

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.every.append(self)

    def inc(self, amount: float) -> None:
        """Count; the event loop is the only one who does."""
        self._value += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Have it be *value*."""
        self._value, self._timestamp = value, timestamp or 0.0

    def get(self) -> float:
        """This worker's number."""
        return float(self._value)

    def write(self) -> None:
        """Tell the others."""
        self._file.write_value(self._key, self._value, self._timestamp)


if SEVERAL:
    values.ValueClass = LateFiled


class EndpointMetrics(NamedTuple):
    """Those of one endpoint of one model."""

    prompt_tokens: Counter
    completion_tokens: Counter
    duration: Histogram
    first_token: Histogram
    token: Histogram


class Metrics:
    """All that the gateway measures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        both, replica = ("model", "endpoint"), ("model", "replica")
        given: dict[str, Any] = {"namespace": "openai_gateway", "registry": self.registry}
        seconds = {**given, "buckets": LATENCY_BUCKETS}
        self.requests = Counter("requests", "Requests by outcome.", (*both, "code"), **given)
        self.running = Gauge("requests_running", "Requests at work.", multiprocess_mode="livesum", **given)
        self.queued = Gauge("requests_queued", "Requests that wait for a place.", multiprocess_mode="livesum", **given)
        self.prompt_tokens = Counter("prompt_tokens", "Tokens read.", ("model",), **given)
        self.completion_tokens = Counter("completion_tokens", "Tokens written.", ("model",), **given)
        self.duration = Histogram("request_seconds", "From request to last byte.", both, **seconds)
        self.first_token = Histogram("first_token_seconds", "From request to first text.", both, **seconds)
        self.token = Histogram("token_seconds", "From one token to the next.", both, buckets=TOKEN_BUCKETS, **given)
        self.outstanding = Gauge(
            "replica_requests", "Requests at work by replica.", replica, multiprocess_mode="livesum", **given
        )
        self.failures = Gauge(
            "replica_failures", "Failures in a row by replica.", replica, multiprocess_mode="livemax", **given
        )
        self.draining = Gauge(
            "replica_draining", "Whether a replica gets no new requests.", replica, multiprocess_mode="livemax", **given
        )
        self.weight = Gauge(
            "replica_weight",
            "Requests for each one that a replica of weight 1 gets.",
            replica,
            multiprocess_mode="livemax",
            **given,
        )
        self.answered = Counter("replica_answers", "Requests answered by replica.", replica, **given)
        self.clients_changed = Gauge(
            "clients_changed_timestamp_seconds", "When clients and keys were written, 0 for none.",
            multiprocess_mode="livemax", **given,
        )  # fmt: skip

        self._of: dict[tuple[str, str], EndpointMetrics] = {}

    def of(self, model: str, endpoint: str) -> EndpointMetrics:
        """What is measured of each request: looking it up by its labels takes as long as counting."""
        found = self._of.get((model, endpoint))
        if found is None:
            both = model, endpoint
            found = self._of[both] = EndpointMetrics(
                self.prompt_tokens.labels(model), self.completion_tokens.labels(model), self.duration.labels(*both),
                self.first_token.labels(*both), self.token.labels(*both),
            )  # fmt: skip
        return found

    def forget_replica(self, model: str, replica: str) -> None:
        """It serves no more: what was told of it stands at nothing."""
        for gauge in (self.outstanding, self.failures, self.draining, self.weight):
            gauge.labels(model, replica).set(0)

    def counted(self, model: str, endpoint: str, status: int) -> None:
        """Count a request for which no model was asked; *model* may be empty."""
        self.requests.labels(model, endpoint, str(status)).inc()

    def tell(self) -> None:
        """Tell the other workers, as is done each second."""
        for value in LateFiled.every:
            value.write()

    def render(self) -> bytes:
        """The whole exposition; the numbers of other workers are up to a second old."""
        if not SEVERAL:
            return generate_latest(self.registry)
        self.tell()
        everybody = CollectorRegistry()
        multiprocess.MultiProcessCollector(everybody)  # type: ignore[no-untyped-call]
        return generate_latest(everybody)


class RequestMeter:
    """Measures one request from its start to its last byte, for the counters and for its line in the log."""

    def __init__(
        self, metrics: Metrics, model: str, endpoint: str, started: float, log: dict[str, Any], account: Account
    ) -> None:
        self._metrics, self._labels, self._started, self._log = metrics, (model, endpoint), started, log
        self._of = metrics.of(model, endpoint)
        self._first_text: float | None = None
        self._open = True
        self._code = 500
        self._account, self._leave = account, _nothing
        log["counted"] = True
        metrics.running.inc()

    async def admitted(self, gate: Gate) -> None:
        """Wait until the request may begin; raise ApiError 429 or 503 where it may not."""
        self._account.admit()
        self._leave = self._account.release
        await gate.enter()

        def leave() -> None:
            gate.leave()
            self._account.release()

        self._leave = leave

    def text(self) -> None:
        """Text is there; only the first time counts."""
        if self._first_text is None:
            self._first_text = time.monotonic()
            seconds = self._first_text - self._started
            self._of.first_token.observe(seconds)
            self._log["first_token"] = f"{seconds:.3f}s"

    def finished(self, finish: Finish) -> None:
        """The answer is complete."""
        self._code = 200
        self._account.spend(finish.prompt_tokens + finish.completion_tokens)
        self._of.prompt_tokens.inc(finish.prompt_tokens)
        self._of.completion_tokens.inc(finish.completion_tokens)
        self._log.update(prompt=finish.prompt_tokens, completion=finish.completion_tokens)
        self._log["finish"] = finish.reason
        if self._first_text is not None and finish.completion_tokens > 1:
            each = (time.monotonic() - self._first_text) / (finish.completion_tokens - 1)
            self._of.token.observe(each)

    def close(self, error: BaseException | None = None) -> None:
        """The request is over; *error* is what ended it."""
        if not self._open:
            return
        self._open = False
        self._leave()
        if isinstance(error, ApiError):
            self._code = error.status
            self._log["error"] = error.status
        elif isinstance(error, (ClientGone, GeneratorExit, asyncio.CancelledError)):
            self._code = CLIENT_GONE
        self._metrics.running.dec()
        self._metrics.requests.labels(*self._labels, str(self._code)).inc()
        self._of.duration.observe(time.monotonic() - self._started)


def _nothing() -> None:
    """Nothing was taken yet that would have to be given back."""
