# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CDI specifications on the host and what is wrong with them.

A specification is made once and describes the device nodes and driver files of that moment. A driver upgrade,
a reboot (nvidia-uvm's major number is dynamic), a changed MIG layout or a second specification beside it make
it lie: nvidia-smi still works and cuInit fails. So what is declared is compared with what is there.
"""

from __future__ import annotations

import os
import re
from typing import Any, Optional

from . import yaml
from .gpu import CDI_KIND
from .system import System

# In rising priority: a device of a later directory hides one of the same name in an earlier one.
DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
_DRIVER_FILE = re.compile(r"lib(?:cuda|nvidia-ml)\.so\.(\d+\.\d+(?:\.\d+)?)$")


def read(system: System, gpus: Optional[list[dict[str, Any]]]) -> dict[str, Any]:
    """``specs``, ``devices`` and ``problems`` of all specifications on the host.

    *gpus* are those nvidia-smi answered for, each with ``index``, ``uuid`` and ``mig``; None where it gave no
    answer, and then nothing is said about missing or surplus devices.
    """
    specs: list[dict[str, Any]] = []
    problems: list[dict[str, str]] = []
    for directory in DIRECTORIES:
        if directory == "/var/run/cdi" and not system.exists("/var/run"):
            directory = "/run/cdi"  # a recorded tree, or a host without the compatibility link
        for name in system.names(directory):
            if name.endswith((".yaml", ".json")):
                path = f"{directory}/{name}"
                spec = _load(system, path, problems)
                if spec is not None:
                    specs.append({"path": path, **_facts(spec)})
                    problems.extend(_stale(system, path, spec))
    problems.extend(_duplicates(specs))
    declared = {device for spec in specs for device in spec["devices"]}
    if gpus is not None and any(spec["kind"] == CDI_KIND for spec in specs):
        problems.extend(_differences(declared, gpus))
    return {"specs": specs, "devices": sorted(declared), "problems": problems}


def _problem(kind: str, path: str, message: str) -> dict[str, str]:
    return {"kind": kind, "path": path, "message": message}


def _load(system: System, path: str, problems: list[dict[str, str]]) -> Optional[dict[str, Any]]:
    text = system.text(path)
    try:
        spec = yaml.load(text or "")
    except yaml.YamlError as error:
        problems.append(_problem("unreadable", path, f"{path} is no CDI specification: {error}"))
        return None
    if not isinstance(spec, dict) or not isinstance(spec.get("kind"), str):
        problems.append(_problem("unreadable", path, f"{path} is no CDI specification: it has no kind"))
        return None
    return spec


def _each(owner: Any, key: str) -> list[dict[str, Any]]:
    """The objects below a key; what is none of that, as in a file that somebody has altered, is passed over."""
    found = owner.get(key) if isinstance(owner, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _devices(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return _each(spec, "devices")


def _edits(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The edits for all devices and those of each one."""
    found = [spec.get("containerEdits")]
    found += [device.get("containerEdits") for device in _devices(spec)]
    return [edit for edit in found if isinstance(edit, dict)]


def _facts(spec: dict[str, Any]) -> dict[str, Any]:
    names = [str(device["name"]) for device in _devices(spec) if "name" in device]
    driver = None
    for edit in _edits(spec):
        for mount in _each(edit, "mounts"):
            match = _DRIVER_FILE.search(str(mount.get("hostPath", "")))
            driver = match.group(1) if match else driver
    nodes = {
        f"{spec['kind']}={device['name']}": [
            str(node.get("hostPath") or node.get("path")) for node in _each(device.get("containerEdits"), "deviceNodes")
        ]
        for device in _devices(spec)
        if "name" in device
    }
    devices = [f"{spec['kind']}={name}" for name in names]
    return {"kind": spec["kind"], "devices": devices, "driver": driver, "nodes": nodes}


def _stale(system: System, path: str, spec: dict[str, Any]) -> list[dict[str, str]]:
    """Compare declared device nodes, mounted files and the programs of hooks with the live ones; each is told once."""
    problems: dict[str, dict[str, str]] = {}
    for edit in _edits(spec):
        for node in _each(edit, "deviceNodes"):
            where = str(node.get("hostPath") or node.get("path"))
            live = system.device_number(system.path(where))
            if live is None:
                message = f"{path} declares {where}, which does not exist"
                problems[where] = _problem("stale_device", path, message)
            elif isinstance(node.get("major"), int) and (node["major"], node.get("minor", live[1])) != live:
                said = f"{node['major']}:{node.get('minor', live[1])}"
                message = f"{path} declares {where} as device {said}, but it is {live[0]}:{live[1]}"
                problems[where] = _problem("stale_device", path, message)
        for mount in _each(edit, "mounts"):
            where = str(mount.get("hostPath"))
            if not system.exists(where):
                problems[where] = _problem("stale_file", path, f"{path} mounts {where}, which does not exist")
        for hook in _each(edit, "hooks"):
            where = str(hook.get("path"))
            if not system.exists(where):
                problems[where] = _problem("stale_file", path, f"{path} runs {where}, which does not exist")
    return list(problems.values())


def _duplicates(specs: list[dict[str, Any]]) -> list[dict[str, str]]:
    first: dict[str, str] = {}
    pairs: dict[tuple[str, str], list[str]] = {}
    for spec in specs:
        for device in spec["devices"]:
            if device in first and first[device] != spec["path"]:
                pairs.setdefault((first[device], spec["path"]), []).append(device)
            first.setdefault(device, spec["path"])
    problems = []
    for (earlier, later), devices in pairs.items():
        same = os.path.dirname(earlier) == os.path.dirname(later)
        effect = "neither can be used" if same else f"the one in {os.path.dirname(later)} hides the other"
        message = f"{earlier} and {later} both declare {', '.join(devices)}: {effect}"
        problems.append(_problem("duplicate", later, message))
    return problems


def _gone(name: str) -> dict[str, str]:
    return _problem("gone", "", f"a CDI specification declares the GPU {name}, which does not exist")


def device_names(gpus: list[dict[str, Any]]) -> set[str]:
    """The names that a fresh specification has, by index: ``0``, or ``0:1`` where MIG is enabled."""
    names: set[str] = set()
    for gpu in gpus:
        mig = gpu.get("mig") or {}
        if mig.get("enabled"):
            names |= {f"{gpu['index']}:{instance['index']}" for instance in mig.get("devices", [])}
        else:
            names.add(str(gpu["index"]))
    return names


def _differences(declared: set[str], gpus: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Compare declared devices with those nvidia-smi lists: a MIG change or a lost GPU shows here."""
    short = {name.split("=", 1)[1] for name in declared if name.startswith(CDI_KIND + "=")}
    indices = {name for name in short if re.fullmatch(r"\d+(:\d+)?", name)}
    live = device_names(gpus)
    uuids = {gpu["uuid"] for gpu in gpus}
    uuids |= {instance["uuid"] for gpu in gpus for instance in (gpu.get("mig") or {}).get("devices", [])}
    by_uuid = {name for name in short if name.startswith(("GPU-", "MIG-"))}
    problems = []
    if indices or not by_uuid:
        for name in sorted(live - indices):
            problems.append(_problem("missing", "", f"the GPU {name} is in no CDI specification"))
        for name in sorted(indices - live):
            problems.append(_gone(name))
    problems.extend(_gone(name) for name in sorted(by_uuid - uuids))
    return problems
