# SPDX-License-Identifier: GPL-3.0-or-later
"""A benchmark: what is sent and for how long, what is read of the client's files, and how sure a comparison is."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.action import fleet_benchmark as action
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _bench, _bench_run, _bench_target, _bench_verdict
from ansible_collections.trtllm.fleet.plugins.plugin_utils._bench import Case, Load, Outcome, Target
from ansible_collections.trtllm.fleet.plugins.plugin_utils._kept import Kept

HERE = Target("http://127.0.0.1:3000", "m", key="sk-secret")


def record(first: float, between: float = 5.0, whole: float = 200.0, **more: Any) -> dict[str, Any]:
    """One line of the client's records."""
    values = {"time_to_first_token": first, "inter_token_latency": between, "request_latency": whole}
    return {"metrics": {name: {"value": value, "unit": "ms"} for name, value in values.items()}, **more}


def outcome(rate: float, *firsts: float, errors: int = 0, **more: Any) -> Outcome:
    summary: dict[str, Any] = {
        "output_token_throughput": {"unit": "tokens/sec", "avg": rate},
        "request_throughput": {"avg": rate / 10},
        "goodput": {"avg": rate / 20},
        "good_request_fraction": {"avg": 0.5},
        "error_summary": [{"error_details": {"message": "503\nbusy"}, "count": errors}] if errors else [],
        **more,
    }
    return Outcome(summary, [record(first) for first in firsts])


# -- what is sent --------------------------------------------------------------------------------------------------


def test_points_are_measured_in_rounds_so_that_what_changes_meanwhile_meets_all() -> None:
    load = Load(concurrency=[1, 8], lengths=[(128, 64), (1024, 16)], repeats=2)
    assert [case.concurrency for _repeat, case in load.rounds()] == [1, 8, 1, 8] * 2
    assert [(case.input_tokens, case.output_tokens) for case in load.cases()] == [(128, 64)] * 2 + [(1024, 16)] * 2
    assert load.cases()[1].words() == "8 at once, 128 tokens in, 64 out"


def test_each_point_ends_after_so_many_requests_and_so_many_seconds() -> None:
    wanted = _bench.config(HERE, Load(seconds=7), Case(8, 128, 64), "local/tokenizer", "/d", 3)["benchmark"]
    warm, phase = wanted["phases"]
    assert phase == {"name": "profiling", "type": "concurrency", "concurrency": 8, "requests": 48, "duration": 7,
                     "grace_period": 30}  # fmt: skip
    assert warm["requests"] == 8 and warm["exclude_from_results"]
    assert wanted["datasets"][0]["entries"] == 48
    assert wanted["datasets"][0]["prompts"] == {"isl": {"mean": 128, "stddev": 0}, "osl": {"mean": 64, "stddev": 0}}
    assert wanted["endpoint"]["extra"] == {"ignore_eos": True}
    few = _bench.config(HERE, Load(requests=5), Case(1, 128, 64), "t", "/d", 3)["benchmark"]
    assert few["phases"][1]["requests"] == 5


def test_a_trace_is_replayed_at_its_own_pace_and_no_longer_than_asked() -> None:
    load = Load(trace="/t.jsonl", seconds=9)
    wanted = _bench.config(HERE, load, load.cases()[0], "t", "/d", 1)["benchmark"]
    assert wanted["phases"] == [{"name": "profiling", "type": "fixed_schedule", "end_offset": 9000}]
    assert (
        wanted["datasets"][0] | {"type": "file", "path": "/t.jsonl", "format": "mooncake_trace"}
        == wanted["datasets"][0]
    )
    assert "extra" not in wanted["endpoint"] and len(load.cases()) == 1


def test_the_key_stands_in_no_file_and_triton_is_asked_in_its_own_way() -> None:
    text = json.dumps(_bench.config(HERE, Load(), Case(1, 8, 8), "t", "/d", 1))
    assert "sk-secret" not in text and "${OPENAI_API_KEY}" in text
    triton = Target("http://h:8000", "m", "triton", "ensemble")
    endpoint = _bench.config(triton, Load(), Case(1, 8, 8), "t", "/d", 1)["benchmark"]["endpoint"]
    assert endpoint["type"] == "template" and endpoint["path"] == "/v2/models/ensemble/generate_stream"
    assert "api_key" not in endpoint and "extra" not in endpoint


