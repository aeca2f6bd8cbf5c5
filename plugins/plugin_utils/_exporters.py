# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exporters of a host as container services: what each needs of the host, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SERVICES = {"node": "trtllm-node-exporter", "dcgm": "trtllm-dcgm-exporter"}
# The host's file systems, read only, where the exporter's own documentation has them.
HOST = "/host"


def exporter_services(images: Mapping[str, str], ports: Mapping[str, int], address: str) -> list[dict[str, Any]]:
    """The services, as M(trtllm.fleet.container_service) takes them.

    *images*: by exporter (node, dcgm) what podman calls its image, by digest; *address*: where they listen.
    """
    return [_service(name, image, int(ports[name]), address) for name, image in sorted(images.items())]


def _service(name: str, image: str, port: int, address: str) -> dict[str, Any]:
    at = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    own: dict[str, dict[str, Any]] = {
        "node": {
            "Exec": [f"--path.rootfs={HOST}", f"--web.listen-address={at}"],
            "Volume": [f"/:{HOST}:ro,rslave"],
            "PodmanArgs": ["--pid=host"],
            "DropCapability": "all",
            "SecurityLabelDisable": True,
        },
        # NVIDIA's own containers run with this right, without which profiling metrics are missing.
        "dcgm": {
            "Exec": ["-a", at],
            "AddDevice": ["nvidia.com/gpu=all"],
            "DropCapability": "all",
            "AddCapability": "SYS_ADMIN",
        },
    }
    service = SERVICES[name]
    return {
        "name": service,
        "unit": {
            "Unit": {
                "Description": f"{name} exporter",
                "Wants": "network-online.target",
                "After": "network-online.target",
            },
            "Container": {
                "ContainerName": service,
                "Image": image,
                "Pull": "never",
                "Network": "host",
                "ReadOnly": True,
                "NoNewPrivileges": True,
                **own[name],
            },
            "Service": {"Restart": "always", "RestartSec": 5},
            "Install": {"WantedBy": "multi-user.target"},
        },
        "listen": [{"address": address, "port": port, "what": f"monitoring_{name}_exporter_port"}],
        "record": {"exporter": name},
    }
