# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is recorded and what is alerted on: one table, of which Prometheus gets rules and docs/monitoring.md its list.

Names of metrics are those that Triton (``nv_*``), trtllm-serve (``trtllm_*``), the gateway (``openai_gateway_*``),
Prometheus (``up``) and the exporters write, as documented there. ``model`` is the fleet's name of a model: of Triton's
own label of that name Prometheus makes ``exported_model``, as it does with every label that a target was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError

CRITICAL, WARNING = "critical", "warning"


@dataclass(frozen=True)
class Limit:
    """A number that an operator may set: what it is by default, and what it means."""

    default: float
    means: str


@dataclass(frozen=True)
class Alert:
    """*expr* holds for *wait* (as Prometheus writes a duration); ``%(limit)s`` in it is a number of `LIMITS`."""

    name: str
    severity: str
    expr: str
    wait: str
    summary: str
    do: str


LIMITS: dict[str, Limit] = {
    "waiting_requests": Limit(16, "requests that wait before a replica, or before a gateway"),
    "first_token_seconds": Limit(5, "the 95th percentile of the time to the first token"),
    "kv_cache_used": Limit(0.95, "the share of the KV cache that is in use"),
    "failed_share": Limit(0.05, "the share of requests that end with a server's error"),
    "drained_minutes": Limit(30, "how long a replica may be without requests because something took it out of service"),
    "disk_free": Limit(0.1, "the share of a host's disk that is free"),
    "gpu_celsius": Limit(90, "the temperature of a GPU"),
    "certificate_days": Limit(14, "how long the gateway's certificate is still good"),
    "key_days": Limit(365, "the age of the gateway's clients and keys"),
    "report_hours": Limit(48, "the age of what report.yml found"),
}

# Whether each replica answers: Triton by its metrics, trtllm-serve by its health.
REPLICA_UP = "replica:trtllm_replica_up:last"
# What several alerts, and the dashboards, ask for. Name -> expression.
RECORDED: dict[str, str] = {
    # One that nothing can look at counts as one that does not answer.
    REPLICA_UP: 'up{job="triton"} or probe_success{job="trtllm_serve_health"} or up{job="trtllm_serve_health"}',
    "model:trtllm_replicas_up:sum": f"sum by (model) ({REPLICA_UP})",
    "model:openai_gateway_requests:rate5m": ("sum by (model) (rate(openai_gateway_requests_total[5m]))"),
    "model:openai_gateway_failed_requests:rate5m": (
        'sum by (model) (rate(openai_gateway_requests_total{code=~"5.."}[5m])) '
        "or 0 * sum by (model) (rate(openai_gateway_requests_total[5m]))"
    ),
    "model:openai_gateway_completion_tokens:rate5m": (
        "sum by (model) (rate(openai_gateway_completion_tokens_total[5m]))"
    ),
    "model:openai_gateway_first_token_seconds:p95_5m": (
        "histogram_quantile(0.95, sum by (model, le) (rate(openai_gateway_first_token_seconds_bucket[5m])))"
    ),
}