@pytest.mark.parametrize(
    ("load", "sentence"),
    [
        (Load(concurrency=[]), r"benchmark_concurrency is \[\]; it takes from 1 to 4,096\."),
        (Load(concurrency=[4, 0]), r"benchmark_concurrency is \[4, 0\]; it takes from 1 to 4,096\."),
        (Load(repeats=0), r"benchmark_repeats is 0; it takes from 1 to 20\."),
        (Load(seconds=99999), r"benchmark_seconds is 99999; it takes from 1 to 3,600\."),
        (Load(requests=-1), r"benchmark_requests is -1; it takes from 0 to 100,000\."),
        (Load(lengths=[(128, 0)]), "benchmark_lengths is empty or has a length below 1"),
        (
            Load(level={"ttft": 3}),
            "benchmark_service_level has ttft; it takes time_to_first_token, inter_token_latency",
        ),
    ],
)
def test_what_would_not_end_is_refused(load: Load, sentence: str) -> None:
    with pytest.raises(FleetError, match=f"^{sentence}"):
        load.check()


# -- what is read --------------------------------------------------------------------------------------------------


def test_a_point_has_the_percentiles_of_all_its_requests_and_the_rates_of_each_repeat() -> None:
    point = _bench.point(Case(4, 128, 64), [outcome(100, *range(10, 60)), outcome(110, *range(60, 110), errors=2)])
    assert point["output_tokens_per_second"] == {"mean": 105, "runs": [100, 110]}
    first = point["time_to_first_token_ms"]
    assert (first["p50"], first["mean"], point["requests"], point["errors"]) == (59.5, 59.5, 100, 2)
    assert first["p99"] == pytest.approx(108.01) and point["good_share"] == 0.5 and point["goodput"] == 5.25
    assert [run["time_to_first_token_ms"]["p50"] for run in point["runs"]] == [34.5, 84.5]
    rows = list(csv.DictReader(_bench.table([point]).splitlines()))
    assert rows[0]["time_to_first_token_ms_p50"] == "59.5" and rows[0]["concurrency"] == "4"
    assert _bench.screen([point])[1][:4] == ["4", "128, 64", "105.0", "10.5"]


@pytest.mark.parametrize(("percent", "value"), [(0, 1.0), (50, 2.5), (100, 4.0), (90, 3.7)])
def test_percentiles(percent: float, value: float) -> None:
    assert _bench.percentile([4, 1, 3, 2], percent) == pytest.approx(value)
    assert _bench.percentile([], percent) is None


def test_records_without_a_latency_and_those_that_warm_up_are_left_out(tmp_path: Path) -> None:
    """A request that failed has no time to its first token."""
    warm, counted = ({"benchmark_phase": phase} for phase in ("warmup", "profiling"))
    failed: list[dict[str, Any]] = [{"metadata": {}, "error": {"message": "refused"}}]
    failed.append({"metrics": {"time_to_first_token": None}})
    lines = [record(99, metadata=warm), record(12.5, metadata=counted), *failed]
    (tmp_path / "profile_export_aiperf.json").write_text(json.dumps({"request_throughput": {"avg": 3.5}}))
    (tmp_path / "profile_export.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    found = _bench_run.read(tmp_path)
    assert found and found.latencies("time_to_first_token_ms") == [12.5] and found.rate("request_throughput") == 3.5
    (tmp_path / "profile_export.jsonl").write_text("{half")
    assert _bench_run.read(tmp_path) is None


def test_what_the_client_says_of_a_failure_has_no_key_in_it() -> None:
    output = "\x1b[31m│ Starting │\n│ Error: Bearer sk-secret was refused   by the server │"
    assert _bench_run.said(output, "sk-secret") == "Error: Bearer ... was refused by the server"
    assert _bench_run.said("", "") == "it said nothing"
    assert outcome(1, errors=1).first_error() == "503 busy"


def test_the_tokenizer_lies_where_the_hubs_library_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTLLM_FLEET_CACHE", str(tmp_path / "cache"))
    content = b'{"model": {}}'
    sha256 = hashlib.sha256(content).hexdigest()
    with pytest.raises(FleetError, match="run trtllm_tokenizer_fetch first"):
        _bench_run.tokenizer(tmp_path / "none", {"tokenizer.json": sha256})
    assert Kept().put(sha256, content)
    assert _bench_run.tokenizer(tmp_path / "home", {"../../tokenizer.json": sha256}) == "local/tokenizer"
    laid = tmp_path / "home/hub/models--local--tokenizer"
    assert (laid / "refs/main").read_text() == "local"
    assert [path.name for path in (laid / "snapshots/local").iterdir()] == ["tokenizer.json"]
    assert (laid / "snapshots/local/tokenizer.json").read_bytes() == content


def test_the_client_is_one_that_its_sums_name() -> None:
    text = _bench_run.REQUIREMENTS.read_text()
    wanted = _bench_run.REQUIREMENTS.with_suffix(".in").read_text()
    assert _bench_run.tool().removeprefix("aiperf ") in wanted
    packages = [line for line in text.splitlines() if line and line[0] not in "# "]
    assert len(packages) > 50 and text.count("--hash=sha256:") >= len(packages)


# -- how sure it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "degrees", "value"),
    [(0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 4, 2.776), (0.975, 10, 2.228), (0.975, 1e3, 1.962)],
)  # fmt: skip
def test_students_distribution_is_the_one_of_the_tables(share: float, degrees: float, value: float) -> None:
    assert _bench_verdict.t_quantile(share, degrees) == pytest.approx(value, abs=0.001)
    assert _bench_verdict.t_below(-value, degrees) == pytest.approx(1 - share, abs=1e-4)


