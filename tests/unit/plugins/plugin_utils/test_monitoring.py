# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus, Alertmanager and Grafana read: from the map of a fleet, the same for the same fleet."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _monitoring
from ansible_collections.trtllm.fleet.plugins.plugin_utils._alerts import ALERTS, LIMITS, RECORDED, limits, rules
from ansible_collections.trtllm.fleet.plugins.plugin_utils._dashboards import ALL, COLUMNS, dashboards
from ansible_collections.trtllm.fleet.plugins.plugin_utils._exporters import SERVICES, exporter_services
from ansible_collections.trtllm.fleet.plugins.plugin_utils._report_metrics import metrics

REPO = Path(__file__).resolve().parents[4]
sys.path[:0] = [str(REPO / "molecule" / "shared")]

import alert_tests

FLEET: dict[str, Any] = {
    "hosts": {
        "gpu-01": {
            "release": LAST,
            "replicas": [
                {"name": "llama-0", "model": "llama", "url": "http://10.0.0.11:8000", "gpus": [0],
                 "metrics_url": "http://10.0.0.11:8002"},
                {"name": "big-0", "model": "big", "url": "http://10.0.0.11:8003", "gpus": [1],
                 "metrics_url": "http://10.0.0.11:8005", "nodes": ["gpu-01", "gpu-02"]},
                {"name": "new-0", "model": "new", "url": "http://10.0.0.11:8006", "gpus": [2], "metrics_url": "",
                 "release": "1.3.0"},
                {"name": "older-0", "model": "new", "url": "http://10.0.0.11:8016", "gpus": [3], "metrics_url": ""},
                # what a gateway has of a host that nobody asks
                {"name": "", "model": "gone", "url": "http://10.0.0.11:8009", "gpus": [], "metrics_url": ""},
            ],
        },
        "gpu-02": {"release": LAST, "replicas": []},
    },
    "gateways": {"gw-01": {"models": []}},
}  # fmt: skip
GATEWAYS = {"gw-01": {"address": "10.0.0.5", "port": 3000, "tls": True}}
SETTINGS: dict[str, Any] = {
    "dir": "/etc/prometheus/trtllm", "listen": "127.0.0.1:9090", "blackbox_address": "127.0.0.1:9115",
    "alertmanager_address": "127.0.0.1:9093", "node_exporter_address": "127.0.0.1:9100",
    "hosts": {"gpu-01": "10.0.0.11", "gpu-02": "10.0.0.12", "gw-01": "10.0.0.5"},
}  # fmt: skip


def written(**more: Any) -> dict[str, Any]:
    """The files, read again."""
    found = _monitoring.files(FLEET, GATEWAYS, {**SETTINGS, **more})
    return {one["path"]: yaml.safe_load(one["content"]) for one in found}


def targets(files: dict[str, Any], job: str) -> dict[str, dict[str, str]]:
    return {target: one["labels"] for one in files[f"targets/{job}.json"] for target in one["targets"]}


def test_each_replica_is_asked_where_its_metrics_are() -> None:
    files = written()
    assert targets(files, "triton") == {
        "10.0.0.11:8002": {
            "host": "gpu-01", "replica": "llama-0", "model": "llama", "release": LAST, "nodes": "1"
        },
        "10.0.0.11:8005": {"host": "gpu-01", "replica": "big-0", "model": "big", "release": LAST, "nodes": "2"},
    }  # fmt: skip
    served = {"host": "gpu-01", "replica": "new-0", "model": "new", "release": "1.3.0", "nodes": "1"}
    assert targets(files, "trtllm_serve") == {"10.0.0.11:8006": served}
    health = "http://10.0.0.11:{}/health"
    assert targets(files, "trtllm_serve_health") == {
        health.format(8006): served, health.format(8016): {**served, "replica": "older-0", "release": LAST},
    }  # fmt: skip
    assert targets(files, "openai_gateway") == {"10.0.0.5:3000": {"host": "gw-01", "__scheme__": "https"}}
    assert list(targets(files, "gateway_tls")) == ["https://10.0.0.5:3000/health"]


