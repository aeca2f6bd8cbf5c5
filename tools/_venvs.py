# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual environments of tools that have nothing to do with each other, kept by content in the cache directory."""

from __future__ import annotations

from pathlib import Path

from _stages import StageError  # which makes the collection known to Python
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _venv
from ansible_collections.trtllm.fleet.plugins.plugin_utils._venv import made

__all__ = ["environment", "made"]


def environment(name: str, requirements: Path) -> Path:
    """The directory of the programs of an environment with *requirements*; it is made where it is not there yet."""
    try:
        return _venv.environment(name, requirements)
    except FleetError as error:
        raise StageError(str(error)) from error
