# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of a report: one file, which asks for nothing and runs nothing. The template escapes all that hosts say."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._base.sizes import GIB, gib
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.state import utc
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _svg
from ansible_collections.trtllm.fleet.plugins.plugin_utils._report import seconds_of
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).resolve().parent / "report"
STYLES = {"passed": "good", "started": "new", "built": "new", "rolled back": "back"}  # by outcome; others are open
ROWS = 24  # of the time line; more hosts are told as one
ROLLOUTS, EVENTS = 30, 200  # that a page shows, the newest
SHADES = 5  # runs of one model in a plot
NARROW, WIDE = 340, 760
DAY = 86400.0
NONE = "\N{EN DASH}"  # where there is nothing to tell


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        size=lambda count: NONE if count is None else size(float(count)),
        moment=moment,
        short=lambda digest: str(digest or "").rpartition(":")[2][:12],
        number=lambda value: NONE if value is None else _svg.number(float(value)),
        span=span,
        mark=lambda outcome: _svg.mark(STYLES.get(outcome, "open")),
        share=lambda part, whole: f"{100 * part / whole:.0f}" if whole else "0",
    )
    return environment


def page(report: Mapping[str, Any]) -> str:
    """The whole page."""
    now = seconds_of(report["generated"]) or 0.0
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            css=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
            ago=lambda moment: ago(moment, now),
            headline=headline(report),
            time_lines=time_lines(report["rollouts"], now),
            shown_rollouts=ROLLOUTS,
            benchmarks=benchmarks(report["benchmarks"]),
        )
    )


def headline(report: Mapping[str, Any]) -> str:
    """How the fleet is, in one sentence."""
    summary = report["summary"]
    if not summary["hosts"]:
        return "There is no host in this fleet."
    if summary["lost"] == summary["hosts"]:
        return "No host answers." if summary["hosts"] > 1 else "The host does not answer."
    if not summary["replicas"]:
        return "Nothing serves here yet."
    all_serve = summary["serving"] == summary["replicas"]
    counted = f"{summary['serving']} of {summary['replicas']} replicas serve"
    one = "The replica serves" if all_serve else "The replica does not serve"
    said = one if summary["replicas"] == 1 else "All replicas serve" if all_serve else counted
    answer = "does not answer" if summary["lost"] == 1 else "do not answer"
    lost = f"; {summary['lost']} of {summary['hosts']} hosts {answer}" if summary["lost"] else ""
    counts = summary["attention"]
    rest = counts["warn"] + (counts["bad"] if all_serve and not lost else 0)
    differs = f", and {rest} {'thing needs' if rest == 1 else 'things need'} a look" if rest and not lost else ""
    return f"{said}{lost}{differs}."


def size(count: float) -> str:
    """Bytes as `gib` has them, and TiB where there are many."""
    return f"{count / GIB / 1024:.1f} TiB" if count >= 1024 * GIB else gib(count)


def moment(time: Any) -> str:
    """``2026-01-14T09:31:07Z`` -> ``2026-01-14 09:31``."""
    return str(time or NONE)[:16].replace("T", " ")


def ago(time: Any, now: float) -> str:
    """How long ago that was, roughly."""
    then = seconds_of(str(time or ""))
    if then is None:
        return NONE
    return f"{span(max(0.0, now - then))} ago"


