# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the map of the fleet to the files that Prometheus, Alertmanager and Grafana read.

Everything here is pure: the same fleet gives the same files. Targets are files of their own (file_sd), which Prometheus
reads again by itself, so a host that comes or goes takes no reload.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release
from ansible_collections.trtllm.fleet.plugins.module_utils._release.serve import PROMETHEUS_ROUTE, prometheus_route
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.replica import host_of
from ansible_collections.trtllm.fleet.plugins.plugin_utils._alerts import limits, rules
from ansible_collections.trtllm.fleet.plugins.plugin_utils._dashboards import dashboards

HEAD = "# Written by trtllm.fleet (monitoring.yml); changes are lost.\n"
# What the blackbox exporter is asked for: whether an address answers, and until when its certificate is good.
PROBE = {"metrics_path": "/probe", "params": {"module": ["gateway"]}}
WAITED = ("s", "m", "h")

Target = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What Prometheus asks in one way: *targets*, and what its scrape configuration has beside them."""

    name: str
    targets: Sequence[Target]
    settings: Mapping[str, Any]


def files(
    fleet: Mapping[str, Any], gateways: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> list[dict[str, str]]:
    """All files, each with its ``path`` below the directory of the role and its ``content``.

    *fleet*: what the module fleet_map returns. *gateways*: by host with a gateway its ``address``, ``port``, ``tls``.
    *settings*: the options of the role by their names without ``monitoring_``. Raises `FleetError`.
    """
    numbers = limits(settings.get("limits") or {})
    wait = _wait(settings.get("alert_wait"))
    jobs = [*_jobs(fleet, gateways, settings)]
    scraped = [_scrape(job, settings) for job in jobs]
    found = {f"targets/{job.name}.json": _json(list(job.targets)) for job in jobs}
    found["rules.yml"] = HEAD + _yaml(rules(numbers, wait))
    found["scrape.yml"] = HEAD + _yaml({"scrape_configs": scraped})
    found["prometheus.yml"] = HEAD + _yaml(prometheus(scraped, settings))
    found["alertmanager.yml"] = HEAD + _yaml(alertmanager(settings.get("alertmanager_config") or {}))
    found["blackbox.yml"] = HEAD + _yaml(BLACKBOX)
    found.update({f"dashboards/{name}.json": _json(board) for name, board in dashboards().items()})
    found["grafana/datasources.yml"] = HEAD + _yaml(_datasources(settings))
    found["grafana/dashboards.yml"] = HEAD + _yaml(_provider(settings))
    return [{"path": path, "content": content} for path, content in sorted(found.items())]


def _wait(given: Any) -> str | None:
    """How long an alert's expression has to hold, or None for what each alert says."""
    if given in (None, ""):
        return None
    text = str(given)
    if not (text[:-1].isdigit() and text[-1:] in WAITED):
        raise FleetError(f"monitoring_alert_wait is {text!r}; give it as Prometheus does, such as 0s or 5m.")
    return text


