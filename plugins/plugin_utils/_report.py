# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is to tell of a fleet, as plain values, from what modules found on its hosts.

The page is made of it, and `report_json` writes it as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._base.urls import parts_of
from ansible_collections.trtllm.fleet.plugins.module_utils._base.versions import version_key
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.state import BEGAN, ROLLED_BACK, SWITCHING, utc
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.replica import ANY_ADDRESS, is_loopback
from ansible_collections.trtllm.fleet.plugins.plugin_utils._drift import BAD, NOTE, WARN, all_replicas, drift, finding
from ansible_collections.trtllm.fleet.plugins.plugin_utils._gateway import gateway_config

FORMAT = 1
OK, LOST = "ok", "lost"
ORDER = {BAD: 0, LOST: 0, WARN: 1, NOTE: 2, OK: 3}
UNSETTLED = "not settled"  # switched, and not seen to be good or put back since
VERSIONS = {"system": "os", "kernel": "kernel", "driver": "driver", "podman": "podman"}
OUTCOMES = {SWITCHING: UNSETTLED}

Row = dict[str, Any]


@dataclass(frozen=True)
class Fleet:
    """What is known before a report is made of it."""

    name: str
    found: Mapping[str, Mapping[str, Any]]  # by host what modules found on it, each by its part
    lost: Mapping[str, str] = field(default_factory=dict)  # by host why
    benchmarks: Sequence[Mapping[str, Any]] = ()
    refused: str = ""  # why the description is none
    by: str = ""
    collection: str = ""
    now: float = 0.0


def report(fleet: Fleet) -> Row:
    """All there is to tell."""
    hosts = {name: _host(name, host) for name, host in sorted(fleet.found.items()) if name not in fleet.lost}
    replicas = [replica for host in hosts.values() for replica in host.pop("rows")]
    gateways = [gateway for host in hosts.values() for gateway in host.pop("fronts")]
    for name, why in fleet.lost.items():
        hosts[name] = {"name": name, "state": LOST, "why": why, "gpus": [], "replicas": [], "facts": {}, "holder": {}}
    hosts = dict(sorted(hosts.items()))
    _gateways(gateways, replicas, fleet)
    rollouts = _rollouts(
        {name: host.get("rollouts") or [] for name, host in fleet.found.items()},
        {str(host["holder"].get("id")) for host in hosts.values() if host["holder"]},
    )
    attention = _attention(fleet, hosts, replicas, gateways)
    return {
        "format": FORMAT,
        "name": fleet.name,
        "generated": utc(fleet.now or time.time()),
        "by": fleet.by,
        "collection": fleet.collection,
        "summary": _summary(hosts, replicas, gateways, attention, rollouts),
        "attention": attention,
        "hosts": list(hosts.values()),
        "versions": _versions(hosts.values(), replicas),
        "models": _models(replicas, gateways),
        "replicas": replicas,
        "gateways": gateways,
        "rollouts": rollouts,
        "benchmarks": [dict(run) for run in fleet.benchmarks],
    }


def _host(name: str, host: Mapping[str, Any]) -> Row:
    facts = host.get("host") or {}
    differs = drift(host)
    rows = [_replica(name, replica, differs) for replica in all_replicas(host)]
    missing = [one for one in differs if one["replica"] not in {row["replica"] for row in rows}]
    reasons = list((host.get("verdict") or {}).get("reasons") or [])
    problems = [
        *({"severity": BAD, "what": text, "replica": ""} for text in host.get("problems") or []),
        *missing,
        *(finding(WARN, f"it does not fit what is described: {reason}") for reason in reasons),
        *_reboot(facts),
    ]
    return {
        "name": name,
        "state": _worst([*(problem["severity"] for problem in problems), *(row["state"] for row in rows)]),
        "why": "",
        "problems": problems,
        "facts": _facts(facts),
        "gpus": _gpus(facts, rows),
        "replicas": [row["replica"] for row in rows],
        "engines": [_engine(engine, rows) for engine in host.get("engines") or []],
        "builds": list(host.get("builds") or []),
        "described": host.get("plan") is not None,
        "settled": _settled(host),
        "holder": dict(host.get("holder") or {}),
        "rows": rows,
        "fronts": [{**gateway, "host": name} for gateway in host.get("gateways") or []],
    }


def _settled(host: Mapping[str, Any]) -> Row | None:
    """Since when the host is settled, or was; None where it could not be asked."""
    if "settled" not in host:
        return None
    keys = {"settled": "settled", "settled_since": "since", "settled_why": "why"}
    return {name: host.get(part) for part, name in keys.items()}


