# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the objects of a cluster share: how they are called and labelled, where artefacts are, what a pod may not do.

All of it is pure: the same description gives the same objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from .._base.errors import FleetError
from .._base.labels import NAMESPACE
from .._base.names import check_path, show
from .._host.gpu import CDI_KIND
from .names import (
    HOST,
    LABEL,
    LABEL_VALUE,
    QUANTITY,
    RESOURCE,
    SECRET_KEY,
    SUBDOMAIN,
    check,
    check_labels,
)
from .text import Namespace, Value

Item = dict[str, Any]

# The order in which what is rendered is applied; each waits for the Jobs of the one before.
FETCH, BUILD, SERVE = STAGES = ("fetch", "build", "serve")
VOLUME = "artefacts"
# The device plugin's resource is called as GPUs are in CDI.
GPU_RESOURCE = CDI_KIND
HOSTNAME, PRODUCT = "kubernetes.io/hostname", "nvidia.com/gpu.product"
DEPLOYMENT, STATEFULSET = WORKLOADS = ("deployment", "statefulset")
# Nothing of ours asks the API server, and names of Services as variables could say something to a program.
POD = {"automountServiceAccountToken": False, "enableServiceLinks": False}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True)
class Reference:
    """A key of a Secret that is in the cluster. What it holds is never read here."""

    name: str
    key: str

    @classmethod
    def of(cls, given: Optional[Mapping[str, Any]], what: str) -> Optional[Reference]:
        """The reference that was *given*, None for none."""
        if not given:
            return None
        return cls(check(given["name"], SUBDOMAIN, f"{what}.name"), check(given["key"], SECRET_KEY, f"{what}.key"))


@dataclass(frozen=True)
class Volume:
    """Where artefacts are: a claim (*create*d here, from *source* where it is given), or a directory of the nodes."""

    claim: str = ""
    create: bool = False
    size: str = ""
    storage_class: Optional[str] = None
    access_modes: tuple[str, ...] = ("ReadWriteMany",)
    source: Mapping[str, Any] = field(default_factory=dict)
    host_path: str = ""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Volume:
        """From the variable kubernetes_volume."""
        where = "kubernetes_volume"
        path = given.get("host_path")
        if path and (given.get("size") or given.get("persistent_volume")):
            raise FleetError(f"{where}.host_path is a directory of the nodes, which takes no size and no "
                             "persistent_volume; leave these out, or leave host_path out for a claim.")  # fmt: skip
        if path:
            return cls(host_path=check_path(path, f"{where}.host_path"))
        source, size = dict(given.get("persistent_volume") or {}), given.get("size")
        if len(source) > 1 or not all(isinstance(one, Mapping) for one in source.values()):
            raise FleetError(f"{where}.persistent_volume has {', '.join(map(str, source))}; give one source of a "
                             "PersistentVolume, such as {nfs: {server: ADDRESS, path: PATH}}.")  # fmt: skip
        if source and not size:
            raise FleetError(f"{where}.persistent_volume is given without size; give the size of the volume.")
        kind = given.get("storage_class")
        return cls(
            claim=check(given.get("claim"), SUBDOMAIN, f"{where}.claim"),
            create=bool(size),
            size=check(size, QUANTITY, f"{where}.size") if size else "",
            storage_class=check(kind, SUBDOMAIN, f"{where}.storage_class") if kind else kind,
            access_modes=tuple(given.get("access_modes") or ("ReadWriteMany",)),
            source=source,
        )

    def spec(self, read_only: bool) -> Item:
        """The volume of a pod."""
        if self.host_path:
            return {"name": VOLUME, "hostPath": {"path": self.host_path, "type": "DirectoryOrCreate"}}
        claim: Item = {"claimName": self.claim, **({"readOnly": True} if read_only else {})}
        return {"name": VOLUME, "persistentVolumeClaim": claim}


@dataclass(frozen=True)
class ModelSettings:
    """What a cluster says of one model."""

    gpu_product: str = ""
    gpu_resource: str = GPU_RESOURCE
    gpu_claim: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    memory: str = ""
    cpu: str = ""
    start_timeout: int = 1800
    token: Optional[Reference] = None
    autoscaling: Mapping[str, int] = field(default_factory=dict)

    @property
    def selector(self) -> dict[str, str]:
        """Which nodes it may be on."""
        product = {PRODUCT: self.gpu_product} if self.gpu_product else {}
        return {**self.node_selector, **product}


