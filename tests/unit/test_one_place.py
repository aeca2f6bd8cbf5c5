# SPDX-License-Identifier: GPL-3.0-or-later
"""Base pieces exist once: a copy drifts, and then two parts of the collection say different things of one host."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


@pytest.mark.parametrize(
    ("what", "pattern", "rooms"),
    [
        ("units of size", r"^(KIB|MIB|GIB)\b.*=", ["_base/sizes.py"]),
        ("running nvidia-smi", r"""["']nvidia-smi["']""", ["_host/nvidia_smi.py"]),
        ("free memory", r"""["'(]/proc/meminfo""", ["_host/base.py"]),
        ("free disk", r"\bstatvfs\(|\bdisk_usage\(Path|shutil\.disk_usage", ["_host/system.py"]),
        ("parsing versions", r"""int\(\w+\) for \w+ in .*split\(["']\.["']\)""", ["_base/versions.py"]),
        ("where commands are", r"/usr/local/sbin:", ["_base/command.py"]),
        ("the CDI kind of GPUs", r"""["']nvidia\.com/gpu["']""", ["_host/gpu.py"]),
    ],
)
def test_one_room(what: str, pattern: str, rooms: list[str]) -> None:
    found = {
        str(path.relative_to(PLUGINS / "module_utils"))
        for path in PLUGINS.rglob("*.py")
        if re.search(pattern, path.read_text(), re.MULTILINE)
    }
    assert sorted(found) == rooms, f"{what} stands in {', '.join(sorted(found))}"