def _reboot(facts: Mapping[str, Any]) -> list[Row]:
    reboot = facts.get("reboot") or {}
    return [finding(NOTE, f"it waits for a reboot: {'; '.join(reboot['reasons'])}")] if reboot.get("required") else []


def _worst(states: Iterable[str]) -> str:
    return min([*states, OK], key=lambda state: ORDER.get(state, 3))


def _facts(facts: Mapping[str, Any]) -> Row:
    """What a host is, in short."""
    if not facts:
        return {}
    disk = max((facts.get("disk") or {}).items(), key=lambda item: len(item[0]), default=("", None))
    return {
        "os": (facts.get("os") or {}).get("name"),
        "kernel": (facts.get("kernel") or {}).get("release"),
        "driver": (facts.get("driver") or {}).get("version"),
        "podman": (facts.get("podman") or {}).get("version"),
        "fabric": facts.get("fabric"),
        "memory_bytes": (facts.get("memory") or {}).get("total_bytes"),
        "disk": {"path": disk[0], **disk[1]} if disk[1] else None,
    }


def _gpus(facts: Mapping[str, Any], rows: Sequence[Row]) -> list[Row]:
    found = []
    for gpu in facts.get("gpus") or []:
        total, free = gpu.get("memory_mib"), gpu.get("memory_free_mib")
        names = {str(gpu.get("index")), str(gpu.get("uuid"))}
        found.append(
            {
                "index": gpu.get("index"),
                "name": gpu.get("name") or gpu.get("pci_id") or "GPU",
                "memory_mib": total,
                "used_mib": total - free if total is not None and free is not None else None,
                "replicas": [row["replica"] for row in rows if names & {gpu.split(":")[0] for gpu in row["gpus"]}],
            }
        )
    return found


def _state(unit: Mapping[str, Any]) -> str:
    return str(unit["active"]) + (f" ({unit['sub']})" if unit["sub"] != unit["active"] else "")


def _versions(hosts: Iterable[Row], replicas: Iterable[Row]) -> dict[str, dict[str, list[str]]]:
    """By what has a version each of its versions, the newest first, with the hosts that have it."""
    found: dict[str, dict[str, set[str]]] = {}
    told = [(words, host["name"], host["facts"].get(part)) for host in hosts for words, part in VERSIONS.items()]
    told += [("TensorRT-LLM that serves", row["host"], row["release"]) for row in replicas]
    for what, host, version in told:
        if version:
            found.setdefault(what, {}).setdefault(str(version), set()).add(host)
    return {
        what: {version: sorted(versions[version]) for version in sorted(versions, key=version_key, reverse=True)}
        for what, versions in found.items()
    }


def _replica(host: str, replica: Mapping[str, Any], differs: Sequence[Mapping[str, str]]) -> Row:
    own = [one for one in differs if one["replica"] == replica["replica"]]
    worker = bool(replica.get("node"))
    problems = [*own]
    if replica["active"] not in ("active", "activating", "reloading"):
        problems.append(finding(BAD, f"it is {_state(replica)}", replica["replica"]))
    elif replica["active"] != "active" or replica.get("health") == "starting":
        problems.append(finding(WARN, "it is starting", replica["replica"]))
    elif replica.get("health") == "unhealthy":
        problems.append(finding(BAD, "its health probe fails", replica["replica"]))
    if replica.get("restarts"):
        times = "once" if replica["restarts"] == 1 else f"{replica['restarts']} times"
        problems.append(finding(NOTE, f"it was restarted {times} since its unit was started", replica["replica"]))
    state = _worst(problem["severity"] for problem in problems)
    serves = replica["active"] == "active" and replica.get("health") not in ("unhealthy", "starting")
    return {
        "host": host,
        **{key: replica.get(key) for key in (
            "replica", "service", "model", "release", "image", "repository", "fingerprints", "gpus", "http_url", "api",
            "active", "sub", "health", "since", "restarts", "requests", "gpu_memory_mib", "previous", "nodes",
        )},
        "worker": worker,
        "serves": serves,
        "state": state,
        "problems": problems,
    }  # fmt: skip


def _engine(engine: Mapping[str, Any], rows: Sequence[Row]) -> Row:
    serves = [row["replica"] for row in rows if engine["fingerprint"] in (row["fingerprints"] or [])]
    keys = ("name", "fingerprint", "size", "release", "world_size", "built_at", "problems")
    return {**{key: engine.get(key) for key in keys}, "replicas": serves}


