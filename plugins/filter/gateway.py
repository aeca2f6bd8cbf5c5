# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role openai_gateway. Their documentation is beside them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway import clients, mounts
from ansible_collections.trtllm.fleet.plugins.plugin_utils._description import addresses_of, host_value
from ansible_collections.trtllm.fleet.plugins.plugin_utils._filters import as_filter_error


def gateway_clients(given: Sequence[Mapping[str, Any]], keys: Sequence[str] = ()) -> str:
    """The text of the gateway's file of clients."""
    return clients.clients_file(keys, given)


def gateway_mounts(files: Sequence[str], directories: Sequence[str]) -> list[str]:
    """The volumes of the gateway's container."""
    return mounts.mounts(directories, files)


def gateway_addresses(gateways: Sequence[str], hostvars: Any) -> list[str]:
    """The addresses from which gateways ask replicas of other hosts."""
    found: dict[str, None] = {}
    for name in gateways:
        reached_at = str(host_value(hostvars, name, "ansible_host") or name)
        addresses = [reached_at] if _is_address(reached_at) else addresses_of(reached_at)
        if not addresses:
            raise FleetError(
                f"The inventory reaches the gateway {name} at {reached_at}, which has no address here; set "
                f"ansible_host of {name} to the address from which it asks Triton."
            )
        own = host_value(hostvars, name, "trtllm_node_address")
        found.update(dict.fromkeys([*addresses, *([str(own)] if own else [])]))
    return list(found)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {work.__name__: as_filter_error(work) for work in (gateway_addresses, gateway_clients, gateway_mounts)}