def test_intervals_hold_what_is_true_as_often_as_they_say() -> None:
    dice, held, tries = random.Random(1), 0, 200
    for _try in range(tries):
        before = [100 * dice.lognormvariate(0, 0.05) for _repeat in range(3)]
        after = [120 * dice.lognormvariate(0, 0.02) for _repeat in range(4)]
        found = _bench_verdict.ratio(before, after)
        held += found is not None and found[1] <= 1.2 <= found[2]
    assert 0.91 <= held / tries <= 0.99


@pytest.mark.parametrize(
    ("before", "after", "more_is_better", "verdict"),
    [
        ([100, 101, 99], [120, 121, 119], True, "better"),
        ([100, 101, 99], [120, 121, 119], False, "worse"),
        ([100, 101, 99], [80, 81, 79], True, "worse"),
        ([100, 100.5, 99.5], [101, 100.5, 100], True, "same"),
        ([100, 150, 70], [120, 90, 160], True, "cannot tell"),
        ([100], [50], True, "cannot tell"),
        ([100, 101], [0, 0], True, "cannot tell"),
        ([100, 100], [100, 100], True, "same"),
    ],
)
def test_verdicts(before: list[float], after: list[float], more_is_better: bool, verdict: str) -> None:
    assert _bench_verdict.judged(_bench_verdict.ratio(before, after), more_is_better, 0.05) == verdict


def run(rates: list[float], first: float = 20.0, errors: int = 0, **more: Any) -> dict[str, Any]:
    firsts = [[first * scale + step for step in range(3)] for scale in (1.0, 1.01, 0.99)]
    outcomes = [outcome(rate, *some, errors=errors) for rate, some in zip(rates, firsts)]
    return {"format": 1, "time": "2026-11-26T10:00:00Z", "label": "", "target": {"model": "m"},
            "points": [_bench.point(Case(4, 128, 64), outcomes)], **more}  # fmt: skip


def test_a_comparison_says_by_how_much_and_one_that_is_worse_is_enough() -> None:
    before = run([100, 101, 99], label="old")
    better = _bench_verdict.compare(before, run([120, 121, 119]), 0.05)
    assert (better["verdict"], better["against"]) == ("better", "old")
    assert better["says"].startswith("better: tokens/s +20 % (+17 to +23 %) at 4")
    worse = _bench_verdict.compare(before, run([120, 121, 119], first=60.0), 0.05)
    assert worse["verdict"] == "worse" and "time to first token +" in worse["says"]
    assert _bench_verdict.compare(before, before, 0.05)["verdict"] == "same"
    failed = _bench_verdict.compare(before, run([100, 101, 99], errors=3), 0.05)
    assert failed["verdict"] == "worse" and "more requests failed" in failed["says"]
    rows = _bench_verdict.lines(better)
    assert rows[1] == ["4", "128, 64", "tokens/s", "+20 % (+17 to +23 %)", "better"]


def test_runs_without_a_point_in_common_or_with_one_repeat_tell_nothing() -> None:
    other = run([100, 100, 100])
    other["points"][0]["concurrency"] = 8
    assert _bench_verdict.compare(run([1, 1, 1]), other, 0.05)["verdict"] == "cannot tell"
    once = _bench_verdict.compare(run([100]), run([50]), 0.05)
    assert once["verdict"] == "cannot tell" and "repeat each point more often" in once["says"]


# -- what it is compared with, and who is asked --------------------------------------------------------------------


