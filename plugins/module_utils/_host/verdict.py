# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Can this host serve what is asked of it? One verdict for each host, one table for the fleet.

A finding is either a *reason* why not, which only the operator can remove, or something *to do* that the host
playbook does by itself (install a driver, refresh CDI). Pure: facts of ``gpu_host_info`` in, text out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from .._base.errors import FleetError
from .._base.sizes import GIB
from .._base.tables import columns
from .._base.versions import version_key
from .._release.releases import Release, release
from .gpu import CDI_KIND, cdi_name

OLDEST_PODMAN_WITH_CDI = (4, 1)
NOT_SEEN = "it could not be looked at: the error above says why"
COLUMNS = ("host", "system", "GPUs", "driver", "CC", "CDI", "podman", "verdict")


@dataclass(frozen=True)
class Wanted:
    """What is asked of a host. *gpus*: all that replicas name, as indices, MIG places (``0:1``) or UUIDs.

    *release*: the one that asks most of the driver; *releases*: by GPU those that replicas serve with it.
    *serves*: false for a host that only runs a gateway, whose GPUs and driver are nobody's concern.
    """

    serves: bool = True
    release: Optional[Release] = None
    gpus: tuple[str, ...] = ()
    releases: Mapping[str, tuple[Release, ...]] = field(default_factory=dict)
    driver_branch: int = 580
    driver_source: str = "nvidia"
    reboot: str = "never"
    manage_driver: bool = True
    manage_cdi: bool = True
    cgroup_v2: bool = True
    minimum_free_gib: Mapping[str, float] = field(default_factory=dict)


class _Findings:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.todo: list[str] = []


def wanted(options: Mapping[str, Any]) -> Wanted:
    """What *options* ask for.

    ``release`` is a version or empty; ``gpus`` a list of GPUs or of lists of them, as replicas give them;
    ``releases`` for each of these the release of its replica, empty for ``release``. Raises `FleetError` for an
    unknown release.
    """
    version = options.get("release")
    given = list(options.get("gpus") or [])
    own = [*(options.get("releases") or []), *[""] * len(given)]
    releases: dict[str, tuple[Release, ...]] = {}
    flat: list[str] = []
    for gpu, asked in zip(given, own):
        names = [str(inner) for inner in (gpu if isinstance(gpu, (list, tuple)) else [gpu])]
        flat.extend(names)
        for name in names if asked or version else []:
            releases[name] = (*releases.get(name, ()), release(str(asked or version)))
    known = {row.version: row for rows in releases.values() for row in rows}
    fleets = [release(str(version))] if version and not all(own[: len(given)] or [""]) else []
    return Wanted(
        serves=bool(options.get("serves", True)),
        release=max([*fleets, *known.values()], key=lambda row: row.min_driver, default=None),
        gpus=tuple(dict.fromkeys(flat)),
        releases=releases,
        driver_branch=int(options.get("driver_branch") or 580),
        driver_source=str(options.get("driver_source") or "nvidia"),
        reboot=str(options.get("reboot") or "never"),
        manage_driver=bool(options.get("manage_driver", True)),
        manage_cdi=bool(options.get("manage_cdi", True)),
        cgroup_v2=bool(options.get("cgroup_v2", True)),
        minimum_free_gib={str(key): float(size) for key, size in (options.get("minimum_free_gib") or {}).items()},
    )


