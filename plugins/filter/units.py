# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that turn a service described as data into unit files. Their documentation is beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Optional

from ansible.errors import AnsibleFilterError
from ansible_collections.trtllm.fleet.plugins.module_utils import _quadlet
from ansible_collections.trtllm.fleet.plugins.module_utils._errors import FleetError


def quadlet(unit: Mapping[str, Any], podman_version: Optional[str] = None, name: str = "unit") -> str:
    """The text of the unit file."""
    try:
        return _quadlet.render(name, unit, podman_version).text
    except FleetError as error:
        raise AnsibleFilterError(str(error)) from error


def quadlet_path(name: str, podman_version: Optional[str] = None) -> str:
    """The place of the unit file."""
    try:
        return _quadlet.unit_path(name, podman_version)
    except FleetError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"quadlet": quadlet, "quadlet_path": quadlet_path}
