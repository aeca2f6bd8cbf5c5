# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters for the flavours of the OpenAI gateway. Their documentation is beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Callable

from ansible_collections.trtllm.fleet.plugins.module_utils._gateway import flavours, front
from ansible_collections.trtllm.fleet.plugins.plugin_utils._filters import as_filter_error


def gateway_flavour(name: str) -> dict[str, Any]:
    """A row of the table of flavours."""
    found = dataclasses.asdict(flavours.flavour_of(name))
    return {**found, "check": list(found["check"])}


def gateway_refusal(name: str, settings: Mapping[str, Any]) -> str:
    """The first thing that the flavour cannot do, as a sentence; empty where it can do all."""
    flavours.flavour_of(name)
    return next(flavours.refusals(name, settings), "")


def gateway_front(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The flavour as a service."""
    return front.front_service(name, settings)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        found = (gateway_flavour, gateway_refusal, gateway_front)
        return {work.__name__: as_filter_error(work) for work in found}
