# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role triton_image. Their documentation is beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Callable, Optional

from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fingerprint import fingerprint
from ansible_collections.trtllm.fleet.plugins.module_utils._release.images import source_of
from ansible_collections.trtllm.fleet.plugins.plugin_utils._filters import as_filter_error


def image_source(release: str, machine: str, given: Optional[Mapping[str, Any]] = None) -> dict[str, Any]:
    """What the image of a release is built from on a machine, and the fingerprint of that."""
    found = dataclasses.asdict(source_of(release, machine))
    asked = {key: value for key, value in (given or {}).items() if value and key != "mirrors"}
    arguments = {**found["build_args"], **asked.pop("build_args", {})}
    found.update(asked, build_args=arguments)
    return {**found, "inputs": fingerprint({**found, "machine": machine})}


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"image_source": as_filter_error(image_source)}
