#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the rules, and for each alert a fleet in which it fires and one in which it does not: alert_tests.py DIRECTORY

rules.yml and tests.yml are there then, the latter for `promtool test rules`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "collections")]

from ansible_collections.trtllm.fleet.plugins.plugin_utils._alerts import ALERTS, limits, rules

Series = dict[str, str]
MINUTES = 120  # of measurements
LATER = "110m"  # when every alert has waited long enough

TRITON = 'job="triton", host="gpu-01", instance="10.0.0.11:8002", model="llama", release="1.2.1", replica="llama-0"'
ONE, GANG = f'{TRITON}, nodes="1"', f'{TRITON}, nodes="2"'
SERVE = ONE.replace('"triton"', '"trtllm_serve"').replace(":8002", ":8000")
HEALTH = ONE.replace('"triton"', '"trtllm_serve_health"').replace("10.0.0.11:8002", "http://10.0.0.11:8000/health")
GATEWAY = 'job="openai_gateway", host="gw-01", instance="10.0.0.5:3000"'
AT = 'replica="http://10.0.0.11:8000", model="llama"'


def always(value: float) -> str:
    """The same all the time."""
    return f"{value:g}x{MINUTES}"


def grows(each_minute: float) -> str:
    return f"0+{each_minute:g}x{MINUTES}"


def requests(good: float, bad: float) -> Series:
    """So many answers a minute."""
    labels = f'{GATEWAY}, model="llama", endpoint="chat.completions"'
    return {
        f'openai_gateway_requests_total{{{labels}, code="200"}}': grows(good),
        f'openai_gateway_requests_total{{{labels}, code="503"}}': grows(bad),
    }


def first_tokens(fast: float, all_of_them: float) -> Series:
    """So many answers a minute of which so many began within 2.5 s, and all within 10 s."""
    labels = f'{GATEWAY}, model="llama", endpoint="chat.completions"'
    bucket = "openai_gateway_first_token_seconds_bucket"
    return {
        f'{bucket}{{{labels}, le="2.5"}}': grows(fast),
        f'{bucket}{{{labels}, le="10.0"}}': grows(all_of_them),
        f'{bucket}{{{labels}, le="+Inf"}}': grows(all_of_them),
    }


def blocks(used: float) -> Series:
    metric = "nv_trt_llm_kv_cache_block_metrics"
    labels = f'{ONE}, exported_model="tensorrt_llm", version="1"'
    return {
        f'{metric}{{{labels}, kv_cache_block_type="used"}}': always(used),
        f'{metric}{{{labels}, kv_cache_block_type="max"}}': always(128),
    }


def disk(free: float) -> Series:
    labels = 'job="node", host="gpu-01", instance="10.0.0.11:9100", mountpoint="/", fstype="ext4", device="/dev/sda1"'
    return {
        f"node_filesystem_avail_bytes{{{labels}}}": always(free),
        f"node_filesystem_size_bytes{{{labels}}}": always(100),
    }


def one(name: str, labels: str, value: float) -> Series:
    return {f"{name}{{{labels}}}": always(value)}