def _jobs(
    fleet: Mapping[str, Any], gateways: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> Iterator[Job]:
    replicas = [(host, replica) for host, about in fleet["hosts"].items() for replica in about["replicas"]]
    about = {host: values.get("release") for host, values in fleet["hosts"].items()}
    triton = [one for one in replicas if one[1]["metrics_url"]]
    served = [one for one in replicas if not one[1]["metrics_url"] and one[1]["name"]]
    told = [one for one in served if prometheus_route(release(_release(*one, about)))]
    yield Job("triton", [_replica(*one, about, urlsplit(one[1]["metrics_url"]).netloc) for one in triton], {})
    yield Job(
        "trtllm_serve",
        [_replica(*one, about, urlsplit(one[1]["url"]).netloc) for one in told],
        {"metrics_path": PROMETHEUS_ROUTE},
    )
    # Whether one of them works says its health alone: not all have metrics, which one whose ranks are dead has still.
    yield Job("trtllm_serve_health", [_replica(*one, about, f"{one[1]['url']}/health") for one in served], PROBE)
    yield Job("openai_gateway", [_gateway(host, about) for host, about in gateways.items()], {})
    yield Job("gateway_tls", [*_certificates(gateways)], PROBE)
    exporters = {"node": settings.get("node_exporter_port"), "dcgm": settings.get("dcgm_exporter_port")}
    for name, port in exporters.items():
        hosts = settings.get("hosts") or {}
        asked = {host: at for host, at in hosts.items() if name == "node" or host in fleet["hosts"]} if port else {}
        yield Job(name, [_target(f"{host_of(at)}:{port}", {"host": host}) for host, at in asked.items()], {})


def _target(address: str, labels: Mapping[str, str]) -> Target:
    return {"targets": [address], "labels": dict(labels)}


def _replica(host: str, replica: Mapping[str, Any], about: Mapping[str, Any], address: str) -> Target:
    labels = {
        "host": host,
        "replica": str(replica["name"]),
        "model": str(replica["model"]),
        "release": _release(host, replica, about),
        "nodes": str(len(replica.get("nodes") or [host])),
    }
    return _target(address, labels)


def _release(host: str, replica: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    return str(replica.get("release") or about[host] or "")


def _gateway(host: str, about: Mapping[str, Any]) -> Target:
    labels = {"host": host, **({"__scheme__": "https"} if about.get("tls") else {})}
    return _target(f"{host_of(about['address'])}:{about['port']}", labels)


def _certificates(gateways: Mapping[str, Mapping[str, Any]]) -> Iterator[Target]:
    for host, about in gateways.items():
        if about.get("tls"):
            yield _target(f"https://{host_of(about['address'])}:{about['port']}/health", {"host": host})


def _scrape(job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of one job. What it proves who it is with stands in files of the operator."""
    found: dict[str, Any] = {
        "job_name": job.name,
        "file_sd_configs": [{"files": [f"{settings['dir']}/targets/{job.name}.json"]}],
        **job.settings,
    }
    if settings.get("interval"):
        found["scrape_interval"] = str(settings["interval"])
    if job.name == "openai_gateway":
        ca = settings.get("gateway_ca_file")
        found["tls_config"] = {"ca_file": str(ca)} if ca else {"insecure_skip_verify": True}
    if job.settings is PROBE:
        found["relabel_configs"] = [
            {"source_labels": ["__address__"], "target_label": "__param_target"},
            {"source_labels": ["__param_target"], "target_label": "instance"},
            {"target_label": "__address__", "replacement": str(settings["blackbox_address"])},
        ]
    return found


# What looks at certificates; whether they are good is for clients to say, here it is when they end.
BLACKBOX = {
    "modules": {
        "gateway": {
            "prober": "http",
            "timeout": "5s",
            "http": {"preferred_ip_protocol": "ip4", "tls_config": {"insecure_skip_verify": True}},
        }
    }
}


def _datasources(settings: Mapping[str, Any]) -> dict[str, Any]:
    source = {
        "name": "trtllm", "uid": "trtllm", "type": "prometheus", "access": "proxy",
        "url": str(settings.get("prometheus_url") or f"http://{settings['listen']}"),
    }  # fmt: skip
    return {"apiVersion": 1, "datasources": [source]}


def _provider(settings: Mapping[str, Any]) -> dict[str, Any]:
    options = {"path": f"{settings['dir']}/dashboards"}
    provider = {"name": "trtllm", "folder": "trtllm.fleet", "type": "file", "options": options}
    return {"apiVersion": 1, "providers": [provider]}


def prometheus(jobs: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a Prometheus that this role runs. *jobs* stand in it, as older ones include no file."""
    found: dict[str, Any] = {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": [f"{settings['dir']}/rules.yml"],
        "scrape_configs": [
            {"job_name": "prometheus", "static_configs": [{"targets": [str(settings["listen"])]}]},
            {"job_name": "trtllm_fleet", "static_configs": [{"targets": [str(settings["node_exporter_address"])]}],
             "honor_labels": True},
            *jobs,
        ],
    }  # fmt: skip
    if settings.get("interval"):
        found["global"] = dict.fromkeys(found["global"], str(settings["interval"]))
    alertmanagers = [{"static_configs": [{"targets": [str(settings["alertmanager_address"])]}]}]
    found["alerting"] = {"alertmanagers": alertmanagers}
    return found


def alertmanager(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The operator's configuration of Alertmanager; with none, alerts are shown there and go nowhere."""
    return given or {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(_plain(value), sort_keys=False, width=120, allow_unicode=True))


def _plain(value: Any) -> Any:
    """Without the types of Ansible's templates."""
    return json.loads(json.dumps(value, default=str))
