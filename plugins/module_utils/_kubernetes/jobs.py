# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Jobs that bring a checkpoint into the volume and build its engine and repository there.

A Job runs the code that a host would run (`fetch_pod`, `build_pod`), so that what it makes has the same form and the
same fingerprints, and one that finds it made ends at once.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import posixpath
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Optional

from .._artifact.fingerprint import fingerprint
from .._base.errors import FleetError
from .._base.names import check_path
from .._base.pyz import closure, pyz
from .._engine.engine import CALIBRATING
from .._engine.inputs import host_paths
from .._hub.request import CONSENTS, request_of
from .._release.releases import release as release_of
from .._release.releases import require_engines
from .names import name_of
from .objects import (
    CONTAINER_SECURITY,
    VOLUME,
    Item,
    ModelSettings,
    Reference,
    Settings,
    claim_template,
    config_map,
    gpus_of,
    labels,
    manifest,
    pod_spec,
)
from .text import plain
from .workload import SHM

PACKAGE = "trtllm_kubernetes"
CODE_DIR, SPEC_DIR, TOKEN_DIR = "/run/trtllm/code", "/run/trtllm/spec", "/run/trtllm/token"
ARCHIVE, SPEC, TOKEN = "code.pyz", "spec.json", "token"
# Links to what serves, by model and by what was asked for, below the root.
LINKS = "kubernetes"
DIGEST = 12
FETCHES, BUILDS = "_kubernetes.fetch_pod", "_kubernetes.build_pod"
TRIES = 3


@functools.cache
def code(main: str) -> bytes:
    """The program of a Job, with all that it needs of the collection."""
    return pyz(PACKAGE, closure(main), main)


def request_fingerprint(
    checkpoint: Mapping[str, Any], engine: Mapping[str, Any], repository: Mapping[str, Any], image: str, served: str,
    product: str,
) -> str:  # fmt: skip
    """What is asked for: of what is brought from elsewhere what it is, and not where it is brought from."""
    return fingerprint({
        "checkpoint": _asked(checkpoint, engine["checkpoint"]),
        "engine": {key: engine.get(key) for key in ("options", "release", "nodes")},
        "gpus": len(engine["gpus"]),
        "gpu": product,
        "images": [image, served],
        "repository": {key: repository.get(key) for key in ("streaming", "parameters", "release")},
    })  # fmt: skip


def repository_fingerprint(checkpoint: Mapping[str, Any], repository: Mapping[str, Any], served: str) -> str:
    """The same where no engine is made."""
    return fingerprint({
        "checkpoint": _asked(checkpoint, repository["checkpoint"]),
        "images": [served],
        "repository": {key: repository.get(key) for key in ("layout", "streaming", "parameters", "release")},
    })  # fmt: skip


def _asked(checkpoint: Mapping[str, Any], place: str) -> Item:
    if checkpoint["source"] == "path":
        return {"source": "path", "path": place}
    return dict(request_of(checkpoint, "").asked())


def link_of(root: str, model: str, wanted: str) -> str:
    """Where pods find the repository that was asked for, once there is one."""
    return f"{root}/{LINKS}/{model}/{wanted}"


def fetch(settings: Settings, checkpoint: Mapping[str, Any], image: str) -> list[Item]:
    """The Job that downloads a checkpoint; none for one that is in the volume."""
    name = str(checkpoint["name"])
    where = f"{name}: checkpoint."
    if checkpoint["source"] == "path":
        if checkpoint.get("location") != "host" or not checkpoint.get("in_place"):
            raise FleetError(f"{where}path is brought to hosts, but a cluster has what is in its volume; give a source "
                             "that a Job downloads, or location host and in_place for one that is there.")  # fmt: skip
        if not posixpath.normpath(str(checkpoint["path"])).startswith(f"{settings.root}/"):
            raise FleetError(f"{where}path is {checkpoint['path']}; give one below trtllm_root ({settings.root}), "
                             "which the volume holds.")  # fmt: skip
        return []
    if checkpoint.get("location") == "controller":
        raise FleetError(f"{where}location is controller, but in a cluster a Job downloads; leave it out, or bring the "
                         "checkpoint into the volume and give source path, location host and in_place.")  # fmt: skip
    for option in ("token_file", "cache"):
        if checkpoint.get(option):
            instead = "kubernetes_token_secret" if option == "token_file" else "the source alone"
            raise FleetError(f"{where}{option} is a path of a host; in a cluster give {instead}.")
    own = settings.models[name]
    spec = {
        "root": settings.root,
        "name": name,
        "request": asdict(request_of(checkpoint, where)),
        "consent": {option: bool(checkpoint.get(option)) for option in CONSENTS},
        "token": f"{TOKEN_DIR}/{TOKEN}" if own.token else "",
    }
    pod = pod_spec(settings, None, ())
    return _job(settings, "fetch", name, image, spec, FETCHES, pod, token=own.token)


