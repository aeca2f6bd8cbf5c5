# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Grafana's dashboards as a table: what each panel is called, asks and shows.

The JSON is Grafana's dashboard model, version 39 (Grafana 10 and 11). ``$model`` and ``$host`` are variables that the
reader chooses, all by default.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ansible_collections.trtllm.fleet.plugins.plugin_utils._alerts import REPLICA_UP

SCHEMA = 39
SOURCE = {"type": "prometheus", "uid": "trtllm"}
COLUMNS, HEIGHT = 24, 8
STAT, SERIES = "stat", "timeseries"
STAT_HEIGHT = 4


@dataclass(frozen=True)
class Panel:
    """One picture. *queries*: expression and legend of each line; *unit*: as Grafana names it; *width*: of 24."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = SERIES
    width: int = 8
    needs: str = ""  # what has to be there for data to come: "" (replicas and a gateway), "exporters" or "serve"

    @property
    def height(self) -> int:
        return STAT_HEIGHT if self.kind == STAT else HEIGHT


@dataclass(frozen=True)
class Dashboard:
    """A page of panels, in their order; *variables*: label -> the series whose values can be chosen."""

    title: str
    panels: tuple[Panel, ...]
    variables: tuple[tuple[str, str], ...] = ()


GATEWAY = 'model=~"$model"'
REPLICA = 'model=~"$model", host=~"$host"'
BY_MODEL = (("model", "model:trtllm_replicas_up:sum"),)
BY_REPLICA = (*BY_MODEL, ("host", REPLICA_UP))


def quantile(share: float, metric: str) -> str:
    """A percentile of one of the gateway's histograms, by model."""
    return f"histogram_quantile({share:g}, sum by (model, le) (rate({metric}_bucket{{{GATEWAY}}}[$__rate_interval])))"


def percentiles(metric: str) -> tuple[tuple[str, str], ...]:
    return tuple((quantile(share, metric), f"{{{{model}}}} p{share * 100:g}") for share in (0.5, 0.95, 0.99))


def serve_quantile(share: float, metric: str) -> str:
    """A percentile of one of trtllm-serve's histograms, by replica."""
    rate = f"rate({metric}_bucket{{{REPLICA}}}[$__rate_interval])"
    return f"histogram_quantile({share:g}, sum by (replica, host, le) ({rate}))"


def serve_percentiles(metric: str) -> tuple[tuple[str, str], ...]:
    who = "{{replica}} {{host}}"
    return tuple((serve_quantile(share, metric), f"{who} p{share * 100:g}") for share in (0.5, 0.95))


def trt_llm(kind: str, which: str, scale: str = "") -> str:
    """A metric of TensorRT-LLM's backend, of the chosen replicas."""
    label = {"request": "request_type", "kv_cache_block": "kv_cache_block_type", "runtime_memory": "memory_type"}[kind]
    return f'nv_trt_llm_{kind}_metrics{{{label}="{which}", {REPLICA}}}{scale}'


