# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway's pods, and how clients outside of the cluster reach them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from .._base.labels import NAMESPACE
from .around import GATEWAY, budget, monitor_gateway
from .names import literal
from .objects import (
    CONTAINER_SECURITY,
    VOLUME,
    Item,
    Settings,
    config_map,
    labels,
    manifest,
    pod_spec,
    selector,
)
from .text import Value
from .workload import on_hosts

PORT, USER = 3000, 65532
CONFIG_DIR, KEYS_DIR, SECRET_DIR = "/etc/trtllm/openai_gateway", "/run/trtllm/keys", "/run/trtllm/secret"
CONFIG_FILE, KEYS_FILE = "gateway.yml", "keys"
SHUTDOWN, FORGET = 60, 15
PROBE = ["python3", "-I", "-S", "/opt/gateway/app/openai_gateway/probe.py"]
# The gateway takes keys from a file that it alone may read; those of a Secret are root's. So it begins with a copy.
START = (
    "import os, shutil, sys\nos.umask(0o377)\n"
    "if os.path.exists(sys.argv[2]):\n    os.remove(sys.argv[2])\n"
    "shutil.copyfile(sys.argv[1], sys.argv[2])\nos.execvp(sys.argv[3], sys.argv[3:])\n"
)
GATEWAY_COMMAND = ["python3", "-m", "openai_gateway"]
WAIT = (
    "import os, sys, time\nwanted = sys.argv[1:]\nwhile any(not os.path.exists(path) for path in wanted):\n"
    "    print('waiting for', *(path for path in wanted if not os.path.exists(path)), flush=True)\n    time.sleep(5)\n"
)


def gateway(settings: Settings, image: str, models: Sequence[Mapping[str, Any]], hosts: Sequence[str]) -> list[Item]:
    """All of it. *models* are as the gateway's own configuration has them; *hosts* where their tokenizers are."""
    labelled = labels("gateway", GATEWAY)
    config = configuration(settings, models)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    name = f"{GATEWAY}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    ports = [{"name": "http", "port": PORT, "targetPort": "http"}]
    spec = {
        "replicas": Value(("gateway", "replicas"), settings.gateway["replicas"]),
        "revisionHistoryLimit": 5,
        "selector": {"matchLabels": selector(GATEWAY)},
        # There is always one that serves.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": _pod(settings, image, name, models, hosts, labelled),
    }
    found = [
        config_map(settings, name, labelled, data={CONFIG_FILE: text}),
        manifest(settings, "v1", "Service", GATEWAY, labelled, spec={"ports": ports, "selector": selector(GATEWAY)}),
        manifest(settings, "apps/v1", "Deployment", GATEWAY, labelled, spec=spec),
        budget(settings, GATEWAY, labelled),
        *monitor_gateway(settings, labelled),
        *_ingress(settings, labelled),
        *_route(settings, labelled),
    ]
    if settings.network_policy:
        found.append(_policy(settings, labelled))
    return found


def configuration(settings: Settings, models: Sequence[Mapping[str, Any]]) -> Item:
    """The gateway's file; JSON is YAML."""
    found: Item = {"address": "0.0.0.0", "port": PORT, "shutdown_timeout": SHUTDOWN, "models": list(models)}
    if settings.api_keys:
        found["api_keys_file"] = f"{KEYS_DIR}/{KEYS_FILE}"
    return found


