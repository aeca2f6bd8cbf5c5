# SPDX-License-Identifier: GPL-3.0-or-later
"""What answers took, in Prometheus' text format and under the names of 1.3.0rc3."""

from __future__ import annotations

import time
from collections.abc import Sequence

# Upstream leaves both so.
LABELS = 'model_name="undefined",engine_type="undefined"'
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """How many of what was seen is at most so large."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def see(self, value: float) -> None:
        """One more."""
        self._counts[next((at for at, most in enumerate(BUCKETS) if value <= most), len(BUCKETS))] += 1
        self._sum += value

    def lines(self) -> list[str]:
        """None before the first, as upstream's labels are there with the first only."""
        found = [f"# HELP {self.name} {self.text}", f"# TYPE {self.name} histogram"]
        total = 0
        for most, count in zip((*map(str, BUCKETS), "+Inf"), self._counts):
            total += count
            found.append(f'{self.name}_bucket{{{LABELS},le="{most}"}} {total}')
        ends = [f"{self.name}_sum{{{LABELS}}} {self._sum}", f"{self.name}_count{{{LABELS}}} {total}"]
        return [*found, *ends] if total else found[:2]


class Metrics:
    """Of all answers that came to their end."""

    def __init__(self) -> None:
        self._first = Histogram("trtllm_time_to_first_token_seconds", "Time to the first token")
        self._each = Histogram("trtllm_time_per_output_token_seconds", "Time for each token after the first")
        self._whole = Histogram("trtllm_e2e_request_latency_seconds", "Time of a whole request")
        self._answered = 0

    def ended(self, begun: float, first: float, tokens: int) -> None:
        """An answer that began and had its first token when time.monotonic() said so, and ends now."""
        now = time.monotonic()
        self._answered += 1
        self._first.see(first - begun)
        self._whole.see(now - begun)
        if tokens > 1:
            self._each.see((now - first) / (tokens - 1))

    def page(self) -> str:
        """All of it."""
        name = "trtllm_request_success_total"
        lines = [f"# HELP {name} Requests that were answered", f"# TYPE {name} counter"]
        if self._answered:
            lines.append(f"{name}{{{LABELS}}} {self._answered}")
        histograms: Sequence[Histogram] = (self._whole, self._first, self._each)
        return "\n".join([*lines, *(line for one in histograms for line in one.lines())]) + "\n"
