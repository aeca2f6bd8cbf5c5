# SPDX-License-Identifier: GPL-3.0-or-later
"""`make clean-demo` takes nothing from other test hosts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[3] / "tools")]
import demo

REGISTRY = "bed-registry             10.200.0.2      running    registry\n"
OWN = "demo                     10.200.0.21     running    host\n"
OTHERS = (
    "gw-1                     10.200.0.74     running    host\n"
    "gw-2                     10.200.0.75     exited     host\n"
)


@pytest.mark.parametrize(
    ("listed", "users"),
    [("", []), (REGISTRY + OWN, []), (REGISTRY + OWN + OTHERS, ["gw-1", "gw-2"]), (OTHERS, ["gw-1", "gw-2"])],
)
def test_who_else_uses_the_registry_and_the_checkpoint(listed: str, users: list[str]) -> None:
    assert demo.other_hosts_in(listed) == users


def test_both_stay_while_other_hosts_are_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(demo, "preflight", lambda: None)
    monkeypatch.setattr(demo, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(demo.Stages, "run", lambda _self, _name, argv, *_more, **_kept: ran.append(argv[1:]))
    (tmp_path / "demo" / "tiny-llama").mkdir(parents=True)

    monkeypatch.setattr(demo, "other_hosts", lambda: ["gw-1"])
    demo.down()
    assert (tmp_path / "demo").exists()
    assert "other test hosts use them (gw-1)" in capsys.readouterr().out

    monkeypatch.setattr(demo, "other_hosts", list)
    demo.down()
    assert not (tmp_path / "demo").exists()
    assert ran == [["down", "demo"], ["down", "demo", "bed-registry"]]
