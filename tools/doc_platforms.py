# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of platforms, as the roles' metadata and the documentation have it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from _stages import REPO
from ansible_collections.trtllm.fleet.plugins.module_utils._base.versions import version_key
from ansible_collections.trtllm.fleet.plugins.module_utils._host.platforms import row
from ansible_collections.trtllm.fleet.plugins.module_utils._service.quadlet_keys import FIRST_QUADLET, OLDEST

TABLE = REPO / "roles" / "gpu_host" / "vars" / "main.yml"
ROLES = ("gpu_host", "podman", "gpu_driver", "container_toolkit")
PAGES = ("docs/gpu-hosts.md", *(f"roles/{role}/README.md" for role in ROLES))
# From this podman on, all keys of a unit are Quadlet's own.
ALL_KEYS = (5, 0)


def rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All platforms, complete, in the order of the table."""
    return [row(name, table) for name in table["releases"]]


def metadata(text: str, table: Mapping[str, Any]) -> str:
    """*text* of a role's meta/main.yml with the platforms of the table."""
    versions: dict[str, list[str]] = {}
    for platform in rows(table):
        release = str(platform["release"])
        versions.setdefault(platform["galaxy"], []).append(f'"{release}"' if release.isdigit() else release)
    lines = [f"    - name: {name}\n      versions: [{', '.join(found)}]\n" for name, found in versions.items()]
    return re.sub(r"(?ms)^  platforms:\n.*?(?=^\S)", "  platforms:\n" + "".join(lines), text)


def podman_of(platform: Mapping[str, Any]) -> str:
    """What the distribution's own podman gives."""
    key = version_key(platform["podman"])
    what = "everything" if key >= ALL_KEYS else "Quadlet" if key >= FIRST_QUADLET else "CDI, plain units"
    return f"{platform['podman']}: {what if key >= OLDEST else 'too old for CDI; bring a newer one'}"


def driver_of(platform: Mapping[str, Any]) -> str:
    """What the distribution's own archive has of the driver."""
    branches = ", ".join(platform["driver_branches"])
    return f"branch {branches}" if branches else str(platform["driver_archive"])


def listing(table: Mapping[str, Any]) -> str:
    """The platforms in one line."""
    versions: dict[str, list[str]] = {}
    for platform in rows(table):
        versions.setdefault(platform["title"], []).append(platform["version"])
    return "; ".join(f"{title} {', '.join(found)}" for title, found in versions.items())


def overview(table: Mapping[str, Any]) -> str:
    """One row for each platform."""
    head = "| | driver from NVIDIA's repository | driver from the distribution | podman of the distribution |\n"
    return f"{head}|---|---|---|---|\n" + "".join(
        f"| {platform['title']} {platform['version']} | yes, {platform['driver_build']} | {driver_of(platform)} "
        f"| {podman_of(platform)} |\n"
        for platform in rows(table)
    )


def page(text: str, table: Mapping[str, Any]) -> str:
    """*text* of a page with what stands between its marks written anew."""
    for mark, part in (("platforms", f"\n{overview(table)}"), ("platform list", listing(table))):
        pattern = rf"(?s)(<!-- {mark} -->).*?(<!-- /{mark} -->)"
        text = re.sub(pattern, rf"\g<1>{part}\g<2>", text)
    return text


def platform_texts() -> dict[Path, str]:
    """The files that name platforms, as the table wants them."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))["gpu_host_platforms"]
    found = {}
    for role in ROLES:
        path = REPO / "roles" / role / "meta" / "main.yml"
        found[path] = metadata(path.read_text(encoding="utf-8"), table)
    for name in PAGES:
        path = REPO / name
        found[path] = page(path.read_text(encoding="utf-8"), table)
    return found
