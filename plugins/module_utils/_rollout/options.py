# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What rollout.yml and rollback.yml may be told, judged before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Callable

from .._base.errors import FleetError
from .._base.names import show

# As the filter bool of Ansible reads them; anything else is false to it.
FLAGS = ("true", "false", "yes", "no", "on", "off", "1", "0")


def count_of(count: Any, option: str, of: str) -> int:
    """A number, as it was given: with ``-e`` of Ansible's command line it is a text."""
    if isinstance(count, bool) or not re.fullmatch(r"\d{1,6}", str(count).strip(), re.ASCII):
        raise FleetError(f"{option} is {show(count)}; give a number of {of}, 0 or more.")
    return int(count)


def size_of(count: Any, total: int, option: str) -> int:
    """A number of hosts, or a share of *total*, rounded down, of at least one host."""
    found = None if isinstance(count, bool) else re.fullmatch(r"(\d{1,6})(\s*%)?", str(count).strip(), re.ASCII)
    if not found or int(found[1]) == 0 or (found[2] and int(found[1]) > 100):
        raise FleetError(f"{option} has {show(count)}; give a number of hosts from 1 on, or a share such as 25%.")
    return max(1, total * int(found[1]) // 100) if found[2] else int(found[1])


def _size(value: Any, option: str) -> None:
    size_of(value, 1, option)


def _sizes(value: Any, option: str) -> None:
    for size in value if isinstance(value, (list, tuple)) and value else [value]:
        size_of(size, 1, option)


def _hosts(value: Any, option: str) -> None:
    count_of(value, option, "hosts")


def _replicas(value: Any, option: str) -> None:
    count_of(value, option, "replicas")


def _seconds(value: Any, option: str) -> None:
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,9}", str(value).strip(), re.ASCII):
        raise FleetError(f"{option} is {show(value)}; give whole seconds, 0 or more.")


def _wait(value: Any, option: str) -> None:
    text = "" if isinstance(value, bool) else str(value).strip()
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) or not float(text):
        raise FleetError(f"{option} is {show(value)}; give seconds, more than 0.")


def _flag(value: Any, option: str) -> None:
    if str(value).strip().lower() not in FLAGS:
        raise FleetError(f"{option} is {show(value)}; give true or false.")


# By variable what it takes. None is one that was not given.
OPTIONS: Mapping[str, Callable[[Any, str], None]] = MappingProxyType({
    "rollout_serial": _sizes,
    "rollout_gateway_serial": _sizes,
    "rollback_serial": _size,
    "rollout_max_failed": _hosts,
    "rollout_min_available": _replicas,
    "rollout_drain_timeout": _seconds,
    "rollout_drain_lease": _seconds,
    "rollout_gate_timeout": _wait,
    "rollout_stop_for_build": _flag,
    "rollout_prunes": _flag,
    "rollout_gateways_first": _flag,
})  # fmt: skip


def check_options(given: Mapping[str, Any]) -> None:
    """Refuse, with `FleetError`, what an option of a rollout cannot be; *given* may hold other variables too."""
    for option, judge in OPTIONS.items():
        if given.get(option) is not None:
            judge(given[option], option)