def span(seconds: Any) -> str:
    """A span of time with the two numbers that matter: ``3 d 4 h``."""
    if seconds is None or seconds == "":
        return ""
    left = float(seconds)
    if left < 60:
        return f"{left:.0f} s" if left >= 10 or left == int(left) else f"{left:.1f} s"
    words: list[str] = []
    for name, length in (("d", DAY), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        count, left = divmod(left, length)
        if count or words:
            words.append(f"{int(count)} {name}" if count else "")
        if len(words) == 2:
            break
    return " ".join(word for word in words if word)


def time_lines(rollouts: Sequence[Mapping[str, Any]], now: float) -> dict[str, Markup]:
    """What happened where on a line of time, for a telephone and for a screen."""
    events = _events(rollouts)[:EVENTS]
    if not events:
        return {}
    rows = sorted({event.row for event in events})
    if len(rows) > ROWS:
        events = [_svg.Event("all hosts", *(event.begin, event.end, event.style, event.says)) for event in events]
        rows = ["all hosts"]
    begin = min(event.begin for event in events)
    end = max([now, *(event.end for event in events)])
    begin -= max((end - begin) * 0.02, 30)
    title = f"Rollouts from {moment(utc(begin))} to {moment(utc(end))}"
    return {
        name: _svg.time_line(events, rows, title, labels(begin, end, count), (begin, end), width, names)
        for name, width, count, names in (("narrow", NARROW, 2, 74), ("wide", WIDE * 1.3, 6, 130))
    }


def labels(begin: float, end: float, count: int) -> list[tuple[float, str]]:
    """Words for places of the axis: dates, or times of the day where it is about one."""
    step = (end - begin) / count
    form = slice(5, 10) if end - begin > 3 * DAY else slice(11, 16) if end - begin < DAY else slice(5, 16)
    places = [begin + step * (index + 0.5) for index in range(count)]
    return [(place, utc(place)[form].replace("T", " ")) for place in places]


def _events(rollouts: Sequence[Mapping[str, Any]]) -> list[_svg.Event]:
    found = []
    for rollout in rollouts:
        for part in rollout["hosts"]:
            begin, end = seconds_of(part["from"]), seconds_of(part["to"])
            if begin is None or end is None:
                continue
            says = f"{part['host']}: {part['outcome']} at {moment(part['to'])} ({rollout['id']})"
            found.append(_svg.Event(part["host"], begin, end, STYLES.get(part["outcome"], "open"), says))
    return found


# Of a run: what is drawn over what. (title, unit of y, key of the point, percentile)
PERCENTILES = ("p50", "p90", "p99")


def benchmarks(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The curves of each model that was measured, over the last runs."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        found.setdefault(str(run["target"]["model"]), []).append(run)
    return [_curves(model, runs_[-SHADES:]) for model, runs_ in sorted(found.items())]


def _curves(model: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = [_run_name(run) for run in runs]
    shapes = sorted({(point["input_tokens"], point["output_tokens"]) for run in runs for point in run["points"]})
    plots = []
    for given, made in shapes:
        load = f"{given} tokens in, {made} out" if given else "requests of the trace"
        against = {"title": f"Latency against throughput, {load}", **_against(runs, names, (given, made))}
        plots.append({**against, "legend": _svg.legend(names)})
        last = runs[-1]
        if any((point["input_tokens"], point["output_tokens"]) == (given, made) for point in last["points"]):
            first = {"title": f"Time to first token of the last run, {load}", **_percentiles(last, (given, made))}
            plots.append({**first, "legend": _svg.legend(PERCENTILES)})
    return {
        "model": model,
        "runs": [{"name": name, **run} for name, run in zip(names, runs)],
        "plots": plots,
        "last": runs[-1],
    }


def _run_name(run: Mapping[str, Any]) -> str:
    return f"{run['label']} ({moment(run['time'])})" if run.get("label") else moment(run["time"])


def _of_shape(run: Mapping[str, Any], shape: tuple[int, int]) -> list[Mapping[str, Any]]:
    points = [point for point in run["points"] if (point["input_tokens"], point["output_tokens"]) == shape]
    return sorted(points, key=lambda point: float(point["concurrency"] or 0))


def _against(runs: Sequence[Mapping[str, Any]], names: Sequence[str], shape: tuple[int, int]) -> dict[str, Markup]:
    series = [
        _svg.Series(
            name,
            [
                (
                    float(point["output_tokens_per_second"]["mean"]),
                    float(point["request_latency_ms"]["p90"]),
                    f"{point['concurrency']} at once: "
                    f"{_svg.number(point['output_tokens_per_second']['mean'])} tokens/s, "
                    f"p90 {_svg.number(point['request_latency_ms']['p90'])} ms",
                )
                for point in points
                if _told(point["output_tokens_per_second"]["mean"], point["request_latency_ms"]["p90"])
            ],
        )
        for name, run in zip(names, runs)
        if (points := _of_shape(run, shape))
    ]
    return _sizes(series, "Latency against throughput", "output tokens/s", "ms per request, p90")


def _percentiles(run: Mapping[str, Any], shape: tuple[int, int]) -> dict[str, Markup]:
    points = _of_shape(run, shape)
    series = [
        _svg.Series(
            percentile,
            [
                (
                    float(point["concurrency"]),
                    float(point["time_to_first_token_ms"][percentile]),
                    f"{_svg.number(point['time_to_first_token_ms'][percentile])} ms at {point['concurrency']} at once",
                )
                for point in points
                if _told(point["time_to_first_token_ms"][percentile])
            ],
        )
        for percentile in PERCENTILES
    ]
    places = [float(point["concurrency"]) for point in points]
    return _sizes(series, "Time to first token", "requests at once", "ms", places)


def _told(*figures: Any) -> bool:
    """Whether a run has all of them: the client does not always tell each."""
    return None not in figures


def _sizes(
    series: Sequence[_svg.Series], title: str, x_label: str, y_label: str, places: Sequence[float] = ()
) -> dict[str, Markup]:
    """A plot for a telephone and for a screen."""
    return {
        name: _svg.plot(series, title, x_label, y_label, width, height, places)
        for name, width, height in (("narrow", NARROW, 240), ("wide", WIDE * 0.68, 300))
    }