def test_trtllm_serve_is_asked_where_it_has_metrics_and_whether_it_is_well() -> None:
    jobs = {job["job_name"]: job for job in written()["scrape.yml"]["scrape_configs"]}
    assert jobs["trtllm_serve"]["metrics_path"] == "/prometheus/metrics"
    health = jobs["trtllm_serve_health"]
    assert (health["metrics_path"], health["params"]) == ("/probe", {"module": ["gateway"]})
    assert health["relabel_configs"] == jobs["gateway_tls"]["relabel_configs"]
    assert health["relabel_configs"][-1] == {"target_label": "__address__", "replacement": "127.0.0.1:9115"}
    assert "relabel_configs" not in jobs["trtllm_serve"]


def test_names_of_metrics_are_those_that_trtllm_serve_is_recorded_to_have() -> None:
    recorded = json.loads((REPO / "tests/contract/data/serve_metrics.json").read_text(encoding="utf-8"))
    names = {*recorded["1.3.0rc3"], *recorded["announced for 1.3.0"]}
    asked = " ".join(alert.expr for alert in ALERTS) + json.dumps(dashboards())
    # Those of histograms with what Prometheus adds to their names; the fleet's own begin likewise.
    found = {name.removesuffix("_bucket") for name in re.findall(r"(?<![:\w])trtllm_\w+", asked)}
    assert {name for name in found if not name.startswith("trtllm_fleet_")} <= names
    assert {"trtllm_num_requests_waiting", "trtllm_request_success_total"} <= found


def test_exporters_are_asked_where_there_are_some() -> None:
    assert targets(written(), "node") == targets(written(), "dcgm") == {}
    files = written(node_exporter_port=9100, dcgm_exporter_port=9400)
    assert list(targets(files, "node")) == ["10.0.0.11:9100", "10.0.0.12:9100", "10.0.0.5:9100"]
    assert list(targets(files, "dcgm")) == ["10.0.0.11:9400", "10.0.0.12:9400"]


def test_the_same_fleet_gives_the_same_files() -> None:
    turned = {**FLEET, "hosts": dict(reversed(FLEET["hosts"].items()))}
    assert _monitoring.files(FLEET, GATEWAYS, SETTINGS) == _monitoring.files(turned, GATEWAYS, SETTINGS)


def test_a_certificate_is_verified_where_its_authority_is_named() -> None:
    def gateways(**more: Any) -> dict[str, Any]:
        return next(
            one for one in written(**more)["scrape.yml"]["scrape_configs"] if one["job_name"] == "openai_gateway"
        )

    assert gateways()["tls_config"] == {"insecure_skip_verify": True}
    assert gateways(gateway_ca_file="/etc/ca.pem")["tls_config"] == {"ca_file": "/etc/ca.pem"}


def test_prometheus_run_by_the_role_asks_the_same_jobs() -> None:
    files = written()
    own = [job["job_name"] for job in files["prometheus.yml"]["scrape_configs"]]
    assert own == ["prometheus", "trtllm_fleet", *(job["job_name"] for job in files["scrape.yml"]["scrape_configs"])]


def test_alerts_go_where_the_operator_says_and_else_nowhere() -> None:
    assert written()["alertmanager.yml"]["route"] == {"receiver": "nobody"}
    given = {"route": {"receiver": "pager"}, "receivers": [{"name": "pager"}]}
    assert written(alertmanager_config=given)["alertmanager.yml"] == given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"first_tokn_seconds": 1}, "no alert asks for; it takes waiting_requests"),
        ({"disk_free": "much"}, "disk_free 'much'; it takes a number from 0 on"),
        ({"disk_free": -1}, "it takes a number"),
        ({"disk_free": True}, "it takes a number"),
        ({"disk_free": float("nan")}, "it takes a number"),
    ],
)
def test_a_limit_that_is_none_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(FleetError, match=re.escape(said)):
        limits(given)


