# SPDX-License-Identifier: GPL-3.0-or-later
"""Descriptions of a host of a fleet, as short as they may be."""

from __future__ import annotations

from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST


def model(name: str = "m", engine: dict[str, Any] | None = None, **serving: Any) -> dict[str, Any]:
    return {
        "name": name,
        "checkpoint": {"source": "path", "path": f"/srv/{name}", "location": "controller", "in_place": False},
        "engine": engine or {},
        "repository": {"parameters": {}},
        "serving": {"streaming": True, "entry_model": "ensemble", "replicas": [{}], **serving},
    }


def description(*models: dict[str, Any], **extra: Any) -> dict[str, Any]:
    return {
        "trtllm_release": LAST,
        "trtllm_root": "/var/lib/trtllm",
        "trtllm_triton_address": "127.0.0.1",
        "trtllm_port_base": 8000,
        "trtllm_models": list(models),
        **extra,
    }
