# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rollout is told is judged before it begins, in one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.options import OPTIONS, check_options
from ansible_collections.trtllm.fleet.plugins.plugin_utils._role_values import check_given

# As values of an inventory, and as -e of the command line gives them.
TAKEN: dict[str, tuple[Any, ...]] = {
    "rollout_serial": (1, "2", "25%", [1, "25%"], ["100%"]),
    "rollout_gateway_serial": (1, "100%", [1, 2]),
    "rollback_serial": (1, "3", "50%"),
    "rollout_max_failed": (0, "0", 2, "2"),
    "rollout_min_available": (0, 1, "1"),
    "rollout_drain_timeout": (0, 120, "45"),
    "rollout_drain_lease": (0, 900, "45"),
    "rollout_gate_timeout": (60, "0.5", 2.5),
    "rollout_stop_for_build": (True, False, "false", "yes"),
    "rollout_prunes": (True, False, "False", "1"),
    "rollout_gateways_first": (True, False, "False", "1"),
}
REFUSED: dict[str, tuple[Any, ...]] = {
    "rollout_serial": ("many", 0, "0%", "101%", [], [1, "x"], True, -1, {}),
    "rollout_gateway_serial": ("many", 0, [], True),
    "rollback_serial": ("many", 0, [1], "-1"),
    "rollout_max_failed": ("many", -1, "-1", "", True, 1.5, "10%", []),
    "rollout_min_available": ("two", -1, "", True, "50%"),
    "rollout_drain_timeout": ("long", -1, "1m", True, 1.5, []),
    "rollout_drain_lease": ("long", -1, "15m", True, "9" * 12),
    "rollout_gate_timeout": ("long", 0, "0.0", -1, True, "nan", "inf"),
    "rollout_stop_for_build": ("maybe", 2, "", []),
    "rollout_prunes": ("never", {}),
    "rollout_gateways_first": ("never", {}),
}


def pairs(values: dict[str, tuple[Any, ...]]) -> list[tuple[str, Any]]:
    return [(option, value) for option, some in values.items() for value in some]


def test_every_option_is_tried() -> None:
    assert set(TAKEN) == set(REFUSED) == set(OPTIONS)


@pytest.mark.parametrize(("option", "value"), pairs(TAKEN))
def test_what_an_option_takes_passes(option: str, value: Any) -> None:
    check_options({option: value, "rollout_journal": "/j"})
    check_options({option: None})


@pytest.mark.parametrize(("option", "value"), pairs(REFUSED))
def test_what_it_does_not_take_is_refused_with_what_to_give(option: str, value: Any) -> None:
    with pytest.raises(FleetError, match=rf"^{option} (is|has) .*; give [^.]*\.$"):
        check_options({option: value})


def test_they_are_judged_with_the_description_of_the_fleet() -> None:
    """By every playbook that begins with it, as far as they are no templates."""
    with pytest.raises(FleetError, match=r"^rollout_max_failed is 'many'; give a number of hosts, 0 or more\.$"):
        check_given({"rollout_max_failed": "many"})
    check_given({"rollout_max_failed": "{{ groups.gpu_hosts | length // 4 }}"})


def test_the_playbooks_and_the_documentation_know_each(repo_dir: Path) -> None:
    """None is judged that nobody reads, and none of these that take a value of some form is left out."""
    used = "\n".join(path.read_text() for path in sorted((repo_dir / "playbooks").rglob("*.yml")))
    told = (repo_dir / "docs" / "rollout.md").read_text()
    for option in OPTIONS:
        assert re.search(rf"\b{option} \|", used) and f"`{option}`" in told, option
    other = {"rollout_journal", "rollout_take_over", "rollback_replicas", "rollback_models", "rollback_to"}
    given = set(re.findall(r"^#\s+-e '?\{?\"?(roll(?:out|back)_\w+)", used, re.MULTILINE))
    assert given - other <= set(OPTIONS) and given