def _pod(
    settings: Settings, image: str, config: str, models: Sequence[Mapping[str, Any]], hosts: Sequence[str],
    labelled: Mapping[str, str],
) -> Item:  # fmt: skip
    tokenizers = sorted({str(model["tokenizer_dir"]) for model in models})
    volumes: list[Item] = [{"name": "config", "configMap": {"name": config}}]
    mounts: list[Item] = [{"name": "config", "mountPath": CONFIG_DIR, "readOnly": True}]
    if hosts:
        for number, path in enumerate(tokenizers):
            volumes.append({"name": f"{VOLUME}-{number}", "hostPath": {"path": path, "type": "Directory"}})
            mounts.append({"name": f"{VOLUME}-{number}", "mountPath": path, "readOnly": True})
    else:
        volumes.append(settings.volume.spec(read_only=True))
        mounts.append({"name": VOLUME, "mountPath": settings.root, "readOnly": True})
    before: list[Item] = []
    if not hosts:
        before.append(_helper(image, "wait", ["-c", WAIT, *(f"{path}/config.json" for path in tokenizers)], mounts[1:]))
    command: Item = {}
    if settings.api_keys:
        items = [{"key": settings.api_keys.key, "path": KEYS_FILE}]
        # Nobody else is in the container, and nothing else has the volume.
        secret = {"secretName": settings.api_keys.name, "defaultMode": 0o444, "items": items}
        volumes += [
            {"name": "secret", "secret": secret},
            {"name": "keys", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ]
        mounts += [
            {"name": "secret", "mountPath": SECRET_DIR, "readOnly": True},
            {"name": "keys", "mountPath": KEYS_DIR},
        ]
        words = [START, f"{SECRET_DIR}/{KEYS_FILE}", f"{KEYS_DIR}/{KEYS_FILE}", *GATEWAY_COMMAND]
        command = {"command": ["python3", "-I", "-S", "-c", *words]}
    limits = {key: settings.gateway[key] for key in ("cpu", "memory") if settings.gateway.get(key)}
    container: Item = {
        "name": "gateway",
        "image": image,
        **command,
        "args": ["--config", f"{CONFIG_DIR}/{CONFIG_FILE}"],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": Value(("gateway", "resources"), {"limits": limits} if limits else {}),
        "securityContext": {**CONTAINER_SECURITY, "readOnlyRootFilesystem": True},
        "lifecycle": {"preStop": {"exec": {"command": ["python3", "-c", f"import time; time.sleep({FORGET})"]}}},
        "volumeMounts": mounts,
        # A model that writes a token is enough: a broken one must not keep the others from being served. A gateway
        # whose Tritons are all away is not mended by a restart, so that its own life is asked for alone.
        "startupProbe": _probe("/health/ready?require=any", 5, 720),
        "readinessProbe": _probe("/health/ready?require=any", 15, 3),
        "livenessProbe": _probe("/health", 15, 3),
    }
    security: Item = {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER}
    spec: Item = {
        **pod_spec(settings, None, ()),
        "containers": [container],
        "securityContext": security,
        "terminationGracePeriodSeconds": FORGET + SHUTDOWN + 15,
        "volumes": volumes,
        **({"initContainers": before} if before else {}),
    }
    if hosts:
        spec["affinity"] = on_hosts(hosts)
    digest = {f"{NAMESPACE}/configuration": config}
    return {"metadata": {"labels": dict(labelled), "annotations": digest}, "spec": spec}


def _helper(image: str, name: str, arguments: Sequence[str], mounts: Sequence[Mapping[str, Any]]) -> Item:
    return {
        "name": name,
        "image": image,
        "command": ["python3", "-I", "-S", *(literal(word) for word in arguments)],
        "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}},
        "securityContext": {**CONTAINER_SECURITY, "readOnlyRootFilesystem": True},
        "volumeMounts": list(mounts),
    }


def _probe(path: str, period: int, failures: int) -> Item:
    command = [*PROBE, f"http://127.0.0.1:{PORT}{path}"]
    return {"exec": {"command": command}, "failureThreshold": failures, "periodSeconds": period, "timeoutSeconds": 25}


def _ingress(settings: Settings, labelled: Mapping[str, str]) -> list[Item]:
    given = settings.ingress
    if not given:
        return []
    backend = {"service": {"name": GATEWAY, "port": {"name": "http"}}}
    rule = {"host": given["host"], "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    tls = [{"hosts": [given["host"]], "secretName": given["tls_secret"]}] if given.get("tls_secret") else []
    spec: Item = {"rules": [rule], **({"tls": tls} if tls else {})}
    if given.get("class_name"):
        spec["ingressClassName"] = given["class_name"]
    notes = {"annotations": given["annotations"]} if given["annotations"] else {}
    return [manifest(settings, "networking.k8s.io/v1", "Ingress", GATEWAY, labelled, metadata=notes, spec=spec)]


def _route(settings: Settings, labelled: Mapping[str, str]) -> list[Item]:
    given = settings.route
    if not given:
        return []
    parent = {"name": given["gateway"], **({"namespace": given["namespace"]} if given.get("namespace") else {})}
    # An answer may be written for minutes.
    rule = {"backendRefs": [{"name": GATEWAY, "port": PORT}], "timeouts": {"request": "0s"}}
    spec: Item = {"parentRefs": [parent], "rules": [rule]}
    if given.get("host"):
        spec["hostnames"] = [given["host"]]
    return [manifest(settings, "gateway.networking.k8s.io/v1", "HTTPRoute", GATEWAY, labelled, spec=spec)]


def _policy(settings: Settings, labelled: Mapping[str, str]) -> Item:
    """Whoever has a key may ask it; it asks Triton alone, and for names."""
    triton = {"podSelector": {"matchLabels": {"app.kubernetes.io/component": "triton",
                                              "app.kubernetes.io/part-of": NAMESPACE}}}  # fmt: skip
    names = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    return manifest(settings, "networking.k8s.io/v1", "NetworkPolicy", GATEWAY, labelled, spec={
        "podSelector": {"matchLabels": selector(GATEWAY)},
        "policyTypes": ["Egress", "Ingress"],
        "ingress": [{"ports": [{"port": "http", "protocol": "TCP"}]}],
        "egress": [{"to": [triton]}, {"ports": names}],
    })  # fmt: skip
