# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a fleet: what it says of hosts, what differs from their description, and that its page is only text."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _drift, _report_page, _svg
from ansible_collections.trtllm.fleet.plugins.plugin_utils._report import Fleet, of_fleet, report
from unit import report_fakes as fakes
from unit.hostile import HOSTILE

NASTY = "\"><script>alert(1)</script><img src=http://x.example/ onerror=alert(2)>&'{{ 7 * 7 }}</style>"


def made(found: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    given = {"lost": fakes.LOST, "benchmarks": fakes.BENCHMARKS} if found is None else {}
    return report(Fleet("mysite", fakes.found() if found is None else found, now=fakes.NOW, **{**given, **more}))


def said(told: dict[str, Any]) -> list[str]:
    return [f"{one['severity']} {one['host']} {one['about']}: {one['what']}" for one in told["attention"]]


class Page(HTMLParser):
    """The tags, the attributes and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def shown(told: dict[str, Any]) -> Page:
    page = Page(_report_page.page(told))
    assert page.open == []
    return page


def test_a_fleet_where_all_is_as_described_needs_no_look() -> None:
    told = made({"gpu-01": fakes.host(fakes.code(), fakes.chat()), "gpu-02": fakes.host(fakes.code())})
    assert told["attention"] == []
    assert told["summary"] | {"requests": 126834} == told["summary"]
    assert {key: told["summary"][key] for key in ("state", "hosts", "lost", "replicas", "serving", "gpus")} == {
        "state": "ok", "hosts": 2, "lost": 0, "replicas": 3, "serving": 3, "gpus": 8,
    }  # fmt: skip
    assert [(model["name"], model["serving"], model["gateways"]) for model in told["models"]] == [
        ("codellama-13b", 2, ["gpu-01", "gpu-02"]), ("qwen3-32b", 1, ["gpu-01"]),
    ]  # fmt: skip
    assert told["versions"]["driver"] == {"580.95.05": ["gpu-01", "gpu-02"]}
    page = shown(told)
    assert "All replicas serve." in page.text and "What serves is what is described" in page.text


def test_it_is_said_since_when_a_host_is_settled_or_what_differs_since() -> None:
    told = made()
    assert told["summary"]["settled"] == 2
    page = shown(told)
    assert page.text.count("Settled since 2026-11-24 09:30") == 2
    since = "Not settled, as it was on 2026-11-24 09:30"
    assert f"{since}: units: /etc/containers/systemd/x.container differs in size." in page.text
    assert "Not settled: no whole run has found nothing to change yet." in page.text
    assert page.text.lower().count("settled since") + page.text.count("Not settled") == 4, "of two nothing is known"


def test_all_that_is_amiss_is_said_the_worst_first() -> None:
    assert said(made()) == [
        "bad gpu-03 codellama-13b-0: a rollout changed it and nobody has seen since that it is good",
        "bad gpu-03 qwen3-32b-1: it is failed",
        "bad gpu-03 qwen3-32b-1: its engine 77aa01bc2c3d is damaged: rank1.engine is 12 bytes, and its manifest says "
        "26300000000",
        "bad gpu-05 : it could not be asked all: no python",
        "bad gpu-06 : it is lost: it does not answer: Connection timed out",
        "warn gpu-03 codellama-13b-0: its engine was built with max_batch_size 32, and 64 is described",
        "warn gpu-04 : it does not fit what is described: GPU 3 is asked for, and the host has 2",
        "warn gpu-04 codellama-13b-0: its unit is not the one that its release record tells of",
        "note gpu-03 qwen3-32b-1: it was restarted 5 times since its unit was started",
        "note gpu-04 : it waits for a reboot: the driver was upgraded",
    ]
    assert _report_page.headline(made()) == "6 of 7 replicas serve; 1 of 6 hosts does not answer."


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"release": "0.0.1"}, f"it serves release 0.0.1, and {LAST} is described"),
        ({"gpus": ["2"]}, "it has the GPUs 2, and 0, 1 are described"),
        ({"http_url": "http://10.0.0.11:9000"}, "it listens at http://10.0.0.11:9000, and "),
        ({"image": "other/image@sha256:00"}, "it runs other/image@sha256:00, and registry.example.com/nvidia/"),
        ({"engines": ["/engines/m/0123456789abcdef"]}, "its engine 0123456789ab is not on the host any more"),
        ({"health": "unhealthy"}, "its health probe fails"),
        ({"health": "starting"}, "it is starting"),
        ({"active": "inactive", "sub": "dead"}, "it is inactive (dead)"),
    ],
)
def test_each_difference_of_a_replica(change: dict[str, Any], sentence: str) -> None:
    host = fakes.host(fakes.code())
    host["replicas"][0].update(change)
    assert [one for one in made({"h": host})["attention"] if one["what"].startswith(sentence)]


@pytest.mark.parametrize(
    ("address", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("fd00::11", "[fd00::11]"), ("10.0.0.11", "10.0.0.11")],
)
def test_a_replica_that_listens_as_described_does_not_differ(address: str, reached: str) -> None:
    host = fakes.host(fakes.code())
    host["plan"] = fakes.plan({**fakes.planned("codellama-13b", 0, [0, 1]), "address": address})
    host["replicas"][0]["http_url"] = f"http://{reached}:8000"  # as the release record has it
    host["gateways"] = []
    assert said(made({"h": host})) == []


def local(http_url: str = "http://127.0.0.1:8000", **more: Any) -> dict[str, Any]:
    """A host whose gateway fronts its own replica, which other hosts do not reach."""
    host = fakes.host(fakes.code())
    host["plan"] = fakes.plan({**fakes.planned("codellama-13b", 0, [0, 1]), "address": "127.0.0.1"})
    config = f"models: [{{name: codellama-13b, urls: ['{http_url}']}}]"
    host["gateways"] = [fakes.gateway("codellama-13b", config=config)]
    host["replicas"][0].update(http_url="http://127.0.0.1:8000", **more)
    return host


def test_a_loopback_address_is_another_on_each_host() -> None:
    told = made({"a": local(), "b": local(active="failed")})
    assert "bad b openai-gateway: none of the replicas of codellama-13b behind it serves" in said(told)
    assert [one["serving"] for one in told["gateways"]] == [{"codellama-13b": 1}, {"codellama-13b": 0}]


def test_a_gateway_reaches_what_listens_on_all_addresses_by_any_of_them() -> None:
    host = local("http://10.0.0.11:8000")
    assert said(made({"a": host})) == [
        "warn a openai-gateway: it sends codellama-13b to http://10.0.0.11:8000, where no host has a replica"
    ]
    host["plan"]["replicas"][0]["address"] = "0.0.0.0"
    assert said(made({"a": host})) == []
    host["gateways"][0]["config"] = "models: [{name: codellama-13b, urls: ['http://[', 'http://a:b']}]"
    assert "where no host has a replica" in said(made({"a": host}))[0]


def test_replicas_are_missed_and_found_by_the_description() -> None:
    host = fakes.host(fakes.code())
    host["plan"] = fakes.plan(fakes.planned("qwen3-32b", 1, [2, 3]))
    assert said(made({"h": host})) == [
        "bad h qwen3-32b-1: it is described, but not on the host",
        "warn h codellama-13b-0: it is on the host, but not described",
    ]


@pytest.mark.parametrize(
    ("runs", "described", "same"),
    [
        ("r/a/i@sha256:1", "r/a/i:1.2", True),
        ("r:5000/i@sha256:1", "r:5000/i", True),
        ("r:5000/i@sha256:1", "r:5000/i:1@sha256:1", True),
        ("r:5000/i@sha256:1", "r:5000/i@sha256:2", False),
        ("r:5000/j@sha256:1", "r:5000/i:1", False),
        ("mirror/i@sha256:1", "r/i@sha256:1", True),
    ],
)
def test_images_are_the_same_as_far_as_names_and_digests_tell(runs: str, described: str, same: bool) -> None:
    assert _drift.same_image(runs, described) is same


def test_gateways_that_lead_nowhere() -> None:
    host = fakes.host(fakes.code())
    host["gateways"] = [fakes.gateway("codellama-13b", config="models: [{name: m, urls: ['http://10.0.0.99:8000']}]")]
    assert said(made({"h": host})) == [
        "warn h openai-gateway: it sends m to http://10.0.0.99:8000, where no host has a replica"
    ]
    host["gateways"] = [fakes.gateway("codellama-13b")]
    host["replicas"][0]["active"] = "failed"
    assert "bad h openai-gateway: none of the replicas of codellama-13b behind it serves" in said(made({"h": host}))
    # Where it is not known at which address a replica listens, it may be that one.
    host["replicas"][0].update(active="active", http_url="", model="")
    assert said(made({"h": host})) == [
        "warn h codellama-13b-0: its unit is not the one that its release record tells of"
    ]


def test_rollouts_have_the_last_outcome_of_each_host() -> None:
    rollouts = made()["rollouts"]
    assert [(one["id"], one["outcomes"], one["good"]) for one in rollouts] == [
        ("20261126T130000Z-14", {"not settled": 1}, False),
        ("20261124T080000Z-13", {"passed": 4}, True),
        ("20261112T141500Z-12", {"rolled back": 4}, False),
        ("20261101T100000Z-11", {"started": 4}, True),
    ]
    assert rollouts[2]["from"] == "2026-11-12T14:15:00Z"
    assert rollouts[2]["hosts"][0] == {
        "host": "gpu-01", "outcome": "rolled back", "from": "2026-11-12T14:17:00Z", "to": "2026-11-12T14:21:00Z",
        "seconds": 241.2, "why": "gate: 3 tokens/s, and 20 are expected", "services": ["triton-codellama-13b-0"],
    }  # fmt: skip
    host = fakes.host(fakes.code(), holder={"id": "20261126T130000Z-14", "owner": "alice"})
    host["rollouts"] = [fakes.line("20261126T130000Z-14", "2026-11-26T13:20:00Z", "switching")]
    assert made({"h": host})["rollouts"][0]["outcomes"] == {"at work": 1}


def test_nothing_secret_of_a_gateway_is_told() -> None:
    told = made()
    assert "sk-very-secret" not in json.dumps(told) + _report_page.page(told)


def test_a_fleet_without_hosts_models_or_answers_has_a_page() -> None:
    assert "There is no host in this fleet." in shown(made({})).text
    assert "Nothing serves here yet." in shown(made({"h": {"problems": []}})).text
    assert "The host does not answer." in shown(made({}, lost={"h": "gone"})).text
    refused = shown(made({"h": fakes.host()}, refused="trtllm_models[0].engin is not an option."))
    assert "trtllm_models[0].engin is not an option." in refused.text


def replaced(value: Any, text: Any) -> Any:
    """*value* with *text* in place of each text."""
    if isinstance(value, dict):
        return {key: replaced(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, text) for item in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("text", [NASTY, *(one for one in HOSTILE if isinstance(one, str))])
def test_whatever_hosts_say_is_text(text: str) -> None:
    found = {f"{text}{index}": replaced(host, text) for index, host in enumerate(fakes.found().values())}
    runs = [{**replaced(run, text), "format": 1} for run in fakes.BENCHMARKS]
    told = report(Fleet(text, found, {f"{text}5": text}, runs, refused=text, by=text, now=fakes.NOW))
    page = shown(told)
    assert not page.tags.keys() & {"script", "img", "link", "iframe", "object", "base", "form"}
    names = {name for name, _value in page.attributes}
    assert not [name for name in names if name.startswith("on")] and "src" not in names
    assert [value for name, value in page.attributes if name == "href" and not value.startswith("#")] == []
    if text == NASTY:
        assert "{{ 7 * 7 }}" in page.text and "<script>alert(1)</script>" in page.text


def test_a_page_loads_nothing() -> None:
    text = _report_page.page(made())
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\';' in text
    assert "url(" not in text and "@import" not in text


def test_many_hosts_share_one_row_of_the_time_line() -> None:
    few = _report_page.time_lines(made()["rollouts"], fakes.NOW)
    assert str(few["wide"]).count('text-anchor="end">gpu-0') == 4
    many = {f"gpu-{number:03}": fakes.host(fakes.code()) for number in range(60)}
    told = made(many)
    lines = _report_page.time_lines(told["rollouts"], fakes.NOW)
    assert str(lines["wide"]).count('text-anchor="end">') <= 3 and "all hosts" in lines["wide"]
    assert len(_report_page.page(told)) < 600_000


def test_marks_stand_in_the_order_of_time_and_inside_the_picture() -> None:
    events = [_svg.Event("h", begin, begin + 60, "good", "x") for begin in (0.0, 5000.0, 10000.0)]
    text = str(_svg.time_line(events, ["h"], "t", [], (0.0, 10060.0), 720, 110))
    places = [float(part.split()[0]) for part in text.split("translate(")[1:]]
    assert places == sorted(places) and places[0] > 110 and places[-1] <= 720


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (0.0123, "0.0123"), (1.234, "1.23"), (12.0, "12"), (999.6, "1,000"), (18211, "18,211")],
)
def test_numbers_have_three_digits_that_count(value: float, words: str) -> None:
    assert _svg.number(value) == words


@pytest.mark.parametrize(
    ("lowest", "highest", "expected"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (0, 0.37, [0, 0.1, 0.2, 0.3]), (3, 9, [4, 6, 8])],
)  # fmt: skip
def test_ticks_are_round(lowest: float, highest: float, expected: list[float]) -> None:
    assert _svg.ticks(lowest, highest or 1.0) == pytest.approx(expected)


def test_points_of_a_plot_are_where_their_values_are() -> None:
    text = str(_svg.plot([_svg.Series("a", [(0, 0, "low"), (10, 5, "high")])], "t", "x", "y", 500, 300))
    low, high = (part.split('"') for part in text.split('<circle cx="')[1:])
    assert float(low[0]) == 52 and float(low[2]) == 260
    assert float(high[0]) > 400 and 26 <= float(high[2]) < 60


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (4.25, "4.2 s"), (59, "59 s"), (60, "1 min"), (3725, "1 h 2 min"), (90000, "1 d 1 h"), (None, "")],
)  # fmt: skip
def test_spans(seconds: float | None, words: str) -> None:
    assert _report_page.span(seconds) == words


def test_a_figure_that_a_run_has_not_is_left_out_of_its_plots() -> None:
    run = fakes.run("2026-11-01T00:00:00Z")
    for point in run["points"]:
        point["time_to_first_token_ms"] = dict.fromkeys(point["time_to_first_token_ms"])
        point["output_tokens_per_second"] = {"mean": None, "runs": [None]}
    assert shown(made({"gpu-01": fakes.host(fakes.code())}, benchmarks=[run])).text


def test_benchmarks_are_those_of_the_fleet_oldest_first() -> None:
    other = fakes.run("2026-11-01T00:00:00Z", target={"host": "else", "url": "http://192.0.2.1:3000", "model": "m"})
    by_address = fakes.run("2026-11-02T00:00:00Z", target={"host": "", "url": "http://10.0.0.11:3000", "model": "m"})
    runs = of_fleet([fakes.BENCHMARKS[1], other, by_address, fakes.BENCHMARKS[0]], ["gpu-01", "10.0.0.11"])
    assert [run["time"][:10] for run in runs] == ["2026-11-02", "2026-11-12", "2026-11-24"]
    page = shown(made({"gpu-01": fakes.host(fakes.code())}, benchmarks=runs))
    assert "better: tokens a second 11 % more" in page.text and "max_batch_size 32" in page.text
