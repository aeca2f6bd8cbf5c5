# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What replicas and gateway of a host have by its units. Each run asks each host for it, so little is imported here."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from .._service.host import ServiceHost
from .._service.units import own_units
from .ports import held_ports

PREFIX = "triton-"
GATEWAY_PREFIX = "openai-gateway"
# Where a gateway's unit says which file it reads.
CONFIG = re.compile(r"^Exec(?:Start)?=.*\s?--config[= ]\"?(/[^\s\"]+)", re.M)
HELD_GPU = re.compile(r"(?:^AddDevice=|--device=)nvidia\.com/gpu=([\w:-]+)", re.M)


def held(host: ServiceHost) -> dict[str, Any]:
    """What `triton_held_info` tells."""
    units = own_units(host, PREFIX)
    return {"ports": held_ports(units, PREFIX), "gpus": held_gpus(units), "gateway_config": gateway_config(host)}


def held_gpus(units: Mapping[str, str]) -> dict[str, list[str]]:
    """The GPUs that replicas have, by their names, from the texts of the units of a host."""
    return {service.removeprefix(PREFIX): HELD_GPU.findall(text) for service, text in units.items()}


def gateway_config(host: ServiceHost) -> str:
    """The configuration of the host's gateway, as its file has it; empty where there is none."""
    found = (config_of(host, text) for text in own_units(host, GATEWAY_PREFIX).values())
    return next((config for config in found if config), "")


def config_of(host: ServiceHost, unit: str) -> str:
    """The configuration that a gateway's unit names; empty where it cannot be read."""
    for path in CONFIG.findall(unit):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return host.path(path).read_text(encoding="utf-8")
    return ""