@dataclass(frozen=True)
class Settings:
    """What the role's variables say of a cluster, judged."""

    namespace: str
    root: str
    volume: Volume
    models: Mapping[str, ModelSettings]
    workload: str = STATEFULSET
    create_namespace: bool = True
    pull_secrets: tuple[str, ...] = ()
    runtime_class: str = ""
    gateway: Mapping[str, Any] = field(default_factory=dict)
    api_keys: Optional[Reference] = None
    gang: Optional[Reference] = None
    ingress: Mapping[str, Any] = field(default_factory=dict)
    route: Mapping[str, Any] = field(default_factory=dict)
    monitoring: Mapping[str, Any] = field(default_factory=dict)
    network_policy: bool = True
    templates: str = "/app/all_models"

    @classmethod
    def of(cls, given: Mapping[str, Any], root: str, names: Sequence[str]) -> Settings:
        """From the role's variables without their prefix, which have its defaults; *names* are the models'."""
        own = {str(entry["name"]): entry for entry in given.get("models") or []}
        for name in own:
            if name not in names:
                raise FleetError(f"kubernetes_models names {show(name)}, which trtllm_models does not describe; "
                                 f"it has {', '.join(names)}.")  # fmt: skip
        pulls = given.get("image_pull_secrets") or []
        runtime = given.get("runtime_class") or ""
        return cls(
            namespace=check(given["namespace"], LABEL, "kubernetes_namespace"),
            root=root,
            volume=Volume.of(given.get("volume") or {}),
            models={name: _model(name, given, own.get(name, {})) for name in names},
            workload=str(given.get("workload") or STATEFULSET),
            create_namespace=bool(given.get("create_namespace", True)),
            pull_secrets=tuple(check(one, SUBDOMAIN, "kubernetes_image_pull_secrets") for one in pulls),
            runtime_class=check(runtime, SUBDOMAIN, "kubernetes_runtime_class") if runtime else "",
            gateway=_gateway(given.get("gateway") or {}),
            api_keys=Reference.of(given.get("api_keys_secret"), "kubernetes_api_keys_secret"),
            gang=Reference.of(given.get("gang_secret"), "kubernetes_gang_secret"),
            ingress=_ingress(given.get("ingress") or {}),
            route=_route(given.get("route") or {}),
            monitoring=_monitoring(given.get("monitoring") or {}),
            network_policy=bool(given.get("network_policy", True)),
            templates=check_path(given.get("templates") or "/app/all_models", "kubernetes_templates"),
        )


def _model(name: str, given: Mapping[str, Any], own: Mapping[str, Any]) -> ModelSettings:
    """What holds for all models, and what one has of its own."""

    def first(key: str, default: Any) -> Any:
        values = (source.get(key) for source in (own, given))
        return next((value for value in values if value is not None), default)

    where = f"kubernetes_models, {name}: "
    limits = {key: check(str(own[key]), QUANTITY, f"{where}{key}") for key in ("memory", "cpu") if own.get(key)}
    product, claim = first("gpu_product", ""), first("gpu_claim", "")
    return ModelSettings(
        gpu_product=check(product, LABEL_VALUE, f"{where}gpu_product"),
        gpu_resource=check(first("gpu_resource", GPU_RESOURCE), RESOURCE, f"{where}gpu_resource"),
        gpu_claim=check(claim, SUBDOMAIN, f"{where}gpu_claim") if claim else "",
        node_selector=check_labels(first("node_selector", {}), f"{where}node_selector"),
        tolerations=tuple(dict(one) for one in first("tolerations", ())),
        start_timeout=int(first("start_timeout", 1800)),
        token=Reference.of(first("token_secret", None), f"{where}token_secret"),
        autoscaling=_autoscaling(own.get("autoscaling") or {}, where),
        **limits,
    )


def _autoscaling(given: Mapping[str, Any], where: str) -> dict[str, int]:
    if not given:
        return {}
    found = {key: int(given[key]) for key in ("min", "max", "waiting")}
    if not 1 <= found["min"] <= found["max"] or found["waiting"] < 1:
        raise FleetError(f"{where}autoscaling has min {found['min']}, max {found['max']} and waiting "
                         f"{found['waiting']}; give 1 <= min <= max, and at least one waiting request.")  # fmt: skip
    return found