ALERTS: tuple[Alert, ...] = (
    Alert(
        "ModelDown", CRITICAL, "model:trtllm_replicas_up:sum == 0", "1m",
        "No replica of {{ $labels.model }} answers.",
        "Run status.yml, which says in which state each unit is; then look at journalctl --unit triton-REPLICA on its "
        "host, and run site.yml, which starts what is described.",
    ),
    Alert(
        "ReplicaDown", CRITICAL, f'{REPLICA_UP}{{nodes="1"}} == 0', "2m",
        "{{ $labels.replica }} on {{ $labels.host }} does not answer.",
        "Look at journalctl --unit triton-{{ $labels.replica }} on the host. Its unit restarts it by itself; what it "
        "says last is why it does not come up.",
    ),
    Alert(
        "GangBroken", CRITICAL, f'{REPLICA_UP}{{nodes!="1"}} == 0', "2m",
        "{{ $labels.replica }}, whose ranks are on {{ $labels.nodes }} hosts, does not answer.",
        "The journal of its leader {{ $labels.host }} says which node is missing, or differs, and in what.",
    ),
    Alert(
        "GatewayDown", CRITICAL, 'up{job="openai_gateway"} == 0', "1m",
        "The gateway on {{ $labels.host }} does not answer.",
        "Look at systemctl status openai-gateway.socket openai-gateway.service and its journal on the host.",
    ),
    Alert(
        "ReplicaFailing", WARNING, "min by (model, replica) (openai_gateway_replica_failures) > 0", "2m",
        "Every gateway's last requests to {{ $labels.replica }} for {{ $labels.model }} failed.",
        "Run verify.yml, which asks the replica itself and through every gateway, and shows both answers.",
    ),
    Alert(
        "RequestsFail", CRITICAL,
        "model:openai_gateway_failed_requests:rate5m > %(failed_share)s * model:openai_gateway_requests:rate5m", "5m",
        "{{ $value | humanize }} requests a second for {{ $labels.model }} end with a server's error.",
        "The gateway's log has a line for each request, with the replica and what it answered.",
    ),
    Alert(
        "RequestsWait", WARNING,
        'nv_trt_llm_request_metrics{request_type="waiting"} > %(waiting_requests)s '
        "or trtllm_num_requests_waiting > %(waiting_requests)s", "5m",
        "{{ $value }} requests wait before {{ $labels.replica }} on {{ $labels.host }}.",
        "Add replicas of {{ $labels.model }}, or raise max_batch_size where the KV cache has room.",
    ),
    Alert(
        "GatewayQueueGrows", WARNING, "openai_gateway_requests_queued > %(waiting_requests)s", "5m",
        "{{ $value }} requests wait for a place in the gateway on {{ $labels.host }}.",
        "openai_gateway_max_requests is what it lets through at once; with replicas that keep up, raise it.",
    ),
    Alert(
        "FirstTokenSlow", WARNING, "model:openai_gateway_first_token_seconds:p95_5m > %(first_token_seconds)s", "10m",
        "The 95th percentile of the time to the first token of {{ $labels.model }} is {{ $value | humanizeDuration }}.",
        "Long prompts hold up others where chunked context is off; else there are too few replicas: see RequestsWait.",
    ),
    Alert(
        "KVCacheFull", WARNING,
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used"} > ignoring (kv_cache_block_type) '
        '%(kv_cache_used)s * nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"} '
        "or trtllm_kv_cache_utilization > %(kv_cache_used)s", "10m",
        "The KV cache of {{ $labels.replica }} on {{ $labels.host }} is all but full: requests are paused or wait.",
        "Give it more memory (kv_cache_free_gpu_mem_fraction), shorter sequences, or more replicas.",
    ),
    Alert(
        "ReplicaDrainedLong", WARNING, "max by (model, replica) (openai_gateway_replica_draining) == 1",
        "%(drained_minutes)sm",
        "{{ $labels.replica }} has long had no requests for {{ $labels.model }}: something took it out of service.",
        "A rollout was left half-way, or somebody forgot: history.yml shows who, rollout.yml goes on from there.",
    ),
    Alert(
        "CertificateEnds", WARNING,
        'min by (host) (probe_ssl_earliest_cert_expiry{job="gateway_tls"}) - time() < %(certificate_days)s * 86400',
        "10m",
        "The certificate of the gateway on {{ $labels.host }} ends in {{ $value | humanizeDuration }}.",
        "Put the new one where openai_gateway_tls_certificate points to, and run serve.yml; it takes no restart.",
    ),
    Alert(
        "KeysOld", WARNING,
        "time() - min by (host) (openai_gateway_clients_changed_timestamp_seconds != 0) > %(key_days)s * 86400", "1h",
        "The clients and keys of the gateway on {{ $labels.host }} are {{ $value | humanizeDuration }} old.",
        "Give clients new keys in openai_gateway_clients and run serve.yml; two keys may be good side by side.",
    ),
    Alert(
        "HostDown", CRITICAL, 'up{job="node"} == 0', "3m",
        "{{ $labels.host }} does not answer, or its node exporter does not run.",
        "When it is back, site.yml brings it up to date.",
    ),
    Alert(
        "DiskFull", WARNING,
        'min by (host, mountpoint) (node_filesystem_avail_bytes{fstype!~"tmpfs|overlay|squashfs|ramfs"} '
        "/ node_filesystem_size_bytes) < %(disk_free)s", "15m",
        "{{ $labels.mountpoint }} of {{ $labels.host }} has {{ $value | humanizePercentage }} free.",
        "prune.yml removes what nothing names any more; with --check it says what would go.",
    ),
    Alert(
        "GpuFault", CRITICAL, "DCGM_FI_DEV_XID_ERRORS > 0", "1m",
        "GPU {{ $labels.gpu }} of {{ $labels.host }} reports XID {{ $value }}.",
        "NVIDIA's list of XID errors says whether the host must be reset or the GPU replaced.",
    ),
    Alert(
        "GpuHot", WARNING, "DCGM_FI_DEV_GPU_TEMP > %(gpu_celsius)s", "10m",
        "GPU {{ $labels.gpu }} of {{ $labels.host }} is at {{ $value }} degrees Celsius.",
        "It runs slower to protect itself; look at the air that it gets.",
    ),
    Alert(
        "FleetHostLost", WARNING, 'trtllm_fleet_host{state="lost"} == 1', "0m",
        "The last report lost {{ $labels.host }}.",
        "report.yml says why; when it is back, site.yml brings it up to date.",
    ),
    Alert(
        "FleetFault", CRITICAL, 'trtllm_fleet_findings{severity="bad"} > 0', "0m",
        "{{ $labels.about }} on {{ $labels.host }} is not as it should be: {{ $value }} findings.",
        "The page that report.yml writes says what; a rollout that was left half-way goes on with rollout.yml.",
    ),
    Alert(
        "FleetDrift", WARNING, 'trtllm_fleet_findings{severity="warn"} > 0', "0m",
        "{{ $labels.about }} on {{ $labels.host }} differs from what is described: {{ $value }} findings.",
        "The page that report.yml writes says in what, such as an engine that is stale; site.yml --check says what it "
        "would change, and site.yml changes it.",
    ),
    Alert(
        "FleetReportOld", WARNING, "time() - trtllm_fleet_report_timestamp_seconds > %(report_hours)s * 3600", "0m",
        "The last report on the fleet is {{ $value | humanizeDuration }} old, and with it what is known of drift.",
        "Run report.yml from where it is run by the clock, and look why it was not.",
    ),
)  # fmt: skip


