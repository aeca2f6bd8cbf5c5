# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unit files of services: those that are there, and what their text or description says."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from . import quadlet
from .host import ServiceHost

PLACES = ((quadlet.QUADLET_DIR, ".container"), (quadlet.SERVICE_DIR, ".service"))


def unit_files(host: ServiceHost, name: str) -> dict[str, str]:
    """The unit files of one service, by path; its socket last."""
    found: dict[str, str] = {}
    for directory, suffix in PLACES:
        path = f"{directory}/{name}{suffix}"
        with contextlib.suppress(FileNotFoundError):
            found[path] = host.path(path).read_text(errors="replace")
    with contextlib.suppress(FileNotFoundError):
        path = quadlet.socket_path(name)
        found[path] = host.path(path).read_text(errors="replace")
    return found


def unit_text(files: Mapping[str, str]) -> str:
    """The unit itself among the files of a service, empty for none."""
    return next((text for path, text in files.items() if not path.endswith(".socket")), "")


def socket_text(files: Mapping[str, str]) -> str:
    """The socket among the files of a service, empty for none."""
    return next((text for path, text in files.items() if path.endswith(".socket")), "")


def changed_keys(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The keys and podman's options whose lines differ between the files of a service, those of the new ones first."""
    old, new = ([line for text in files.values() for line in text.splitlines()] for files in (before, after))
    lines = [line for line in new if line not in old] + [line for line in old if line not in new]
    found = (re.match(r"(?:PodmanArgs=)?(--[a-z-]+|[A-Z][A-Za-z0-9]*)\b", line) for line in lines)
    return list(dict.fromkeys(key[1] for key in found if key))


def own_sockets(host: ServiceHost) -> dict[str, str]:
    """The sockets of ours, by service."""
    paths = sorted(host.path(quadlet.SERVICE_DIR).glob("*.socket"))
    texts = {path.stem: path.read_text(errors="replace") for path in paths}
    return {name: text for name, text in texts.items() if text.startswith(quadlet.HEADER)}


def own_units(host: ServiceHost, prefix: str) -> dict[str, str]:
    """The services of ours whose names begin with *prefix*, with the text of their units."""
    found: dict[str, str] = {}
    for directory, suffix in PLACES:
        for path in sorted(host.path(directory).glob(f"{prefix}*{suffix}")):
            text = path.read_text(errors="replace")
            if text.startswith(quadlet.HEADER):
                found[path.name.removesuffix(suffix)] = text
    return found


def container_name(service: str, container: Mapping[str, Any]) -> str:
    """The container of a service, whose unit has *container* as that section."""
    return str(container.get("ContainerName") or f"systemd-{service}")


def without_label(volume: str) -> str:
    """A volume without its request to relabel, for hosts that have no SELinux."""
    parts = volume.split(":")
    if len(parts) < 3:
        return volume
    options = [option for option in parts[2].split(",") if option not in ("z", "Z")]
    return ":".join(parts[:2] + ([",".join(options)] if options else []))


def mounts(volumes: Any) -> list[str]:
    """The directories of the host among the volumes of a unit."""
    listed = volumes if isinstance(volumes, (list, tuple)) else [volumes] if volumes else []
    return [source for source in (str(volume).split(":")[0] for volume in listed) if source.startswith("/")]


def devices(unit: str) -> set[str]:
    """The devices that a unit's text hands out."""
    return set(re.findall(r"(?:^AddDevice=|--device[= ])\"?([^\s\"]+)", unit, re.M))