def verdict(host: Optional[Mapping[str, Any]], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The filter ``host_verdict``: the verdict on the host *name* with the facts *host*; see `wanted`, `judge`."""
    try:
        return judge(name, host, wanted(options))
    except FleetError as error:
        return {**judge(name, host, Wanted()), "ok": False, "reasons": [str(error).rstrip(".")]}


def judge(name: str, host: Optional[Mapping[str, Any]], want: Wanted) -> dict[str, Any]:
    """The verdict on one host: ``ok``, ``reasons``, ``todo``, and what the table shows of it.

    *host* is None for a host that did not answer.
    """
    if host is None:
        return {"host": name, "ok": False, "reasons": [NOT_SEEN], "todo": [], "cells": {}, "facts": None}
    found = _Findings()
    if not host["root"]:
        found.reasons.append("tasks run there without root's rights: set ansible_become to true for the host")
    if want.serves:
        _check_gpus(host, want.gpus, found)
        _check_driver(host, want, found)
        _check_compute_capability(host, want, found)
        _check_cdi(host, want, found)
    _check_podman(host, want, found)
    _check_room(host, want, found)
    return {
        "host": name,
        "ok": not found.reasons,
        "reasons": found.reasons,
        "todo": found.todo,
        "cells": _cells(host),
        "facts": host,
    }


def _check_gpus(host: Mapping[str, Any], gpus: Sequence[str], found: _Findings) -> None:
    """A name without a GPU behind it is a reason."""
    chosen: list[Mapping[str, Any]] = []
    missing: list[str] = []
    indexed = _indexed(host)
    for name in gpus:
        gpu, refusal = _find(indexed, name)
        if gpu is not None:
            chosen.append(gpu)
        elif refusal:
            found.reasons.append(refusal)
        else:
            missing.append(name)
    if missing:
        there = ", ".join(str(gpu["index"]) for gpu in indexed) or "none"
        plural = "s" if len(missing) > 1 else ""
        found.reasons.append(
            f"GPU{plural} {', '.join(missing)} asked for, but the host has {there}; change serving.replicas"
        )
    for gpu in chosen:
        if gpu.get("pci_driver") == "vfio-pci":
            found.reasons.append(
                f"GPU {gpu['index']} is handed to a virtual machine (vfio-pci); give it back to the host"
            )


def _indexed(host: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The GPUs with the indices that nvidia-smi gives, or will give: in the order of addresses."""
    gpus = list(host["gpus"])
    if any(gpu["index"] is not None for gpu in gpus):
        return [gpu for gpu in gpus if gpu["index"] is not None]
    return [{**gpu, "index": index} for index, gpu in enumerate(gpus)]


def _find(gpus: Sequence[Mapping[str, Any]], name: str) -> tuple[Optional[Mapping[str, Any]], str]:
    place = re.fullmatch(r"(\d+)(?::(\d+))?", name)
    for gpu in gpus:
        instances = gpu["mig"]["devices"]
        if name == gpu["uuid"] or (place and int(place.group(1)) == gpu["index"]):
            if place and place.group(2) is not None:
                if any(instance["index"] == int(place.group(2)) for instance in instances):
                    return gpu, ""
                return None, f"GPU {gpu['index']} has no MIG device {place.group(2)}; create it, or ask for another"
            if gpu["mig"]["enabled"]:
                names = ", ".join(f"{gpu['index']}:{instance['index']}" for instance in instances) or "none yet"
                return None, f"GPU {name} has MIG enabled; ask for its MIG devices ({names}), or disable MIG"
            return gpu, ""
        if any(instance["uuid"] == name for instance in instances):
            return gpu, ""
    return None, ""


def _branch(version: Optional[str]) -> int:
    numbers = version_key(version or "")
    return numbers[0] if numbers else 0


def _check_driver(host: Mapping[str, Any], want: Wanted, found: _Findings) -> None:
    driver = host["driver"]
    least = want.release.min_driver if want.release else 0
    title = f"release {want.release.version}" if want.release else ""
    installed = _branch(driver["version"])
    if host["pci_gpus"] and not (driver["version"] or driver["userspace"]):
        if _secure_boot_forbids(host, want) and want.manage_driver:
            found.reasons.append(
                "Secure Boot is enabled and the driver's modules would be built on the host, unsigned:"
                " use gpu_driver_source=distribution on Ubuntu, enrol a key of your own, or disable Secure Boot"
            )
        if want.manage_driver:
            found.todo.append(f"install driver {want.driver_branch}")
        else:
            found.reasons.append("there is no driver; install one, or set gpu_driver_manage to true")
    if host["reboot"]["required"]:
        reason = "a reboot is needed: " + "; ".join(host["reboot"]["reasons"])
        if want.reboot == "if_needed":
            found.todo.append(reason)
        else:
            found.reasons.append(reason + "; reboot it, or set gpu_driver_reboot=if_needed")
    elif driver["nvml"] == "failed":
        found.reasons.append(f"nvidia-smi fails: {driver['nvml_message']}")
    needs_one = bool(want.gpus) and bool(host["gpus"])
    if needs_one and least and installed and installed < least:
        text = f"driver {driver['version']} is older than {least}, which {title} needs"
        if host["pci_gpus"] and want.manage_driver and want.driver_branch >= least:
            found.todo.append(f"{text}: upgrade to {want.driver_branch}")
        else:
            found.reasons.append(f"{text}; set gpu_driver_branch to {least} or newer")
    elif needs_one and least and not installed and want.driver_branch < least:
        found.reasons.append(f"gpu_driver_branch is {want.driver_branch}, but {title} needs {least} or newer")


def _secure_boot_forbids(host: Mapping[str, Any], want: Wanted) -> bool:
    return host["secure_boot"] == "enabled" and want.driver_source == "nvidia"


def _check_compute_capability(host: Mapping[str, Any], want: Wanted, found: _Findings) -> None:
    indexed = _indexed(host)
    for place in want.gpus:
        gpu, _refusal = _find(indexed, place)
        capability = gpu["compute_capability"] if gpu is not None else ""
        for asked in want.releases.get(place, ()):
            known = asked.compute_capabilities
            if gpu is not None and capability and capability not in known:
                name = gpu["name"] or f"10de:{gpu['pci_id']}"
                found.reasons.append(
                    f"GPU {gpu['index']} ({name}) has compute capability {capability}, but release"
                    f" {asked.version} is made for {', '.join(known)}; use another GPU or release"
                )


def _check_cdi(host: Mapping[str, Any], want: Wanted, found: _Findings) -> None:
    cdi = host["cdi"]
    declared = {name.split("=", 1)[1] for name in cdi["devices"] if name.startswith(f"{CDI_KIND}=")}
    managed = bool(host["pci_gpus"]) and want.manage_cdi
    absent = [name for name in want.gpus if name not in declared]
    if absent and managed:
        found.todo.append("write the CDI specification")
    elif absent and not any("asked for" in reason for reason in found.reasons):
        names = ", ".join(cdi_name(name) for name in absent)
        found.reasons.append(f"no CDI specification declares {names}; generate one with nvidia-ctk cdi generate")
    for problem in cdi["problems"]:
        text = f"CDI: {problem['message']}"
        if managed:
            found.todo.append(text)
        elif want.gpus:
            found.reasons.append(text)


def _check_podman(host: Mapping[str, Any], want: Wanted, found: _Findings) -> None:
    if want.cgroup_v2 and host["cgroups"]["version"] != 2:
        found.reasons.append(
            "control groups v1 are mounted: boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line"
        )
    podman = host["podman"]
    if podman is None:
        found.todo.append("install podman")
    elif podman["error"]:
        found.reasons.append(f"podman does not answer: {podman['error']}")
    elif version_key(podman["version"]) < OLDEST_PODMAN_WITH_CDI:
        found.reasons.append(f"podman {podman['version']} cannot hand over CDI devices; 4.1 or newer is needed")


def _check_room(host: Mapping[str, Any], want: Wanted, found: _Findings) -> None:
    for path, least in want.minimum_free_gib.items():
        measured = host["disk"].get(path)
        if measured is not None and measured["free_bytes"] < least * GIB:
            free = measured["free_bytes"] / GIB
            found.reasons.append(f"{path} has {free:.1f} GiB free, and {least:g} GiB are asked for")


def _cells(host: Mapping[str, Any]) -> dict[str, str]:
    gpus = host["gpus"]
    counts: dict[str, int] = {}
    for gpu in gpus:
        name = gpu["name"] or (f"10de:{gpu['pci_id']} {gpu['architecture'] or ''}").strip()
        counts[name] = counts.get(name, 0) + 1
    capabilities = sorted({gpu["compute_capability"] for gpu in gpus if gpu["compute_capability"]})
    # nvidia-ctk gives each GPU two names, its index and its UUID.
    named = [name.partition("=")[2] for name in host["cdi"]["devices"] if not name.endswith("=all")]
    gpu_devices = [name for name in named if name[:1].isdigit()] or named
    system = host["os"]
    return {
        "system": f"{system['id']} {system['version']}".strip() or "unknown",
        "GPUs": ", ".join(f"{count} x {name}" for name, count in counts.items()) or "none",
        "driver": str(host["driver"]["version"] or host["driver"]["userspace"] or "none"),
        "CC": ", ".join(capabilities) or "-",
        "CDI": str(len(gpu_devices)) if gpu_devices else "none",
        "podman": (host["podman"]["version"] or "unknown") if host["podman"] else "none",
    }


def verdict_text(entry: Mapping[str, Any]) -> str:
    """``ok``, the reasons, or what there is to do."""
    if entry["reasons"]:
        return "; ".join(entry["reasons"])
    if entry["todo"]:
        return "to do: " + "; ".join(entry["todo"])
    return "ok"


def table(verdicts: Iterable[Mapping[str, Any]]) -> str:
    """One line for each host under a line of titles, in columns."""
    rows: list[Sequence[str]] = [COLUMNS]
    for entry in verdicts:
        middle = [entry["cells"].get(column, "?") for column in COLUMNS[1:-1]]
        rows.append([entry["host"], *middle, verdict_text(entry)])
    return "\n".join(columns(rows))


def report(verdicts: Sequence[Mapping[str, Any]], release_name: str = "") -> dict[str, Any]:
    """The fleet's result: ``ok``, ``release``, ``failures``, ``hosts`` and ``table``, the text for people."""
    return {
        "ok": all(entry["ok"] for entry in verdicts),
        "release": release_name or None,
        "failures": [f"{entry['host']}: {reason}" for entry in verdicts for reason in entry["reasons"]],
        "hosts": [dict(entry) for entry in verdicts],
        "table": table(verdicts),
    }