def _gateways(gateways: list[Row], replicas: Sequence[Row], fleet: Fleet) -> None:
    """Add what each gateway fronts and what is the matter with it."""
    reached = _Reached(replicas, fleet)
    # Hosts that are lost may have replicas that are not known here, and of some no record tells where they are.
    all_known = not fleet.lost and all(row["http_url"] or row["worker"] for row in replicas)
    for gateway in gateways:
        config = gateway_config(gateway.pop("config", ""))
        fronts = {str(model["name"]): [str(url) for url in model["urls"]] for model in (config or {}).get("models", [])}
        gateway["fronts"] = fronts or {str(model): [] for model in gateway.get("models") or []}
        problems = []
        if gateway["active"] != "active":
            problems.append(finding(BAD, f"it is {gateway['active']}"))
        for model, to in fronts.items():
            strange = [url for url in to if not reached.by(gateway["host"], url)] if all_known else []
            if strange:
                problems.append(finding(WARN, f"it sends {model} to {', '.join(strange)}, where no host has a replica"))
            if not any(reached.serves(gateway["host"], url) for url in to) and not strange and all_known:
                problems.append(finding(BAD, f"none of the replicas of {model} behind it serves"))
        gateway["problems"], gateway["state"] = problems, _worst(one["severity"] for one in problems)
        gateway["serving"] = {
            model: sum(reached.serves(gateway["host"], url) for url in to) for model, to in fronts.items()
        }


class _Reached:
    """Which replicas a gateway reaches at a URL: a loopback address is another on each host."""

    def __init__(self, replicas: Sequence[Row], fleet: Fleet) -> None:
        described = {
            (host, str(one.get("name"))): str(one.get("address"))
            for host, found in fleet.found.items()
            for one in (found.get("plan") or {}).get("replicas") or []
        }
        self._at: dict[tuple[str, str], list[Row]] = {}
        self._everywhere: dict[str, list[Row]] = {}  # by port those that listen on all addresses of their host
        for row in replicas:
            url = str(row["http_url"] or "")
            self._at.setdefault((row["host"] if _loops(url) else "", url), []).append(row)
            if described.get((row["host"], str(row["replica"]))) in ANY_ADDRESS:
                self._everywhere.setdefault(url.rpartition(":")[2], []).append(row)

    def by(self, host: str, url: str) -> list[Row]:
        """The replicas that a gateway on *host* may reach there."""
        if _loops(url):
            return self._at.get((host, url), [])
        return self._at.get(("", url), []) or self._everywhere.get(url.rpartition(":")[2], [])

    def serves(self, host: str, url: str) -> bool:
        """Whether one of them serves."""
        return any(row["serves"] for row in self.by(host, url))


def _host_of(url: object) -> str | None:
    parts = parts_of(url)
    return parts.hostname if parts else None


def _loops(url: str) -> bool:
    parts = parts_of(url)
    return parts is not None and is_loopback(parts.hostname)


def _attention(
    fleet: Fleet, hosts: Mapping[str, Row], replicas: Sequence[Row], gateways: Sequence[Row]
) -> list[dict[str, str]]:
    """What somebody should look at, the worst first."""
    found: list[dict[str, str]] = []
    if fleet.refused:
        found.append({"severity": BAD, "host": "", "about": "description", "what": fleet.refused})
    for name, host in hosts.items():
        if host["state"] == LOST:
            found.append({"severity": BAD, "host": name, "about": "", "what": f"it is lost: {host['why']}"})
        for one in host.get("problems") or []:
            found.append({"severity": one["severity"], "host": name, "about": one["replica"], "what": one["what"]})
        if host["holder"]:
            what = f"the rollout {host['holder'].get('id')} of {host['holder'].get('owner')} works here"
            found.append({"severity": NOTE, "host": name, "about": "", "what": what})
    for row in replicas:
        for one in row["problems"]:
            about = {"host": row["host"], "about": row["replica"]}
            found.append({"severity": one["severity"], **about, "what": one["what"]})
    for gateway in gateways:
        for one in gateway["problems"]:
            about = {"host": gateway["host"], "about": str(gateway["service"])}
            found.append({"severity": one["severity"], **about, "what": one["what"]})
    return sorted(found, key=lambda one: (ORDER[one["severity"]], one["host"], one["about"], one["what"]))


def _models(replicas: Sequence[Row], gateways: Sequence[Row]) -> list[Row]:
    found = []
    for name in sorted({str(row["model"]) for row in replicas if row["model"]}):
        rows = [row for row in replicas if row["model"] == name and not row["worker"]]
        releases = sorted({str(row["release"]) for row in rows if row["release"]}, key=version_key)
        requests = [row["requests"] for row in rows if row["requests"] is not None]
        found.append(
            {
                "name": name,
                "replicas": len(rows),
                "serving": sum(row["serves"] for row in rows),
                "hosts": sorted({row["host"] for row in rows}),
                "releases": releases,
                "fingerprints": sorted({one for row in rows for one in row["fingerprints"] or []}),
                "requests": sum(requests) if requests else None,
                "gateways": [f"{one['host']}" for one in gateways if name in one["fronts"]],
            }
        )
    return found


