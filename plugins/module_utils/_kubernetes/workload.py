# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pods that serve: the command, the probes and the scripts of a replica on a host, in a Deployment or StatefulSet,
or where its ranks are on several nodes in a LeaderWorkerSet.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._base.errors import FleetError
from .._base.labels import NAMESPACE
from .._base.names import show
from .._release.releases import release as release_of
from .._release.serve import caches
from .._triton import disaggregated, gang, serve
from .._triton import launch as triton_launch
from .._triton import replica as triton
from .names import bytes_of, literal, name_of, quantity
from .objects import (
    CONTAINER_SECURITY,
    DEPLOYMENT,
    HOSTNAME,
    VOLUME,
    Item,
    ModelSettings,
    Settings,
    claim_template,
    config_map,
    gpus_of,
    labels,
    manifest,
    pod_spec,
    selector,
)
from .text import Value

HTTP, GRPC, METRICS = 8000, 8001, 8002
PORTS = (("http", HTTP), ("grpc", GRPC), ("metrics", METRICS))
CONTAINER = "triton"
SCRIPTS, SHM, SECRET, CACHE = "scripts", "shm", "gang", "cache"
GROUP_SCRIPT = "group.py"
# Seconds that a Service takes to forget a pod that ends, and that a pod gets beyond the time of its requests.
FORGET, SLACK = 15, 15
# Seconds after which the probe of a start gives up on a server that does not answer yet, to be asked again.
PATIENCE = 20
# Where a read-only root needs a place to write.
WRITTEN = ("/tmp", "/run")
# Asks no engine, so that it comes as soon as there is one: how often, in seconds, and how long the pod has waited.
WAIT = (
    'n=0; until [ -e "$1" ]; do [ $((n % 60)) = 0 ] && echo "waiting for $1, which a Job of this release makes"; '
    "n=$((n + 5)); sleep 5; done"
)
# The pods of a group are one server: they begin, end and move to another version together.
GROUP_API = "leaderworkerset.x-k8s.io/v1"
GROUP_LEADERS = {"leaderworkerset.sigs.k8s.io/worker-index": "0"}


@dataclass(frozen=True)
class Server:
    """Replicas that are alike: one workload. *link*: what a pod waits for, empty where no Job makes it.

    *replica*: as `replica.served` has it, with the paths of its repository and checkpoint.
    """

    name: str
    model: str
    replica: Mapping[str, Any]
    count: int
    link: str = ""
    hosts: tuple[str, ...] = ()

    @property
    def nodes(self) -> int:
        """The pods of one replica."""
        return len(self.replica.get("nodes") or []) or 1


def servers(model: str, replicas: Sequence[Mapping[str, Any]], link: str, hosts: Sequence[str] = ()) -> list[Server]:
    """The replicas of a model, those that are alike together, in the order of the first of each."""
    groups: list[list[Mapping[str, Any]]] = []
    for replica in replicas:
        for group in groups:
            if _face(group[0]) == _face(replica):
                group.append(replica)
                break
        else:
            groups.append([replica])
    names = [name_of("triton", model)] if len(groups) == 1 else [name_of("triton", one[0]["name"]) for one in groups]
    times = len(hosts) or 1
    return [
        Server(name, model, {**group[0], "name": model}, len(group) * times, link, tuple(sorted(hosts)))
        for name, group in zip(names, groups)
    ]


