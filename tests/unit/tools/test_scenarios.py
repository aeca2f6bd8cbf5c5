# SPDX-License-Identifier: GPL-3.0-or-later
"""Two scenarios run beside each other, so that no two may have a test host of one name, or of one address."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

SCENARIOS = sorted((Path(__file__).resolve().parents[3] / "molecule").glob("*/molecule.yml"))


@pytest.mark.parametrize("of", ["name", "ip"])
def test_no_two_scenarios_share_a_host(of: str) -> None:
    platforms = [host for path in SCENARIOS for host in yaml.safe_load(path.read_text(encoding="utf-8"))["platforms"]]
    assert len(platforms) > len(SCENARIOS) > 10
    assert [found for found, count in Counter(host[of] for host in platforms).items() if count > 1] == []
