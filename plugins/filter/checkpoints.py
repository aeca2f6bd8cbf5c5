# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role checkpoint. Their documentation is beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.election import (
    checkpoint_offer,
    having_checkpoints,
)


def offered(
    wanted: Sequence[Mapping[str, Any]], address: str, port: int, root: str, refresh: Any = False
) -> dict[str, Any]:
    """What a host needs and has. On the command line *refresh* is a word."""
    return checkpoint_offer(wanted, address, port, root, boolean(refresh, strict=False))


def checkpoint_having(before: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same host, once it has the checkpoints of *results*."""
    return having_checkpoints(before, {result["item"]["name"]: result["digest"] for result in results})


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"checkpoint_offer": offered, "checkpoint_having": checkpoint_having}