def _face(replica: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two replicas differ in a cluster, where each pod has its own ports and GPUs."""
    without = ("name", "gpus", "gang_port", "http_port", "grpc_port", "metrics_port", "index", *disaggregated.KINDS)
    face = {key: value for key, value in replica.items() if key not in without}
    kinds = {kind: [len(server) for server in replica.get(kind) or []] for kind in disaggregated.KINDS}
    return {**face, **kinds, "gpus": len(replica.get("gpus") or [])}


def ports(replica: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The ports of a pod, by name."""
    return [PORTS[0]] if serve.is_served(replica) else [*PORTS]


def urls(settings: Settings, server: Server) -> list[str]:
    """Where the gateway asks: each pod by its name where pods have names."""
    own = settings.models[server.model]
    if settings.workload == DEPLOYMENT and server.nodes == 1:
        return [f"http://{server.name}:{HTTP}"]
    most = own.autoscaling.get("max", server.count)
    return [f"http://{server.name}-{number}.{server.name}:{HTTP}" for number in range(most)]


def scripts(settings: Settings, server: Server) -> Item:
    """The programs beside Triton, those of the role triton."""
    texts = {name: f"{text}\n" for name, text in server.replica["scripts"].items()}
    return config_map(settings, _scripts_name(server), labels("triton", "triton-scripts"), data=texts)


def _scripts_name(server: Server) -> str:
    return f"triton-scripts-{posixpath.basename(triton.scripts_dir(server.replica))}"


def workload(settings: Settings, server: Server, notes: Mapping[str, str]) -> list[Item]:
    """The workload, its Service, and what they need; *notes* are annotations of the pods."""
    labelled = labels("triton", server.name, server.model)
    own = settings.models[server.model]
    found = [scripts(settings, server)]
    gpus = len(server.replica.get("gpus") or [])
    if own.gpu_claim and gpus:
        found.append(claim_template(settings, own, server.name, labelled, gpus))
    if server.nodes > 1:
        return [*found, _group(settings, server, labelled, notes)]
    return [*found, _service(settings, server, labelled), _set(settings, server, labelled, notes)]


def _service(settings: Settings, server: Server, labelled: Mapping[str, str]) -> Item:
    listed = [{"name": name, "port": port, "targetPort": name} for name, port in ports(server.replica)]
    # Without an address of its own each pod has a name, and the gateway chooses among them.
    headless: Item = {} if settings.workload == DEPLOYMENT else {"clusterIP": "None"}
    return manifest(settings, "v1", "Service", server.name, labelled,
                    spec={**headless, "ports": listed, "selector": selector(server.name)})  # fmt: skip


def _replicas(settings: Settings, server: Server) -> Item:
    """How many, unless something else decides it."""
    if settings.models[server.model].autoscaling:
        return {}
    return {"replicas": Value((*_key(server), "replicas"), server.count)}


def _key(server: Server) -> tuple[str, str]:
    return ("servers", server.name)


def _set(settings: Settings, server: Server, labelled: Mapping[str, str], notes: Mapping[str, str]) -> Item:
    spec: Item = {
        **_replicas(settings, server),
        "revisionHistoryLimit": 5,
        "selector": {"matchLabels": selector(server.name)},
        "template": pod(settings, server, labelled, notes),
    }
    # There is rarely a GPU to spare: a pod goes before the one that takes its place comes.
    if settings.workload == DEPLOYMENT:
        spec["strategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
        spec["progressDeadlineSeconds"] = settings.models[server.model].start_timeout + 600
        return manifest(settings, "apps/v1", "Deployment", server.name, labelled, spec=spec)
    spec.update(serviceName=server.name, podManagementPolicy="Parallel", updateStrategy={"type": "RollingUpdate"})
    return manifest(settings, "apps/v1", "StatefulSet", server.name, labelled, spec=spec)


def _group(settings: Settings, server: Server, labelled: Mapping[str, str], notes: Mapping[str, str]) -> Item:
    """A server whose ranks are on several nodes. A group that lost a pod begins anew as a whole."""
    if settings.gang is None:
        raise FleetError(f"{server.model}: its ranks are on {server.nodes} nodes, which trust each other by a secret; "
                         "make a Secret in the cluster and name it in kubernetes_gang_secret.")  # fmt: skip
    template: Item = {
        "size": server.nodes,
        "restartPolicy": "RecreateGroupOnPodRestart",
        "leaderTemplate": pod(settings, server, labelled, notes),
        "workerTemplate": pod(settings, server, labelled, notes, worker=True),
    }
    rolling = {"type": "RollingUpdate", "rollingUpdateConfiguration": {"maxSurge": 0, "maxUnavailable": 1}}
    return manifest(settings, GROUP_API, "LeaderWorkerSet", server.name, labelled,
                    spec={**_replicas(settings, server), "leaderWorkerTemplate": template, "rolloutStrategy": rolling,
                          "startupPolicy": "LeaderCreated"})  # fmt: skip


def pod(
    settings: Settings, server: Server, labelled: Mapping[str, str], notes: Mapping[str, str], worker: bool = False
) -> Item:
    """The template of the pods."""
    replica, own = server.replica, settings.models[server.model]
    spec = pod_spec(settings, own, _key(server))
    volumes, mounts = _volumes(settings, server)
    container: Item = {
        "name": CONTAINER,
        "image": str(replica["image"]),
        "command": [literal(word) for word in command(server, worker)],
        "env": [{"name": key, "value": literal(value)} for key, value in sorted(environment(server).items())],
        "resources": _resources(own, replica),
        "securityContext": _security(replica),
        "volumeMounts": mounts,
    }
    gpus_of(settings, own, spec, container, server.name, len(replica.get("gpus") or []))
    container["resources"] = Value((*_key(server), "resources"), container["resources"])
    if not worker:
        container["ports"] = [{"name": name, "containerPort": port} for name, port in ports(replica)]
        container["lifecycle"] = {"preStop": {"exec": {"command": _stop(replica)}}}
        container.update(probes(replica, own))
    spec["containers"] = [container]
    spec["terminationGracePeriodSeconds"] = SLACK if worker else FORGET + int(replica["stop_timeout"]) + SLACK
    if server.link:
        spec["initContainers"] = [wait(str(replica["image"]), server.link, mounts)]
    if server.hosts:
        spec["affinity"] = on_hosts(server.hosts)
    spec["volumes"] = volumes
    return {"metadata": {"labels": dict(labelled), "annotations": dict(notes)}, "spec": spec}


def command(server: Server, worker: bool = False) -> list[str]:
    """What a container runs: what it runs on a host."""
    replica, place = server.replica, triton.scripts_dir(server.replica)
    version = release_of(str(replica["release"])).version
    if serve.is_served(replica):
        return [str(word) for word in triton.serves(replica, version)["Exec"]]
    if server.nodes == 1:
        return ["sh", f"{place}/run.sh", *triton_launch.command(version, triton.launch_of(replica))]
    group = [*gang.PYTHON, f"{place}/{GROUP_SCRIPT}", *gang.PYTHON, f"{place}/{gang.SCRIPT}"]
    if worker:
        return [*group, "wait"]
    return [*group, "lead", *triton_launch.command(version, triton.launch_of(replica))]


def environment(server: Server) -> dict[str, str]:
    """Its variables, as on a host."""
    replica, release = server.replica, release_of(str(server.replica["release"]))
    kept = {}
    if serve.loads_checkpoint(replica):
        # A pod keeps what a start compiles while it is there, wherever its repository is.
        kept = {name: f"{serve.CACHE}/{where}" for name, where in caches(release).items()}
    found = (
        triton.serves(replica, release.version)["Environment"]
        if serve.is_served(replica)
        else triton_launch.environment(release.version, triton.launch_of(replica))
    )
    return {str(key): str(value) for key, value in {**kept, **found}.items()}


def probes(replica: Mapping[str, Any], own: ModelSettings) -> Item:
    """The probes of a host: a token, and not a status code, which says 200 while no process is left to answer.

    A probe judges by itself when enough is enough, so one failure of it counts.
    """
    longest = int(triton.probes(replica)["HealthTimeout"][:-1])
    steady = {
        "exec": {"command": ["sh", "-c", triton.probe_command(replica, "steady")]},
        "failureThreshold": 1,
        "periodSeconds": int(replica["probe_interval"]),
        "timeoutSeconds": longest,
    }
    start = {
        "exec": {"command": ["sh", "-c", triton.probe_command(replica, "start")]},
        "failureThreshold": -(-own.start_timeout // PATIENCE),
        "periodSeconds": 1,
        "timeoutSeconds": int(triton.probes(replica)["HealthStartupTimeout"][:-1]),
    }
    return {"startupProbe": start, "readinessProbe": {**steady, "successThreshold": 1}, "livenessProbe": steady}


def _stop(replica: Mapping[str, Any]) -> list[str]:
    """As on a host, once the Service has forgotten the pod."""
    place, seconds = triton.scripts_dir(replica), int(replica["stop_timeout"])
    end = f"exec python3 -I -S {place}/stop.py {seconds} {HTTP}"
    if serve.is_served(replica):
        end = f"exec sh {place}/{serve.STOP} {seconds}"
    return ["sh", "-c", f"sleep {FORGET}; {end}"]


def wait(image: str, link: str, mounts: Sequence[Mapping[str, Any]]) -> Item:
    """A container that ends once something is in the volume."""
    return {
        "name": "wait",
        "image": image,
        "command": ["sh", "-c", literal(WAIT), "wait", link],
        "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}},
        "securityContext": dict(CONTAINER_SECURITY),
        # The whole of it: a part may not be there yet.
        "volumeMounts": [mount for mount in mounts if mount["name"] == VOLUME and "subPath" not in mount],
    }


def on_hosts(hosts: Sequence[str]) -> Item:
    """Only where the artefacts are."""
    match = {"key": HOSTNAME, "operator": "In", "values": list(hosts)}
    required = {"nodeSelectorTerms": [{"matchExpressions": [match]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def _resources(own: ModelSettings, replica: Mapping[str, Any]) -> Item:
    """Requests are the limits. Shared memory counts as memory of the container."""
    limits: Item = {}
    if own.memory:
        limits["memory"] = own.memory
    elif replica.get("memory"):
        limits["memory"] = quantity(bytes_of(str(replica["memory"])) + bytes_of(str(replica["shm_size"])))
    if own.cpu or replica.get("cpus"):
        limits["cpu"] = own.cpu or f"{float(replica['cpus']):g}"
    return {"limits": limits} if limits else {}


def _security(replica: Mapping[str, Any]) -> Item:
    added = [str(one).upper().removeprefix("CAP_") for one in replica.get("capabilities") or []]
    capabilities = {"drop": ["ALL"], **({"add": added} if added else {})}
    read_only = {"readOnlyRootFilesystem": True} if replica.get("read_only") else {}
    return {**CONTAINER_SECURITY, "capabilities": capabilities, **read_only}


def _volumes(settings: Settings, server: Server) -> tuple[list[Item], list[Item]]:
    """The volumes of a pod and where they are: artefacts at the paths that they have on a host, and never written."""
    replica = server.replica
    volumes: list[Item] = [
        {"name": SCRIPTS, "configMap": {"name": _scripts_name(server), "defaultMode": 0o555}},
        {"name": SHM, "emptyDir": {"medium": "Memory", "sizeLimit": quantity(bytes_of(str(replica["shm_size"])))}},
    ]
    mounts: list[Item] = [
        {"name": SCRIPTS, "mountPath": triton.scripts_dir(replica), "readOnly": True},
        {"name": SHM, "mountPath": "/dev/shm"},
    ]
    if server.hosts:
        kept = (triton.scripts_dir(replica), gang.secret_dir(triton.service_name(replica["name"])))
        for number, path in enumerate(one for one in triton.read_only_paths(replica) if one not in kept):
            volumes.append({"name": f"{VOLUME}-{number}", "hostPath": {"path": path, "type": "Directory"}})
            mounts.append({"name": f"{VOLUME}-{number}", "mountPath": path, "readOnly": True})
    else:
        volumes.append(settings.volume.spec(read_only=True))
        mounts.append({"name": VOLUME, "mountPath": settings.root, "readOnly": True})
    checkpoint = posixpath.normpath(str((replica.get("checkpoint_dirs") or [""])[0]))
    if serve.is_served(replica):
        # Its name is the model's.
        mount = {"name": VOLUME, "mountPath": serve.place(replica), "readOnly": True}
        if server.hosts:
            volumes.append({"name": VOLUME, "hostPath": {"path": checkpoint, "type": "Directory"}})
        else:
            mount["subPath"] = posixpath.relpath(checkpoint, settings.root)
        mounts.append(mount)
    if serve.loads_checkpoint(replica):
        volumes.append({"name": CACHE, "emptyDir": {}})
        mounts.append({"name": CACHE, "mountPath": serve.CACHE})
    if server.nodes > 1 and settings.gang:
        place = gang.secret_dir(triton.service_name(replica["name"]))
        items = [{"key": settings.gang.key, "path": gang.SECRET}]
        secret = {"secretName": settings.gang.name, "defaultMode": 0o400, "items": items}
        volumes.append({"name": SECRET, "secret": secret})
        mounts.append({"name": SECRET, "mountPath": place, "readOnly": True})
    for number, path in enumerate(WRITTEN if replica.get("read_only") else ()):
        volumes.append({"name": f"written-{number}", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": f"written-{number}", "mountPath": path})
    for number, text in enumerate(replica.get("volumes") or []):
        source, target, *options = str(text).split(":")
        if not source.startswith("/"):
            raise FleetError(f"{server.model}: volumes has {show(text)}; in a cluster its source is an absolute path "
                             "of the nodes.")  # fmt: skip
        read_only = {"readOnly": True} if "ro" in ",".join(options).split(",") else {}
        volumes.append({"name": f"own-{number}", "hostPath": {"path": source}})
        mounts.append({"name": f"own-{number}", "mountPath": target, **read_only})
    return volumes, mounts


def notes_of(release: str, fingerprint: str) -> dict[str, str]:
    """What a pod's annotations tell: a change of them is a change of what serves."""
    return {f"{NAMESPACE}/fingerprint": fingerprint, f"{NAMESPACE}/release": release_of(release).version}