DAY = 86400.0
WAITING = f'{ONE}, exported_model="tensorrt_llm", request_type="waiting"'
DCGM = 'job="dcgm", host="gpu-01", gpu="0"'
FINDING = 'about="llama-0", host="gpu-01"'
# Alert -> what is measured where it fires, and where it does not. Measurements begin at the epoch.
CASES: dict[str, tuple[Series, Series]] = {
    "ModelDown": (one("up", ONE, 0), {**one("up", ONE, 0), **one("up", ONE.replace("llama-0", "llama-1"), 1)}),
    "ReplicaDown": (one("up", ONE, 0), {**one("up", ONE, 1), **one("up", GANG.replace("llama-0", "big-0"), 0)}),
    "GangBroken": (one("up", GANG, 0), {**one("up", GANG, 1), **one("up", ONE.replace("llama-0", "small-0"), 0)}),
    "GatewayDown": (one("up", GATEWAY, 0), one("up", GATEWAY, 1)),
    "ReplicaFailing": (
        one("openai_gateway_replica_failures", f"{GATEWAY}, {AT}", 3),
        {
            **one("openai_gateway_replica_failures", f"{GATEWAY}, {AT}", 3),
            **one("openai_gateway_replica_failures", f"{GATEWAY.replace('gw-01', 'gw-02')}, {AT}", 0),
        },
    ),
    "RequestsFail": (requests(100, 20), requests(100, 1)),
    "RequestsWait": (one("nv_trt_llm_request_metrics", WAITING, 40), one("nv_trt_llm_request_metrics", WAITING, 3)),
    "GatewayQueueGrows": (
        one("openai_gateway_requests_queued", GATEWAY, 40),
        one("openai_gateway_requests_queued", GATEWAY, 0),
    ),
    "FirstTokenSlow": (first_tokens(50, 100), first_tokens(100, 100)),
    "KVCacheFull": (blocks(127), blocks(64)),
    "ReplicaDrainedLong": (
        one("openai_gateway_replica_draining", f"{GATEWAY}, {AT}", 1),
        {f"openai_gateway_replica_draining{{{GATEWAY}, {AT}}}": f"0x{MINUTES - 30} 1x30"},
    ),
    "CertificateEnds": (
        one("probe_ssl_earliest_cert_expiry", 'job="gateway_tls", host="gw-01"', 5 * DAY),
        one("probe_ssl_earliest_cert_expiry", 'job="gateway_tls", host="gw-01"', 60 * DAY),
    ),
    "KeysOld": (
        one("openai_gateway_clients_changed_timestamp_seconds", GATEWAY, 0.001 - 400 * DAY),
        one("openai_gateway_clients_changed_timestamp_seconds", GATEWAY, 0),
    ),
    "HostDown": (one("up", 'job="node", host="gpu-01"', 0), one("up", 'job="node", host="gpu-01"', 1)),
    "DiskFull": (disk(4), disk(40)),
    "GpuFault": (one("DCGM_FI_DEV_XID_ERRORS", DCGM, 79), one("DCGM_FI_DEV_XID_ERRORS", DCGM, 0)),
    "GpuHot": (one("DCGM_FI_DEV_GPU_TEMP", DCGM, 95), one("DCGM_FI_DEV_GPU_TEMP", DCGM, 60)),
    "FleetHostLost": (
        one("trtllm_fleet_host", 'host="gpu-01", state="lost"', 1),
        one("trtllm_fleet_host", 'host="gpu-01", state="ok"', 1),
    ),
    "FleetFault": (
        one("trtllm_fleet_findings", f'{FINDING}, severity="bad"', 1),
        one("trtllm_fleet_findings", f'{FINDING}, severity="warn"', 1),
    ),
    "FleetDrift": (
        one("trtllm_fleet_findings", f'{FINDING}, severity="warn"', 2),
        one("trtllm_fleet_findings", f'{FINDING}, severity="note"', 2),
    ),
    "FleetReportOld": (
        one("trtllm_fleet_report_timestamp_seconds", 'job="trtllm_fleet"', -3 * DAY),
        one("trtllm_fleet_report_timestamp_seconds", 'job="trtllm_fleet"', -1 * DAY),
    ),
}
# The same of trtllm-serve: alert, what is measured, and whether it fires.
SERVE_CASES: tuple[tuple[str, Series, bool], ...] = (
    # Its metrics may be there while its ranks are dead, and need not be while it answers.
    ("ReplicaDown", {**one("up", SERVE, 1), **one("up", HEALTH, 1), **one("probe_success", HEALTH, 0)}, True),
    ("ReplicaDown", {**one("up", SERVE, 0), **one("up", HEALTH, 1), **one("probe_success", HEALTH, 1)}, False),
    ("ReplicaDown", one("up", HEALTH, 0), True),
    ("ModelDown", {**one("up", HEALTH, 1), **one("probe_success", HEALTH, 0)}, True),
    # One of a model's is Triton still.
    ("ModelDown", {**one("probe_success", HEALTH, 0), **one("up", ONE.replace("llama-0", "llama-1"), 1)}, False),
    ("RequestsWait", one("trtllm_num_requests_waiting", SERVE, 40), True),
    ("RequestsWait", one("trtllm_num_requests_waiting", SERVE, 3), False),
    ("KVCacheFull", one("trtllm_kv_cache_utilization", SERVE, 0.99), True),
    ("KVCacheFull", one("trtllm_kv_cache_utilization", SERVE, 0.5), False),
)


def test(alert: str, series: Series, fires: bool) -> dict[str, Any]:
    """What promtool asks the rules, when all of it was measured."""
    expected = [{"labels": "{}", "value": 1}] if fires else []
    asked = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    return {
        "name": f"{alert} {'fires' if fires else 'does not fire'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": asked, "eval_time": LATER, "exp_samples": expected}],
    }


def main(directory: str) -> None:
    place = Path(directory)
    tests = [test(name, series, fires) for name, both in CASES.items() for series, fires in zip(both, (True, False))]
    tests += [test(*case) for case in SERVE_CASES]
    (place / "rules.yml").write_text(json.dumps(rules(limits({}))), encoding="utf-8")
    asked = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (place / "tests.yml").write_text(json.dumps(asked), encoding="utf-8")
    lacking = sorted({alert.name for alert in ALERTS} - set(CASES))
    if lacking:
        sys.exit(f"no case for {', '.join(lacking)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
