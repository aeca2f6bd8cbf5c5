# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role triton_image. Their documentation is beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Callable, Optional

from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fingerprint import fingerprint
from ansible_collections.trtllm.fleet.plugins.module_utils._release.images import ORGANIZATION, server_build, source_of
from ansible_collections.trtllm.fleet.plugins.plugin_utils._filters import as_filter_error


def image_source(release: str, machine: str, given: Optional[Mapping[str, Any]] = None) -> dict[str, Any]:
    """What the image of a release is built from on a machine, and the fingerprint of that."""
    found = dataclasses.asdict(source_of(release, machine))
    asked = {key: value for key, value in (given or {}).items() if value and key != "mirrors"}
    arguments = {**found["build_args"], **asked.pop("build_args", {})}
    found.update(asked, build_args=arguments)
    return {**found, "inputs": fingerprint({**found, "machine": machine})}


def image_server(release: str, machine: str, given: Optional[Mapping[str, Any]] = None) -> dict[str, Any]:
    """How Triton's server builds the image of a release on a machine, and the fingerprint of that."""
    asked = {key: value for key, value in (given or {}).items() if value}
    organization = next(
        (ORGANIZATION.replace(url, place, 1) for url, place in asked.get("mirrors", {}).items()
         if ORGANIZATION.startswith(url)), "",
    )  # fmt: skip
    base = asked.get("base", f"localhost/trtllm_base:{release}")
    server = dataclasses.asdict(server_build(release, base, asked.get("version", ""), organization))
    backend = image_source(release, machine, {key: asked.get(key) for key in ("repository", "version")})
    found = {
        "repository": backend["repository"],
        "version": backend["version"],
        "containerfile": asked.get("containerfile") or server["containerfile"],
        "build_args": {**server["build_args"], **asked.get("build_args", {})},
        "target": None,
        "base": server["base"],
        "server": {"repository": server["repository"], "version": server["version"]},
        "options": list(server["options"]),
    }
    return {**found, "inputs": fingerprint({**found, "machine": machine})}


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {work.__name__: as_filter_error(work) for work in (image_source, image_server)}
