# SPDX-License-Identifier: GPL-3.0-or-later
"""What rows look at and do where the replica and the gateway serve."""

from __future__ import annotations

from .blows import until

UNIT = "/etc/containers/systemd/triton-tiny-llama-0.container"
SERVICE = "triton-tiny-llama-0.service"
ACTIVE = f"systemctl is-active {SERVICE} openai-gateway.service"
STARTING = until(f"systemctl is-active {SERVICE} | grep -q '^activating'", 90) + " && "
STARTS = r"TASK \[trtllm.fleet.triton : Ensure that the replicas run"
BEGINS = f"systemctl stop {SERVICE}; "
CDI = 'sed -i.faults \'s/name: "0"/name: "7"/; s/name: 0$/name: 7/\' /etc/cdi/nvidia.yaml'
CDI_RIGHT = "mv /etc/cdi/nvidia.yaml.faults /etc/cdi/nvidia.yaml"
LISTENER = "systemd-run --unit=faults-listener --collect python3 -m http.server {} --bind 0.0.0.0; sleep 1"
HEALS = (
    "for i in $(seq 120); do curl -fsS -m 5 -o /dev/null http://$(hostname -i | cut -d' ' "
    "-f1):8000/v2/health/ready && exit 0;"
    " sleep 0.5; done; exit 1"
)
