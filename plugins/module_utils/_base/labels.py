# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The labels of our images and containers: one namespace, the collection's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

NAMESPACE = "trtllm.fleet"
# What images built by the first versions carry: they are read, so that nothing is built again for a name.
_FORMER = "org.trtllm.fleet"


def label(name: str) -> str:
    """The whole name of a label: ``inputs`` -> ``trtllm.fleet.inputs``."""
    return f"{NAMESPACE}.{name}"


def read(labels: Optional[Mapping[str, str]], name: str) -> Optional[str]:
    """The value of our label *name*, under its former name too; None where it is not there."""
    found = labels or {}
    return found.get(label(name), found.get(f"{_FORMER}.{name}"))


# From which inputs an image was built.
INPUTS = label("inputs")