def _gateway(given: Mapping[str, Any]) -> Item:
    found: Item = {"replicas": int(given.get("replicas") or 2)}
    for key in ("cpu", "memory"):
        if given.get(key):
            found[key] = check(str(given[key]), QUANTITY, f"kubernetes_gateway.{key}")
    return found


def _ingress(given: Mapping[str, Any]) -> Item:
    if not given:
        return {}
    found = {"host": check(given.get("host"), HOST, "kubernetes_ingress.host")}
    for key, option in (("class_name", "class"), ("tls_secret", "tls_secret")):
        if given.get(option):
            found[key] = check(given[option], SUBDOMAIN, f"kubernetes_ingress.{option}")
    return {**found, "annotations": _annotations(given.get("annotations") or {})}


def _annotations(given: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(given[key]) for key in sorted(given, key=str)}


def _route(given: Mapping[str, Any]) -> Item:
    if not given:
        return {}
    found = {"gateway": check(given.get("gateway"), SUBDOMAIN, "kubernetes_route.gateway")}
    if given.get("host"):
        found["host"] = check(given["host"], HOST, "kubernetes_route.host")
    if given.get("namespace"):
        found["namespace"] = check(given["namespace"], LABEL, "kubernetes_route.namespace")
    return found


def _monitoring(given: Mapping[str, Any]) -> Item:
    if not given:
        return {}
    space = check(given.get("namespace"), LABEL, "kubernetes_monitoring.namespace")
    return {"namespace": space, "labels": check_labels(given.get("labels") or {}, "kubernetes_monitoring.labels")}


# -- objects ---------------------------------------------------------------------------------------------------------


def labels(component: str, name: str, model: str = "") -> dict[str, str]:
    """What an object and its pods are found by."""
    return {
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": NAMESPACE,
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/part-of": NAMESPACE,
        **({f"{NAMESPACE}/model": model} if model else {}),
    }


def selector(name: str) -> dict[str, str]:
    """The labels by which pods are selected, which an object can never change."""
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": NAMESPACE}


def manifest(settings: Settings, api: str, kind: str, name: str, labelled: Mapping[str, str], **body: Any) -> Item:
    """One object of the namespace."""
    metadata: Item = {"name": name, "namespace": Namespace(settings.namespace), "labels": dict(labelled)}
    metadata.update(body.pop("metadata", {}))
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **body}


def config_map(settings: Settings, name: str, labelled: Mapping[str, str], **data: Any) -> Item:
    """A ConfigMap whose name follows from its content, so that pods that run keep theirs."""
    return manifest(settings, "v1", "ConfigMap", name, labelled, immutable=True, **data)


def pod_spec(settings: Settings, model: Optional[ModelSettings], key: Sequence[str]) -> Item:
    """What all pods have; *key* leads to what the chart's user may change of where they run."""
    spec: Item = dict(POD)
    if settings.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.pull_secrets]
    if model is not None:
        spec["nodeSelector"] = Value((*key, "nodeSelector"), dict(model.selector))
        spec["tolerations"] = Value((*key, "tolerations"), [dict(one) for one in model.tolerations])
    return spec


def gpus_of(settings: Settings, model: ModelSettings, spec: Item, container: Item, name: str, count: int) -> None:
    """Give a container its GPUs, as a resource of the node or by a claim; nothing else makes the device visible."""
    if not count:
        return
    if settings.runtime_class:
        spec["runtimeClassName"] = settings.runtime_class
    resources = container.setdefault("resources", {})
    if model.gpu_claim:
        spec["resourceClaims"] = [{"name": "gpus", "resourceClaimTemplateName": name}]
        resources["claims"] = [{"name": "gpus"}]
    else:
        resources.setdefault("limits", {})[model.gpu_resource] = str(count)


def claim_template(
    settings: Settings, model: ModelSettings, name: str, labelled: Mapping[str, str], count: int
) -> Item:
    """The claim for the GPUs of a pod (dynamic resource allocation, from Kubernetes 1.34 on)."""
    exactly: Item = {"deviceClassName": model.gpu_claim, "count": count}
    requests = [{"name": "gpus", "exactly": exactly}]
    return manifest(settings, "resource.k8s.io/v1", "ResourceClaimTemplate", name, labelled,
                    spec={"spec": {"devices": {"requests": requests}}})  # fmt: skip
