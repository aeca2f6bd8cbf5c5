# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that turn the map of the fleet into what Prometheus, Alertmanager and Grafana read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.trtllm.fleet.plugins.plugin_utils import _exporters, _monitoring
from ansible_collections.trtllm.fleet.plugins.plugin_utils._description import host_value
from ansible_collections.trtllm.fleet.plugins.plugin_utils._filters import as_filter_error

ANY_ADDRESS = ("0.0.0.0", "::", "")


def monitoring_gateways(hostvars: Any, hosts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Where gateways are asked, by host."""
    found = {}
    for name in hosts:
        address = str(host_value(hostvars, name, "openai_gateway_address", "0.0.0.0"))
        reached = str(host_value(hostvars, name, "ansible_host") or name)
        found[name] = {
            "address": reached if address in ANY_ADDRESS else address,
            "port": int(host_value(hostvars, name, "openai_gateway_port", 3000)),
            "tls": bool(host_value(hostvars, name, "openai_gateway_tls_certificate")),
        }
    return found


def monitoring_hosts(hostvars: Any, hosts: Sequence[str]) -> dict[str, str]:
    """Where hosts are reached, by their names."""
    return {name: str(host_value(hostvars, name, "ansible_host") or name) for name in hosts}


class FilterModule:
    """Filters of the role monitoring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "monitoring_gateways": monitoring_gateways,
            "monitoring_hosts": monitoring_hosts,
            "exporter_services": _exporters.exporter_services,
            "monitoring_files": as_filter_error(_monitoring.files),
        }
