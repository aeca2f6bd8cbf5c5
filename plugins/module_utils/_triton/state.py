# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The replicas that a host really has, from its units, systemd, podman, its GPUs and Triton's metrics.

What a replica is (model, release, ports) comes from the release record's line about its present unit.
"""

from __future__ import annotations

import re
import time
from pathlib import PurePosixPath
from typing import Any, Optional

from .._base.files import read_object
from .._base.tables import columns
from .._host import nvidia_smi, yaml
from .._host.system import System
from .._podman import cli
from .._release.serve import PROMETHEUS_ROUTE
from .._service.host import ServiceHost, UnitState
from .._service.record import ReleaseRecord
from .._service.units import own_units
from .client import GenerateClient, TritonError, requests_answered, requests_served
from .held import GATEWAY_PREFIX, PREFIX, config_of
from .replica import host_of
from .serve import API

METRICS_SECONDS = 5
# Options of an engine that say which logits it gives, by the name of the logits.
GATHERS = {"context": "gather_context_logits", "generation": "gather_generation_logits"}


def container_health() -> dict[str, str]:
    """What podman says of the health of each running container: ``healthy``, ``unhealthy``, ``starting``."""
    if cli.executable() is None:
        return {}
    done = cli.run(["ps", "--format", "{{.Names}} {{.Status}}"])
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        name, _blank, status = line.partition(" ")
        health = re.search(r"\((\w+)\)", status)
        found[name] = health.group(1) if health else ""
    return found


def gpu_memory() -> dict[str, tuple[int, int]]:
    """Used and total MiB of each GPU, by index and by UUID; empty where there is no GPU, or no driver that answers."""
    found: dict[str, tuple[int, int]] = {}
    for gpu in nvidia_smi.read(System()).gpus:
        total, free = gpu["memory_mib"], gpu["memory_free_mib"]
        if total is not None and free is not None:
            found[str(gpu["index"])] = found[gpu["uuid"]] = (total - free, total)
    return found


def gathered_logits(host: ServiceHost, engine: Optional[str]) -> Optional[list[str]]:
    """Which logits an engine gathers, as its config.json says; None where that cannot be read."""
    if engine is None:
        return None
    config = read_object(host.path(engine) / "config.json")
    built = config.get("build_config") or config.get("builder_config") or {}
    if not config or not isinstance(built, dict):
        return None
    return [name for name, option in GATHERS.items() if built.get(option)]


def replicas(host: ServiceHost, releases_dir: str, *, metrics: bool = True) -> list[dict[str, Any]]:
    """Every replica of the host; nothing is raised for one that does not serve."""
    units = own_units(host, PREFIX)
    states = host.states(list(units))
    health = container_health() if units else {}
    memory = gpu_memory() if units and metrics else {}
    return [
        replica(host, name, text, states[name], health, memory, ReleaseRecord(host.path(releases_dir), name), metrics)
        for name, text in units.items()
    ]


def served(host: ServiceHost, releases_dir: str, *, metrics: bool = True) -> dict[str, list[dict[str, Any]]]:
    """The replicas that the host leads, those that it has ranks of beside, and its gateways."""
    found = replicas(host, releases_dir, metrics=metrics)
    return {
        "replicas": [one for one in found if not one["node"]],
        "workers": [one for one in found if one["node"]],
        "gateways": gateways(host, releases_dir),
    }


def replica(
    host: ServiceHost,
    name: str,
    text: str,
    state: UnitState,
    health: dict[str, str],
    memory: dict[str, tuple[int, int]],
    record: ReleaseRecord,
    metrics: bool,
) -> dict[str, Any]:
    """One replica as plain values."""
    known = record.known(text)
    engines = known.get("engines") or []
    # What a replica without an engine was made from.
    made_of = engines or ([known["repository"]] if known.get("api") and known.get("repository") else [])
    gpus = known.get("gpus") or []
    used = [memory[gpu.split(":")[0]] for gpu in gpus if gpu.split(":")[0] in memory]
    previous = record.before(text)
    return {
        "service": name,
        "replica": known.get("replica", name.removeprefix(PREFIX)),
        "model": known.get("model", ""),
        "release": known.get("release", ""),
        "image": known.get("image", ""),
        "repository": known.get("repository", ""),
        "engines": engines,
        "fingerprints": [PurePosixPath(path).name for path in made_of],
        "gpus": gpus,
        "http_url": f"http://{known['http']}" if known.get("http") else "",
        "metrics_url": f"http://{known['metrics']}" if known.get("metrics") else "",
        "entry_models": known.get("entry_models") or [],
        "api": known.get("api") or "triton",
        "gathers": gathered_logits(host, engines[0] if engines else None),
        "active": state.active,
        "sub": state.sub,
        "restarts": state.restarts,
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(state.since)) if state.since else "",
        "health": health.get(name, ""),
        "requests": _requests(known) if metrics and state.active == "active" else None,
        "gpu_memory_mib": [sum(column) for column in zip(*used)] if used else None,
        "previous": previous["time"] if previous else "",
        "problem": _problem(name, state, known),
        "nodes": known.get("nodes") or [],
        "node": known.get("node") or 0,
    }


def _problem(service: str, state: UnitState, known: dict[str, Any]) -> str:
    """Why a replica cannot be asked anything, empty where it can."""
    if not known.get("http") and not known.get("node"):
        return (
            f"the release record does not tell of the unit of {service}, so its ports are not known; run serve.yml, "
            "which writes the record again."
        )
    if state.active != "active":
        return f"{service} is {state.active} ({state.sub}); 'journalctl -u {service}' on the host says why."
    return ""


def _requests(known: dict[str, Any]) -> Optional[int]:
    triton = known.get("metrics")
    url = f"http://{triton}"
    if not triton:
        # trtllm-serve has them where it is asked for everything else.
        if known.get("api") != API or not known.get("http"):
            return None
        url = f"http://{known['http']}{PROMETHEUS_ROUTE}"
    try:
        samples = GenerateClient(url, METRICS_SECONDS).metrics(url)
    except TritonError:
        return None
    return requests_served(samples, known.get("entry_models") or None) if triton else requests_answered(samples)


def _models(config: str) -> list[str]:
    """The models of a configuration, which changes without the unit and its record; empty where it cannot be read."""
    try:
        return [str(model["name"]) for model in yaml.load(config)["models"]]
    except (yaml.YamlError, TypeError, KeyError):
        return []


def gateways(host: ServiceHost, releases_dir: str) -> list[dict[str, Any]]:
    """The OpenAI gateways of the host: where they are reached from the host itself, and the models they serve."""
    units = own_units(host, GATEWAY_PREFIX)
    states = host.states(list(units))
    found: list[dict[str, Any]] = []
    for name, text in units.items():
        known = ReleaseRecord(host.path(releases_dir), name).known(text)
        # The front that is Triton itself listens for Triton's own clients too; its first port is OpenAI's.
        for listen in (known.get("listen") or [])[:1]:
            address, _colon, port = str(listen).rpartition(":")
            url = f"{known.get('scheme') or 'http'}://{host_of(address)}:{port}"
            active, config = states[name].active, config_of(host, text)
            models = _models(config) or known.get("models") or []
            one = {"service": name, "url": url, "models": models, "active": active, "config": config}
            found.append({**one, "names": known.get("names") or {}})
    return found


def status_table(
    found: dict[str, list[dict[str, Any]]], workers: Optional[dict[str, list[dict[str, Any]]]] = None
) -> list[str]:
    """One screen for the fleet: the lines of a table, from what each host has.

    *workers*: by host those of replicas on several hosts, which stand in the line of their leader.
    """
    head = ["host", "replica", "release", "image", "engine", "since", "state", "health", "restarts", "requests", "gpu"]
    rows = [head]
    for host, items in sorted(found.items()):
        idle = (
            f"- ({', '.join(sorted(one['replica'] for one in mine))})" if (mine := (workers or {}).get(host)) else "-"
        )
        rows += [_row(host, {**item, "replica": _with_nodes(item, workers or {})}) for item in items] or [
            [host, idle, *[""] * (len(head) - 2)]
        ]
    return columns(rows)


def _with_nodes(item: dict[str, Any], workers: dict[str, list[dict[str, Any]]]) -> str:
    """The name of a replica, with its nodes where it is on several hosts, and what is the matter with a worker."""
    shown = []
    for number, node in enumerate(item.get("nodes") or []):
        state = {one["replica"]: one["active"] for one in workers.get(node, [])}.get(item["replica"], "no unit")
        asked = number and node in workers
        shown.append(f"{node} ({state})" if asked and state != "active" else str(node))
    return f"{item['replica']} on {', '.join(shown)}" if shown else str(item["replica"])


def gateway_table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The gateways of the fleet, each with ``fronts``: by model the URLs of its replicas, and the weight of each."""
    rows = [["host", "gateway", "state", "model", "replicas"]]
    for host, items in sorted(found.items()):
        for item in items:
            for model, urls in (item["fronts"] or dict.fromkeys(item["models"] or ["-"])).items():
                shown = ", ".join(_weighed(*one) for one in (urls or {}).items()) or "-"
                rows.append([host, str(item["service"]), str(item["active"]), str(model), shown])
    return columns(rows)


def _weighed(url: str, weight: int) -> str:
    return url.partition("//")[2] + (f" (weight {weight})" if weight != 1 else "")


def _row(host: str, item: dict[str, Any]) -> list[str]:
    memory = item["gpu_memory_mib"]
    return [
        host,
        str(item["replica"]),
        str(item["release"]),
        str(item["image"]).rpartition(":")[2][:12],
        ",".join(fingerprint[:12] for fingerprint in item["fingerprints"]) or "-",
        str(item["since"]) or "-",
        str(item["active"]),
        str(item["health"]) or "-",
        str(item["restarts"]),
        "-" if item["requests"] is None else str(item["requests"]),
        f"{memory[0]}/{memory[1]} MiB" if memory else "-",
    ]