FLEET = Dashboard(
    "trtllm fleet",
    (
        Panel("Replicas that answer", ((f"sum({REPLICA_UP})", ""),), kind=STAT, width=4),
        Panel("Replicas that do not", ((f"sum({REPLICA_UP} == bool 0)", ""),), kind=STAT, width=4),
        Panel("Gateways that answer", (('sum(up{job="openai_gateway"})', ""),), kind=STAT, width=4),
        Panel("Alerts", (('count(ALERTS{alertstate="firing"}) or vector(0)', ""),), kind=STAT, width=4),
        Panel("Requests a second", (("sum(model:openai_gateway_requests:rate5m)", ""),), "reqps", STAT, 4),
        Panel("Tokens a second", (("sum(model:openai_gateway_completion_tokens:rate5m)", ""),), kind=STAT, width=4),
        Panel("Requests by model", (("model:openai_gateway_requests:rate5m", "{{model}}"),), "reqps"),
        Panel("Tokens written by model", (("model:openai_gateway_completion_tokens:rate5m", "{{model}}"),)),
        Panel(
            "Time to the first token, p95", (("model:openai_gateway_first_token_seconds:p95_5m", "{{model}}"),), "s"
        ),
        Panel("Replicas by model", (("model:trtllm_replicas_up:sum", "{{model}}"),)),
        Panel(
            "Requests that failed",
            (("model:openai_gateway_failed_requests:rate5m", "{{model}}"),),
            "reqps",
        ),
        Panel("KV cache in use", (
            ('nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used"} / ignoring (kv_cache_block_type) '
             'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"}',
             "{{host}} {{replica}}"),
        ), "percentunit"),
        Panel("Free memory of hosts", (("node_memory_MemAvailable_bytes", "{{host}}"),), "bytes", needs="exporters"),
        Panel("GPUs at work", (("avg by (host) (DCGM_FI_DEV_GPU_UTIL)", "{{host}}"),), "percent", needs="exporters"),
        Panel("GPU memory", (("sum by (host) (DCGM_FI_DEV_FB_USED)", "{{host}}"),), "decmbytes", needs="exporters"),
    ),
)  # fmt: skip
MODEL = Dashboard(
    "trtllm model",
    (
        Panel("Requests by outcome", (
            (f"sum by (model, code) (rate(openai_gateway_requests_total{{{GATEWAY}}}[$__rate_interval]))",
             "{{model}} {{code}}"),
        ), "reqps"),
        Panel("Requests at work", ((f"sum by (model) (openai_gateway_replica_requests{{{GATEWAY}}})", "{{model}}"),)),
        Panel("Requests that wait before a gateway", (("openai_gateway_requests_queued", "{{host}}"),)),
        Panel("Time to the first token", percentiles("openai_gateway_first_token_seconds"), "s"),
        Panel("Time from token to token", percentiles("openai_gateway_token_seconds"), "s"),
        Panel("Time of a whole answer", percentiles("openai_gateway_request_seconds"), "s"),
        Panel("Tokens read", (
            (f"sum by (model) (rate(openai_gateway_prompt_tokens_total{{{GATEWAY}}}[$__rate_interval]))", "{{model}}"),
        ), width=12),
        Panel("Tokens written", (
            (f"sum by (model) (rate(openai_gateway_completion_tokens_total{{{GATEWAY}}}[$__rate_interval]))",
             "{{model}}"),
        ), width=12),
    ),
    BY_MODEL,
)  # fmt: skip
REPLICAS = Dashboard(
    "trtllm replica",
    (
        Panel("Requests", (
            (trt_llm("request", "active"), "{{replica}} {{host}} active"),
            (trt_llm("request", "scheduled"), "{{replica}} {{host}} scheduled"),
            (trt_llm("request", "max"), "{{replica}} {{host}} at most"),
        )),
        Panel("Requests that wait", ((trt_llm("request", "waiting"), "{{replica}} {{host}}"),)),
        Panel("Requests that were paused", (
            ('nv_trt_llm_inflight_batcher_metrics{inflight_batcher_specific_metric="paused_requests", '
             f"{REPLICA}}}", "{{replica}} {{host}}"),
        )),
        Panel("Blocks of the KV cache", (
            (trt_llm("kv_cache_block", "used"), "{{replica}} {{host}} used"),
            (trt_llm("kv_cache_block", "max"), "{{replica}} {{host}} at most"),
        )),
        Panel("Memory of the backend", (
            (trt_llm("runtime_memory", "gpu"), "{{replica}} {{host}} GPU"),
            (trt_llm("runtime_memory", "cpu"), "{{replica}} {{host}} host"),
        ), "bytes"),
        Panel("Triton's requests", (
            ("sum by (replica, host, exported_model) "
             f"(rate(nv_inference_request_success{{{REPLICA}}}[$__rate_interval]))",
             "{{replica}} {{host}} {{exported_model}}"),
        ), "reqps"),
        Panel("Time in Triton's queues", (
            (f"sum by (replica, host) (rate(nv_inference_queue_duration_us{{{REPLICA}}}[$__rate_interval])) / 1e6",
             "{{replica}} {{host}}"),
        ), "percentunit", width=12),
        Panel("Triton's failed requests", (
            (f"sum by (replica, host) (rate(nv_inference_request_failure{{{REPLICA}}}[$__rate_interval]))",
             "{{replica}} {{host}}"),
        ), "reqps", width=12),
        Panel("trtllm-serve: answers", (
            (f"sum by (replica, host) (rate(trtllm_request_success_total{{{REPLICA}}}[$__rate_interval]))",
             "{{replica}} {{host}}"),
        ), "reqps", needs="serve"),
        Panel("trtllm-serve: time to the first token",
              serve_percentiles("trtllm_time_to_first_token_seconds"), "s", needs="serve"),
        Panel("trtllm-serve: time before a request is at work",
              serve_percentiles("trtllm_request_queue_time_seconds"), "s", needs="serve"),
    ),
    BY_REPLICA,
)  # fmt: skip
ROLLOUT = Dashboard(
    "trtllm rollout",
    (
        Panel("Replicas without new requests", (
            (f"max by (model, replica) (openai_gateway_replica_draining{{{GATEWAY}}})", "{{model}} {{replica}}"),
        ), width=12),
        Panel("Requests still at work there", (
            (f"sum by (model, replica) (openai_gateway_replica_requests{{{GATEWAY}}})", "{{model}} {{replica}}"),
        ), width=12),
        Panel("Requests that failed meanwhile", (
            (f'sum by (model) (rate(openai_gateway_requests_total{{code=~"5..", {GATEWAY}}}[$__rate_interval])) or '
             f"sum by (model) (rate(openai_gateway_requests_total{{{GATEWAY}}}[$__rate_interval])) * 0", "{{model}}"),
        ), "reqps"),
        Panel("Failures in a row by replica", (
            (f"max by (model, replica) (openai_gateway_replica_failures{{{GATEWAY}}})", "{{model}} {{replica}}"),
        )),
        Panel("Replicas that answer", ((f"{REPLICA_UP}{{{GATEWAY}}}", "{{replica}} {{host}}"),)),
    ),
    BY_MODEL,
)  # fmt: skip
ALL: dict[str, Dashboard] = {"fleet": FLEET, "model": MODEL, "replica": REPLICAS, "rollout": ROLLOUT}


