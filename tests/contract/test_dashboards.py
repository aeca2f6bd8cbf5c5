# SPDX-License-Identifier: GPL-3.0-or-later
"""Dashboards against Grafana's own types: its SDK for Go, which is generated from the schema of its panels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.plugin_utils._dashboards import ALL, dashboards

HERE = Path(__file__).with_name("grafana")
SDK = "github.com/grafana/grafana-foundation-sdk/go"
LEAST = (1, 22)
Board = dict[str, Any]


def go(*words: str | Path) -> str:
    done = subprocess.run(["go", *map(str, words)], cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def has_go() -> bool:
    if not shutil.which("go"):
        return False
    version = re.search(r"go(\d+)\.(\d+)", go("version"))
    return version is not None and (int(version[1]), int(version[2])) >= LEAST


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_go(), reason="Grafana's types are in Go; install Go 1.22 or newer to read them"),
]


@pytest.fixture(scope="module", name="read")
def read_(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Board], list[str]]:
    """What is wrong with a dashboard."""
    scratch = tmp_path_factory.mktemp("grafana")
    go("build", "-mod=readonly", "-o", scratch / "read", ".")
    source = go("list", "-m", "-f", "{{.Dir}}", SDK)

    def read(board: Board) -> list[str]:
        path = scratch / "board.json"
        path.write_text(json.dumps(board))
        done = subprocess.run([scratch / "read", source, path], capture_output=True, text=True, check=False)
        assert not done.stderr and bool(done.stdout) == bool(done.returncode), done.stderr
        return done.stdout.splitlines()

    return read


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_dashboard_is_what_grafana_reads(read: Callable[[Board], list[str]], name: str) -> None:
    assert read(dashboards()[name]) == []


def panel(number: int, *where: str) -> Callable[[Board], Any]:
    """A part of a panel, and in it the first of a list."""

    def part(board: Board) -> Any:
        found = board["panels"][number]
        for name in where:
            found = found[name][0] if isinstance(found[name], list) else found[name]
        return found

    return part


SERIES = next(n for n, one in enumerate(dashboards()["model"]["panels"]) if one["type"] == "timeseries")


@pytest.mark.parametrize(
    "part, wrong, says",
    [
        (panel(SERIES), {"colour": "red"}, "unexpected field 'colour'"),
        (panel(SERIES), {"type": "timeserie"}, "there is no panel timeserie"),
        (panel(SERIES, "gridPos"), {"w": 30}, "gridPos.w: must be <= 24"),
        (panel(SERIES, "gridPos"), {"w": "8"}, "cannot unmarshal string"),
        (panel(SERIES, "targets"), {"query": "up"}, "unexpected field 'query'"),
        (panel(SERIES, "options", "tooltip"), {"mode": "many"}, "tooltip/mode: many is none of its words"),
        (panel(SERIES, "fieldConfig", "defaults", "custom"), {"drawStyle": "zigzag"}, "zigzag is none of its words"),
        (lambda board: board["links"][0], {"icon": None}, "links[0].icon: required field is null"),
        (lambda board: board["templating"]["list"][0], {"type": "choice"}, "choice is none of its words"),
        (lambda board: board, {"refresh": 30}, "refresh: json: cannot unmarshal number"),
    ],
)
def test_what_grafana_does_not_know_is_found(
    read: Callable[[Board], list[str]], part: Callable[[Board], Any], wrong: Board, says: str
) -> None:
    board = dashboards()["model"]
    part(board).update(wrong)
    assert says in " ".join(read(board))