def test_a_run_is_compared_with_the_last_of_its_model_or_with_what_is_named(tmp_path: Path) -> None:
    times = {"a": "2026-11-01T10:00:00Z", "b": "2026-11-02T10:00:00Z", "other": "2026-11-03T10:00:00Z"}
    for label, time in times.items():
        model = "m" if label != "other" else "else/where"
        action.write(tmp_path, run([1, 2, 3], label=label, time=time, target={"model": model}))
    (tmp_path / "broken.json").write_text("{")
    assert sorted(path.name for path in tmp_path.glob("*.csv"))[0] == "20261101T100000Z-m.csv"
    assert (tmp_path / "20261103T100000Z-else-where.json").exists()
    found = {against: action.earlier(tmp_path, against, "m") for against in ("last", "a", "none")}
    assert [one and one["label"] for one in found.values()] == ["b", "a", None]
    assert action.earlier(tmp_path, str(tmp_path / "20261101T100000Z-m.json"), "m")["label"] == "a"  # type: ignore[index]
    assert action.earlier(tmp_path / "empty", "last", "m") is None
    with pytest.raises(FleetError, match=r"has no run of m with this label; there are a, b, other"):
        action.earlier(tmp_path, "c", "m")
    with pytest.raises(FleetError, match="which is no run of benchmark.yml"):
        action.earlier(tmp_path, str(tmp_path / "broken.json"), "m")


WANTED = {"model": "", "host": "", "target": "gateway", "url": "", "api": "chat", "root": "", "tokenizer": ""}
GATEWAY = {"service": "openai-gateway", "url": "http://127.0.0.1:3000", "models": ["shown"], "names": {"m": "shown"},
           "config": "{address: 0.0.0.0, models: [{name: shown, urls: [http://x], tokenizer_dir: /t/m}]}"}  # fmt: skip
REPLICA = {"model": "m", "replica": "m-0", "http_url": "http://127.0.0.1:8000", "api": "triton", "release": "r",
           "entry_models": ["tensorrt_llm_bls", "ensemble"], "fingerprints": ["f"], "image": "i"}  # fmt: skip
FOUND = {"h1": {"replicas": [REPLICA], "gateways": []}, "h2": {"replicas": [], "gateways": [GATEWAY]}, "h3": None}


def test_the_first_gateway_that_has_the_model_is_asked_where_the_controller_reaches_it() -> None:
    chosen = _bench_target.choose(FOUND, {"h2": "10.0.0.2"}, WANTED)  # type: ignore[arg-type]
    assert chosen == {
        "host": "h2", "url": "http://10.0.0.2:3000", "name": "shown", "model": "m", "api": "chat", "entry_model": "",
        "tokenizer": "/t/m",
        "about": {"kind": "gateway", "host": "h2", "release": "r", "fingerprints": ["f"], "image": "i"},
    }  # fmt: skip
    inside = {**FOUND, "h2": {"gateways": [{**GATEWAY, "config": GATEWAY["config"].replace("0.0.0.0", "127.0.0.1")}]}}
    assert _bench_target.choose(inside, {"h2": "10.0.0.2"}, WANTED)["url"] == "http://127.0.0.1:3000"  # type: ignore[arg-type]
    named = {**WANTED, "model": "m", "url": "https://llm.example.com", "tokenizer": "/else"}
    chosen = _bench_target.choose(FOUND, {"h2": "10.0.0.2"}, named)  # type: ignore[arg-type]
    assert (chosen["url"], chosen["tokenizer"]) == ("https://llm.example.com", "/else")


def test_a_replica_is_asked_in_its_own_way() -> None:
    chosen = _bench_target.choose(FOUND, {}, {**WANTED, "target": "replica"})  # type: ignore[arg-type]
    assert (chosen["api"], chosen["entry_model"], chosen["url"]) == ("triton", "ensemble", "http://127.0.0.1:8000")
    assert chosen["tokenizer"] == "/var/lib/trtllm/checkpoints/m"
    served = {"h1": {"replicas": [{**REPLICA, "api": "openai", "entry_models": []}]}}
    assert (
        _bench_target.choose(served, {}, {**WANTED, "target": "replica", "api": "completions"})["api"] == "completions"
    )
    other = {"h1": {"replicas": [{**REPLICA, "api": "llmapi"}]}}
    with pytest.raises(FleetError, match="There is no replica of any model"):
        _bench_target.choose(other, {}, {**WANTED, "target": "replica"})


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"model": "n"}, r"There is no gateway of n at any host to measure; there are shown at h2\."),
        ({"host": "h1"}, r"There is no gateway of any model at h1 to measure; there are shown at h2\."),
        ({"target": "pod"}, r"benchmark_target is pod; it takes gateway or replica\."),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(wanted: dict[str, str], sentence: str) -> None:
    with pytest.raises(FleetError, match=f"^{sentence}$"):
        _bench_target.choose(FOUND, {}, {**WANTED, **wanted})  # type: ignore[arg-type]