@pytest.mark.parametrize("wait", ["soon", "5", "-1s", "1.5m", "m"])
def test_a_wait_that_is_none_is_refused(wait: str) -> None:
    with pytest.raises(FleetError, match="give it as Prometheus does, such as 0s or 5m"):
        written(alert_wait=wait)


def test_each_number_of_an_alert_can_be_set_and_each_is_asked_for() -> None:
    before, numbers = json.dumps(rules(limits({}))), limits({})
    for name in LIMITS:
        assert json.dumps(rules({**numbers, name: 12345})) != before, name


def test_each_alert_has_a_fleet_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert set(alert_tests.CASES) == {alert.name for alert in ALERTS}
    assert all(first and second and first != second for first, second in alert_tests.CASES.values())


def test_the_page_tells_each_alert_number_and_dashboard() -> None:
    page = (REPO / "docs" / "monitoring.md").read_text(encoding="utf-8")
    for word in (*(alert.name for alert in ALERTS), *LIMITS, *(board.title for board in ALL.values())):
        assert f"`{word}`" in page, word
    told = set(re.findall(r"^\| `([A-Z]\w+)` \|", page, re.M))
    assert told == {alert.name for alert in ALERTS}


def test_what_is_recorded_is_asked_for() -> None:
    """By an alert or a panel: what nobody asks for costs Prometheus for nothing."""
    asked = " ".join(alert.expr for alert in ALERTS) + json.dumps(dashboards())
    assert [name for name in RECORDED if name not in asked] == []


@pytest.mark.parametrize("name", list(ALL))
def test_panels_stand_beside_each_other_and_not_on_top(name: str) -> None:
    board = dashboards()[name]
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        where = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(where["x"], where["x"] + where["w"])
            for y in range(where["y"], where["y"] + where["h"])
        }
        assert where["x"] + where["w"] <= COLUMNS and not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    variables = {variable["name"] for variable in board["templating"]["list"]}
    for panel in board["panels"]:
        assert panel["targets"] and all(target["datasource"]["uid"] == "trtllm" for target in panel["targets"])
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= {*variables, "__rate_interval"}, panel["title"]


def test_a_report_is_told_in_numbers() -> None:
    report = {
        "hosts": [{"name": "gpu-01", "state": "ok"}, {"name": 'gpu"02\n', "state": "lost"}],
        "attention": [
            {"host": "gpu-01", "about": "llama-0", "severity": "warn", "what": "a"},
            {"host": "gpu-01", "about": "llama-0", "severity": "warn", "what": "b"},
            {"host": "", "about": "", "severity": "bad", "what": "c"},
        ],
    }
    text = metrics(report, 1700000000.0)
    assert "trtllm_fleet_report_timestamp_seconds 1700000000.000\n" in text
    assert 'trtllm_fleet_host{host="gpu\\"02\\n",state="lost"} 1.000\n' in text
    assert 'trtllm_fleet_findings{host="gpu-01",about="llama-0",severity="warn"} 2.000\n' in text
    assert 'trtllm_fleet_findings{host="",about="the fleet",severity="bad"} 1.000\n' in text


def test_exporters_have_what_they_need_of_the_host_and_no_more() -> None:
    images = {"node": "reg.example/node@sha256:1", "dcgm": "reg.example/dcgm@sha256:2"}
    dcgm, node = exporter_services(images, {"node": 9100, "dcgm": 9400}, "fd00::1")
    container = node["unit"]["Container"]
    assert container["Image"] == images["node"] and container["ReadOnly"] and container["DropCapability"] == "all"
    assert container["Volume"] == ["/:/host:ro,rslave"] and "AddDevice" not in container
    assert container["Exec"][-1] == "--web.listen-address=[fd00::1]:9100"
    assert (
        dcgm["unit"]["Container"]["AddDevice"] == ["nvidia.com/gpu=all"] and "Volume" not in dcgm["unit"]["Container"]
    )
    assert [one["listen"][0]["port"] for one in (dcgm, node)] == [9400, 9100]
    assert (
        yaml.safe_load((REPO / "roles/monitoring/vars/main.yml").read_text())["__monitoring_exporter_services"]
        == SERVICES
    )
