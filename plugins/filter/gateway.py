# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role openai_gateway. Their documentation is beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable

from ansible_collections.trtllm.fleet.plugins.module_utils._gateway import clients, mounts
from ansible_collections.trtllm.fleet.plugins.plugin_utils._filters import as_filter_error


def gateway_clients(given: Sequence[Mapping[str, Any]], keys: Sequence[str] = ()) -> str:
    """The text of the gateway's file of clients."""
    return clients.clients_file(keys, given)


def gateway_mounts(files: Sequence[str], directories: Sequence[str]) -> list[str]:
    """The volumes of the gateway's container."""
    return mounts.mounts(directories, files)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {work.__name__: as_filter_error(work) for work in (gateway_clients, gateway_mounts)}
