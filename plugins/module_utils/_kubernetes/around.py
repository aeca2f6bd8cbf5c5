# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The volume, and what surrounds pods that serve: who may reach them, how they are measured, how many there are."""

from __future__ import annotations

from typing import Any

from .._base.errors import FleetError
from .._release.releases import release as release_of
from .._release.serve import prometheus_route
from .._triton import serve
from .objects import Item, Settings, labels, manifest, selector
from .text import Namespace, Value
from .workload import GROUP_API, GROUP_LEADERS, HTTP, Server

# What TensorRT-LLM tells of its own queue. Triton's nv_inference_queue_duration_us says nothing of it: with in-flight
# batching a request leaves Triton's queue at once.
QUEUE = {"name": "nv_trt_llm_request_metrics", "selector": {"matchLabels": {"request_type": "waiting"}}}
# One more at a time, as a pod brings a GPU with it; none goes before ten quiet minutes.
BEHAVIOUR = {
    "scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]},
    "scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}], "stabilizationWindowSeconds": 600},
}
KIND_OF = {"deployment": "Deployment", "statefulset": "StatefulSet"}
SPACE_NAME = "kubernetes.io/metadata.name"
GATEWAY = "openai-gateway"
DNS = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]


def namespace(settings: Settings) -> list[Item]:
    """The namespace, where it is to be made."""
    if not settings.create_namespace:
        return []
    return [{"apiVersion": "v1", "kind": "Namespace",
             "metadata": {"name": settings.namespace, "labels": labels("namespace", settings.namespace)}}]  # fmt: skip


def storage(settings: Settings) -> list[Item]:
    """The claim for the volume, and the volume itself where its source is given; both outlive what uses them."""
    volume = settings.volume
    if not volume.create:
        return []
    labelled, modes = labels("artefacts", volume.claim), list(volume.access_modes)
    spec: Item = {"accessModes": modes, "resources": {"requests": {"storage": volume.size}}}
    found: list[Item] = []
    if volume.source:
        name = f"{settings.namespace}-{volume.claim}"[:253]
        reference = {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "name": volume.claim,
                     "namespace": Namespace(settings.namespace)}  # fmt: skip
        found.append({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name, "labels": labelled},
            "spec": {"accessModes": modes, "capacity": {"storage": volume.size}, "claimRef": reference,
                     "persistentVolumeReclaimPolicy": "Retain", "storageClassName": volume.storage_class or "",
                     **volume.source},
        })  # fmt: skip
        spec.update(storageClassName=volume.storage_class or "", volumeName=name)
    elif volume.storage_class is not None:
        spec["storageClassName"] = Value(("storage", "className"), volume.storage_class)
    # Helm would remove the engines of all models with the release.
    keep = {"annotations": {"helm.sh/resource-policy": "keep"}}
    return [*found, manifest(settings, "v1", "PersistentVolumeClaim", volume.claim, labelled, metadata=keep, spec=spec)]


def budget(settings: Settings, name: str, labelled: dict[str, str]) -> Item:
    """One pod at a time is taken by whoever empties a node."""
    return manifest(settings, "policy/v1", "PodDisruptionBudget", name, labelled,
                    spec={"maxUnavailable": 1, "selector": {"matchLabels": selector(name)}})  # fmt: skip


def around(settings: Settings, server: Server) -> list[Item]:
    """What a server has beside its workload."""
    labelled, own = labels("triton", server.name, server.model), settings.models[server.model]
    found = [budget(settings, server.name, labelled)] if server.nodes == 1 else []
    if own.autoscaling:
        found.append(_autoscaler(settings, server, labelled))
    port, path = _measured(server)
    if settings.monitoring and path:
        found.append(_monitor(settings, server.name, labelled, port, server.nodes > 1, path))
    if settings.network_policy:
        found.append(_policy(settings, server, labelled))
    return found


def _measured(server: Server) -> tuple[str, str]:
    """The name of the port with metrics in Prometheus' format, and their route; an empty one where there are none."""
    if serve.is_served(server.replica):
        return "http", prometheus_route(release_of(str(server.replica["release"])))
    return "metrics", "/metrics"


def _autoscaler(settings: Settings, server: Server, labelled: dict[str, str]) -> Item:
    own = settings.models[server.model].autoscaling
    if serve.loads_checkpoint(server.replica):
        raise FleetError(
            f"{server.model}: autoscaling follows the requests that wait in an engine's queue, of which its flow, "
            f"{server.replica['mode']}, is not known to tell; leave autoscaling out, or set flow: engine and a release "
            "that has it."
        )
    kind, api = ("LeaderWorkerSet", GROUP_API) if server.nodes > 1 else (KIND_OF[settings.workload], "apps/v1")
    target = {"type": "AverageValue", "averageValue": str(own["waiting"])}
    spec = {
        "scaleTargetRef": {"apiVersion": api, "kind": kind, "name": server.name},
        "minReplicas": own["min"],
        "maxReplicas": own["max"],
        "metrics": [{"type": "Pods", "pods": {"metric": QUEUE, "target": target}}],
        "behavior": BEHAVIOUR,
    }
    return manifest(settings, "autoscaling/v2", "HorizontalPodAutoscaler", server.name, labelled, spec=spec)


def _monitor(
    settings: Settings, name: str, labelled: dict[str, str], port: str, leaders: bool = False, path: str = "/metrics"
) -> Item:
    match = {**selector(name), **(GROUP_LEADERS if leaders else {})}
    endpoint = {"port": port, "path": path, "interval": "15s"}
    return manifest(settings, "monitoring.coreos.com/v1", "PodMonitor", name,
                    {**labelled, **settings.monitoring["labels"]},
                    spec={"selector": {"matchLabels": match}, "podMetricsEndpoints": [endpoint]})  # fmt: skip


def monitor_gateway(settings: Settings, labelled: dict[str, str]) -> list[Item]:
    """The gateway's own metrics."""
    return [_monitor(settings, GATEWAY, labelled, "http")] if settings.monitoring else []


def _pods(name: str) -> Item:
    return {"podSelector": {"matchLabels": selector(name)}}


def _policy(settings: Settings, server: Server, labelled: dict[str, str]) -> Item:
    """Triton asks nobody for a password: the gateway reaches it, and who measures. It asks nobody but its own ranks."""
    ingress: list[Any] = [{"from": [_pods(GATEWAY)], "ports": [{"port": HTTP, "protocol": "TCP"}]}]
    egress: list[Any] = []
    port, path = _measured(server)
    if settings.monitoring and path:
        space = {"namespaceSelector": {"matchLabels": {SPACE_NAME: settings.monitoring["namespace"]}}}
        ingress.append({"from": [space], "ports": [{"port": port, "protocol": "TCP"}]})
    if server.nodes > 1:
        ingress.append({"from": [_pods(server.name)]})
        egress = [{"to": [_pods(server.name)]}, {"ports": DNS}]
    return manifest(settings, "networking.k8s.io/v1", "NetworkPolicy", server.name, labelled, spec={
        "podSelector": {"matchLabels": selector(server.name)},
        "policyTypes": ["Egress", "Ingress"], "ingress": ingress, "egress": egress,
    })  # fmt: skip
