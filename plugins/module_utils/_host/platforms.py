# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which platform a host is, from the table of the role gpu_host: one row for each release of a distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Table = Mapping[str, Any]


def host_platform(system: Mapping[str, str], table: Table) -> dict[str, Any]:
    """The filter ``host_platform``: the row of a host, complete, by *system*, the ``os`` of its facts; {} for none."""
    for family, common in table["families"].items():
        if system["id"] in common["ids"]:
            version = system["version"].split(".")[0] if common["major"] else system["version"]
            name = f"{family}-{version}"
            return row(name, table) if name in table["releases"] else {}
    return {}


def row(name: str, table: Table) -> dict[str, Any]:
    """The row called *name*, such as ``ubuntu-24.04`` or ``el-9``, with what it has from its family."""
    family, _dash, version = name.partition("-")
    merged = {"driver_branches": [], **table["families"][family], **table["releases"][name]}
    files = table["managers"][merged["manager"]]
    return {
        **merged,
        "name": name,
        "family": family,
        "version": version,
        "driver_directory": merged["driver_directory"].format(version=version.replace(".", "")),
        "repository_file": files["repository"],
        "key_file": files["key"],
    }


def known(table: Table) -> str:
    """The names of all rows for a sentence, and what they stand for."""
    titles = [f"{family} is {entry['title']}" for family, entry in table["families"].items() if len(entry["ids"]) > 1]
    return ", ".join(table["releases"]) + (f" ({'; '.join(titles)})" if titles else "")
