# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway fronts by now, from its configuration; hosts have no reader of YAML, the controller has."""

from __future__ import annotations

from typing import Any

import yaml


def gateway_config(text: Any) -> dict[str, Any] | None:
    """The configuration with its models, each with a name and urls; None where the text tells nothing of them."""
    try:
        found = yaml.safe_load(str(text or ""))
        known = all(model["name"] and list(model["urls"]) for model in found["models"])
    except (yaml.YAMLError, TypeError, KeyError):
        return None
    return dict(found) if known else None