def build(
    settings: Settings, engine: Mapping[str, Any], repository: Mapping[str, Any], wanted: str, image: str,
    release: str, environment: Mapping[str, str],
) -> list[Item]:  # fmt: skip
    """The Job that builds an engine on a node with the GPUs that will serve it, and renders its repository."""
    require_engines(release_of(release))
    name, own = str(engine["name"]), settings.models[str(engine["name"])]
    options = dict(engine["options"])
    for option, path in host_paths(options).items():
        if not posixpath.normpath(path).startswith(f"{settings.root}/"):
            raise FleetError(f"{name}: engine.{option} is {path}; give a path below trtllm_root ({settings.root}), "
                             "which the volume holds.")  # fmt: skip
    if any(options.get(option) for option in CALIBRATING) and not str(options.get("calib_dataset", "")).startswith("/"):
        raise FleetError(f"{name}: engine has options that calibrate, and a Job downloads no data set; give "
                         "calib_dataset as a directory of the volume.")  # fmt: skip
    gpus = len(engine["gpus"])
    spec = {
        "root": settings.root,
        "name": name,
        "image": image,
        "release": release,
        "checkpoint": engine["checkpoint"],
        "options": options,
        "gpus": list(range(gpus)),
        "nodes": int(engine.get("nodes") or 1),
        **_repository(settings, repository, wanted),
        "environment": dict(environment),
    }
    pod = pod_spec(settings, own, ("builds", name))
    return _job(settings, "build", name, image, spec, BUILDS, pod, gpus=gpus, own=own)


def render(settings: Settings, repository: Mapping[str, Any], wanted: str, image: str, release: str) -> list[Item]:
    """The Job that renders what serves a checkpoint without an engine, on any node."""
    name = str(repository["name"])
    spec = {
        "root": settings.root,
        "name": name,
        "release": release,
        "checkpoint": repository["checkpoint"],
        "layout": repository["layout"],
        **_repository(settings, repository, wanted),
    }
    return _job(settings, "build", name, image, spec, BUILDS, pod_spec(settings, None, ()))


def _repository(settings: Settings, repository: Mapping[str, Any], wanted: str) -> Item:
    """What a Job is told of the repository that it renders, and of the link by which pods find it."""
    return {
        "templates": check_path(settings.templates, "kubernetes_templates"),
        "streaming": repository["streaming"],
        "parameters": repository["parameters"],
        "link": link_of(settings.root, str(repository["name"]), wanted),
    }


def _job(
    settings: Settings, what: str, model: str, image: str, spec: Mapping[str, Any], main: str, pod: Item,
    token: Optional[Reference] = None, gpus: int = 0, own: Optional[ModelSettings] = None,
) -> list[Item]:  # fmt: skip
    packed = code(main)
    archive = f"{what}-code-{hashlib.sha256(packed).hexdigest()[:DIGEST]}"
    text = json.dumps(spec, indent=1, sort_keys=True) + "\n"
    labelled = labels(what, name_of(what, model), model)
    mounts: list[Item] = [
        {"name": VOLUME, "mountPath": settings.root},
        {"name": "code", "mountPath": CODE_DIR, "readOnly": True},
        {"name": "spec", "mountPath": SPEC_DIR, "readOnly": True},
        {"name": SHM, "mountPath": "/dev/shm"},
    ]
    container: Item = {
        "name": what,
        "image": image,
        "command": ["python3", f"{CODE_DIR}/{ARCHIVE}", f"{SPEC_DIR}/{SPEC}"],
        "env": [{"name": key, "value": value} for key, value in ENVIRONMENT.items()],
        "resources": {},
        "securityContext": {**CONTAINER_SECURITY},
        "volumeMounts": mounts,
    }
    volumes: list[Item] = [
        settings.volume.spec(read_only=False),
        {"name": "code", "configMap": {"name": archive}},
        {"name": SHM, "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
    ]
    if token:
        items = [{"key": token.key, "path": TOKEN}]
        volumes.append({"name": "token", "secret": {"secretName": token.name, "defaultMode": 0o400, "items": items}})
        mounts.append({"name": "token", "mountPath": TOKEN_DIR, "readOnly": True})
    found = [config_map(settings, archive, labels(what, f"{what}-code"),
                        binaryData={ARCHIVE: base64.b64encode(packed).decode()})]  # fmt: skip
    if own is not None:
        given = {"memory": own.memory, "cpu": own.cpu}
        limits = {key: value for key, value in given.items() if value}
        container["resources"] = {"limits": limits} if limits else {}
        gpus_of(settings, own, pod, container, name_of(what, model), gpus)
        if own.gpu_claim and gpus:
            found.append(claim_template(settings, own, name_of(what, model), labelled, gpus))
    pod.update(containers=[container], volumes=volumes, restartPolicy="Never")
    # What a Job does can never be changed, so that another one has another name.
    name = f"{name_of(what, model)}-{fingerprint({'spec': text, 'pod': plain(pod), 'tries': TRIES})[:DIGEST]}"
    volumes.append({"name": "spec", "configMap": {"name": name}})
    job: Item = {"backoffLimit": TRIES, "template": {"metadata": {"labels": dict(labelled)}, "spec": plain(pod)}}
    return [
        *found,
        config_map(settings, name, labelled, data={SPEC: text}),
        manifest(settings, "batch/v1", "Job", name, labelled, spec=job),
    ]


# A place to write for programs that look for their home, and what mpirun asks of a superuser.
ENVIRONMENT: Mapping[str, str] = {
    "HOME": "/tmp",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PYTHONUNBUFFERED": "1",
}