def dashboards() -> dict[str, dict[str, Any]]:
    """Name of the file -> Grafana's JSON."""
    return {name: _dashboard(f"trtllm-{name}", board) for name, board in ALL.items()}


def _dashboard(uid: str, board: Dashboard) -> dict[str, Any]:
    return {
        "uid": uid,
        "title": board.title,
        "tags": ["trtllm"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": False,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "annotations": {"list": []},
        "links": [
            {"type": "dashboards", "tags": ["trtllm"], "asDropdown": False, "includeVars": True, "keepTime": True,
             "title": "trtllm", "icon": "dashboard", "tooltip": "", "targetBlank": False}
        ],
        "templating": {"list": [_variable(label, series) for label, series in board.variables]},
        "panels": list(_panels(board)),
    }  # fmt: skip


def _variable(label: str, series: str) -> dict[str, Any]:
    query = f"label_values({series}, {label})"
    return {
        "name": label, "label": label, "type": "query", "datasource": SOURCE, "definition": query,
        "query": {"query": query, "refId": label}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True,
        "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}, "options": [], "hide": 0,
    }  # fmt: skip


def _panels(board: Dashboard) -> Iterator[dict[str, Any]]:
    """From left to right, in rows that are as high as their highest panel."""
    x = y = highest = 0
    for number, panel in enumerate(board.panels, 1):
        if x + panel.width > COLUMNS:
            x, y, highest = 0, y + highest, 0
        yield _panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": panel.height})
        x, highest = x + panel.width, max(highest, panel.height)


def _panel(number: int, panel: Panel, where: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "expr": expr, "legendFormat": legend, "datasource": SOURCE,
         "editorMode": "code", "range": panel.kind != STAT, "instant": panel.kind == STAT}
        for index, (expr, legend) in enumerate(panel.queries)
    ]  # fmt: skip
    options: dict[str, Any] = (
        {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "graphMode": "none",
         "colorMode": "value", "textMode": "auto", "orientation": "auto", "justifyMode": "auto", "wideLayout": True,
         "showPercentChange": False, "percentChangeColorMode": "standard"}
        if panel.kind == STAT
        else {"legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
              "tooltip": {"mode": "multi", "sort": "desc"}}
    )  # fmt: skip
    return {
        "id": number, "title": panel.title, "type": panel.kind, "datasource": SOURCE, "gridPos": where,
        "targets": targets, "options": options,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": {}}, "overrides": []},
    }  # fmt: skip