def limits(given: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of the alerts, those of the operator first. Raises `FleetError` for one that is none, or unknown."""
    unknown = sorted(set(given) - set(LIMITS))
    if unknown:
        raise FleetError(
            f"monitoring_limits has {unknown[0]!r}, which no alert asks for; it takes {', '.join(LIMITS)}."
        )
    found: dict[str, float] = {}
    for name, limit in LIMITS.items():
        value = given.get(name, limit.default)
        try:
            found[name] = float(value)
        except (TypeError, ValueError):
            found[name] = -1.0
        if isinstance(value, bool) or not 0 <= found[name] < 1e9:
            raise FleetError(f"monitoring_limits has {name} {value!r}; it takes a number from 0 on: {limit.means}.")
    return found


def rules(numbers: Mapping[str, float], wait: str | None = None) -> dict[str, Any]:
    """A rule file of Prometheus. *wait*: how long each expression has to hold, instead of what the table says."""
    shown = {name: f"{number:g}" for name, number in numbers.items()}
    alerts = [
        {
            "alert": alert.name,
            "expr": alert.expr % shown,
            "for": wait if wait is not None else alert.wait % shown,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "description": alert.do},
        }
        for alert in ALERTS
    ]
    recorded = [{"record": name, "expr": expr} for name, expr in RECORDED.items()]
    return {"groups": [{"name": "trtllm_records", "rules": recorded}, {"name": "trtllm_alerts", "rules": alerts}]}