def _summary(
    hosts: Mapping[str, Row],
    replicas: Sequence[Row],
    gateways: Sequence[Row],
    attention: Sequence[Mapping[str, str]],
    rollouts: Sequence[Row],
) -> Row:
    leads = [row for row in replicas if not row["worker"]]
    gpus = [gpu for host in hosts.values() for gpu in host["gpus"]]
    requests = [row["requests"] for row in leads if row["requests"] is not None]
    counts = {severity: sum(one["severity"] == severity for one in attention) for severity in (BAD, WARN, NOTE)}
    return {
        "state": _worst(severity for severity in (BAD, WARN) if counts[severity]),
        "hosts": len(hosts),
        "lost": sum(host["state"] == LOST for host in hosts.values()),
        "replicas": len(leads),
        "serving": sum(row["serves"] for row in leads),
        "gpus": len(gpus),
        "gpus_serving": sum(bool(gpu["replicas"]) for gpu in gpus),
        "gateways": len(gateways),
        "gateways_up": sum(one["active"] == "active" for one in gateways),
        "models": len({row["model"] for row in leads if row["model"]}),
        "requests": sum(requests) if requests else None,
        "rollouts": len(rollouts),
        "described": sum(bool(host.get("described")) for host in hosts.values()),
        "settled": sum(bool((host.get("settled") or {}).get("settled")) for host in hosts.values()),
        "attention": counts,
    }


def seconds_of(moment: str) -> float | None:
    """The unix time of ``2026-01-14T09:31:07Z`` or of ``20260114T093107Z``; None for what is no time."""
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y%m%dT%H%M%SZ"):
        try:
            return datetime.strptime(moment, form).replace(tzinfo=timezone.utc).timestamp()
        except ValueError:
            continue
    return None


def _rollouts(journals: Mapping[str, Sequence[Mapping[str, Any]]], running: set[str]) -> list[Row]:
    """What became of each rollout on each host, the newest first; *running*: those that work on a host now."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for host, lines in sorted(journals.items()):
        for told in lines:
            found.setdefault(str(told.get("rollout", "")), {}).setdefault(host, []).append(told)
    rows = [_rollout(identity, hosts, identity in running) for identity, hosts in found.items()]
    return sorted(rows, key=lambda row: (row["from"], row["id"]), reverse=True)


def _rollout(identity: str, hosts: Mapping[str, Sequence[Mapping[str, Any]]], running: bool) -> Row:
    parts: list[Row] = []
    for host, lines in hosts.items():
        last = lines[-1]
        switched = [line for line in lines if line.get("step") == SWITCHING]
        begin = str((switched or lines)[0].get("time", ""))
        outcome = OUTCOMES.get(str(last.get("step")), str(last.get("step", "")))
        whys = [str(line["why"]) for line in lines if line.get("why")]
        parts.append(
            {
                "host": host,
                "outcome": "at work" if running and outcome == UNSETTLED else outcome,
                "from": begin,
                "to": str(last.get("time", "")),
                "seconds": last.get("seconds"),
                "why": " ".join((whys or [""])[-1].split()),
                "services": sorted({str(one) for line in lines for one in line.get("services") or []}),
            }
        )
    named = seconds_of(identity.partition("-")[0]) if BEGAN.fullmatch(identity) else None
    begin = utc(named) if named is not None else min(part["from"] for part in parts)
    counts: dict[str, int] = {}
    for part in parts:
        counts[part["outcome"]] = counts.get(part["outcome"], 0) + 1
    who = next((str(line["who"]) for lines in hosts.values() for line in lines if line.get("who")), "")
    return {
        "id": identity,
        "who": who,
        "from": begin,
        "to": max(part["to"] for part in parts),
        "outcomes": counts,
        "good": not {UNSETTLED, ROLLED_BACK} & counts.keys(),
        "hosts": sorted(parts, key=lambda part: (part["from"], part["host"])),
    }


def of_fleet(runs: Iterable[Mapping[str, Any]], hosts: Iterable[str]) -> list[Mapping[str, Any]]:
    """The benchmarks of this fleet among all, oldest first: those whose target is a host of it."""
    known = set(hosts)
    mine = [
        run
        for run in runs
        if known & {str((target := run.get("target") or {}).get("host")), _host_of(target.get("url"))}
    ]
    return sorted(mine, key=lambda run: str(run.get("time")))
