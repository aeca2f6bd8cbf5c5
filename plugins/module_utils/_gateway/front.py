# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fronts that others wrote, as container services: openai_trtllm, and the one inside Triton's own process.

Pure: the same settings give the same service, so that a unit changes only when a restart is due.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

from .._base.errors import FleetError
from .._base.labels import label
from .._base.names import show
from .._base.versions import version_key
from .._host.gpu import cdi_name
from .._release.releases import release as release_of
from .._service.quadlet import command_line
from .flavours import FLAVOURS, FRONTEND, OPENAI_TRTLLM, TRITON_FRONTEND

SERVICE = "openai-gateway"
URL = re.compile(r"(https?)://(\[[^\]]+\]|[^:/]+):(\d+)/?")
# What starts openai_trtllm with its key: the file is read in the container, so that neither its command line nor what
# podman knows of it has the key.
WITH_KEY = 'set -a; . "$1"; shift; exec /app/openai_trtllm "$@"'
# At its own level, info, openai_trtllm logs every request with its prompt and its key.
ENVIRONMENT = {"RUST_LOG": "warn"}
# Option of Triton's frontend -> the first Triton whose frontend has it.
FRONTEND_OPTIONS: Mapping[str, str] = {
    "model-repository": "24.11",
    "tokenizer": "24.11",
    "backend": "24.11",
    "tritonserver-log-verbose-level": "24.11",
    "host": "24.11",
    "openai-port": "24.11",
    "uvicorn-log-level": "24.11",
    "enable-kserve-frontends": "24.11",
    "kserve-http-port": "24.11",
    "kserve-grpc-port": "24.11",
    "lora-separator": "25.05",
    "tool-call-parser": "25.05",
    "chat-template": "25.05",
    "default-max-tokens": "25.08",
    "openai-restricted-api": "25.09",
    "model-control-mode": "26.04",
    "load-model": "26.04",
    "http-max-input-size": "26.06",
    "max-tool-call-parse-bytes": "26.07",
}
FIRST_FRONTEND = "24.11"
TOOL_CALL_PARSERS = ("llama3", "mistral")
Settings = Mapping[str, Any]


def front_service(flavour: str, settings: Settings) -> dict[str, Any]:
    """The service, as M(trtllm.fleet.container_service) takes it.

    *settings* are the role's variables without their prefix, and ``image``, ``key_file``,
    ``probe`` (the text of the probe's script, and its ``probe_file``), ``triton`` and ``triton_ports``, the replicas of
    the host and their ports.
    """
    (model,) = settings["models"]
    listen = [{"address": settings["address"], "port": int(settings["port"]), "what": "openai_gateway_port"}]
    container, more = _COMPOSE[flavour](settings, model)
    after = ["network-online.target", *(f"{item['service']}.service" for item in _beside(settings, model, flavour))]
    stop = int(settings["shutdown_timeout"])
    probe = command_line(["bash", settings["probe_file"], *_probe_words(flavour, settings, model)])
    return {
        "name": SERVICE,
        "unit": {
            "Unit": {
                "Description": f"OpenAI gateway ({FLAVOURS[flavour].title})",
                "Wants": after,
                "After": after,
                "StartLimitIntervalSec": 0,
            },
            "Container": {
                "ContainerName": SERVICE,
                "Image": settings["image"],
                "Pull": "never",
                "Network": "host",
                "DropCapability": "all",
                "NoNewPrivileges": True,
                **container,
                "Label": {label("flavour"): flavour},
                "HealthCmd": probe,
                "HealthInterval": "30s",
                "HealthTimeout": "25s",
                "HealthRetries": 3,
                "HealthStartupCmd": probe,
                "HealthStartupInterval": "1s",
                "HealthStartupTimeout": "25s",
                "HealthStartupRetries": 0,
                "Notify": "healthy",
                "StopSignal": FLAVOURS[flavour].stop_signal,
                "StopTimeout": stop + 5,
            },
            "Service": {"Restart": "on-failure", "RestartSec": 2, "TimeoutStopSec": stop + 20},
            "Install": {"WantedBy": "multi-user.target"},
        },
        "listen": [*listen, *more.get("listen", [])],
        "load_paths": more.get("load_paths", []),
        "files": {settings["probe_file"]: settings["probe"]},
        "record": {
            "flavour": flavour,
            "models": [model["name"]],
            # What clients call them, where that is not the same.
            "names": {model["name"]: model["entry_model"]},
        },
    }


def _openai_trtllm(settings: Settings, model: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The container, and what else the service has."""
    words = ["--host", str(settings["address"]), "--port", str(settings["port"])]
    words += ["--triton-endpoint", grpc_url(settings)]
    template = settings.get("history_template")
    files = [settings["probe_file"], *([template] if template else [])]
    if template:
        words += ["--history-template-file", str(template)]
    start: dict[str, Any] = {"Exec": words}
    if settings.get("api_keys"):
        files.append(settings["key_file"])
        start = {"Entrypoint": "/bin/sh", "Exec": ["-c", WITH_KEY, "openai_trtllm", settings["key_file"], *words]}
    user = {"User": f"{settings['user']}:{settings['user']}", "ReadOnly": True, "Environment": ENVIRONMENT}
    return {**user, "Volume": [_mount(path) for path in files], **start}, {}


def grpc_url(settings: Settings) -> str:
    """Triton's gRPC address: as given, as the replica on this host has it, or the port after its HTTP port."""
    if settings.get("grpc_url"):
        return str(settings["grpc_url"])
    (model,) = settings["models"]
    (url,) = model["urls"]
    found = URL.fullmatch(str(url))
    if not found:
        raise FleetError(
            f"The model {show(model['name'])} has the replica {show(url)}; give an address such as "
            "http://127.0.0.1:8000, or Triton's gRPC address as openai_gateway_grpc_url."
        )
    scheme, host, port = found.groups()
    ports = [settings["triton_ports"].get(item["replica"], {}) for item in _beside(settings, model, OPENAI_TRTLLM)]
    return f"{scheme}://{host}:{ports[0]['grpc_port'] if any(ports) else int(port) + 1}"


def _beside(settings: Settings, model: Mapping[str, Any], flavour: str) -> list[Mapping[str, Any]]:
    """The replicas on the same host that the front asks, and starts after: their start ends when they answer."""
    if flavour == TRITON_FRONTEND:
        return []
    urls = [str(url).rstrip("/") for url in model["urls"]]
    return [item for item in settings.get("triton") or [] if item["http_url"] in urls]


def _triton_frontend(settings: Settings, model: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The container, and what else the service has."""
    given = settings["frontend"]
    if not given.get("repository_dir"):
        raise FleetError(
            f"The flavour {TRITON_FRONTEND} is Triton itself and needs openai_gateway_frontend.repository_dir, the "
            "model repository; give it, or set openai_gateway_flavour: gateway for a Triton that runs already."
        )
    ports = {kind: int(given.get(f"{kind}_port") or default) for kind, default in (("http", 8000), ("grpc", 8001))}
    options: dict[str, Any] = {
        "model-repository": given["repository_dir"],
        "tokenizer": model["tokenizer_dir"],
        "backend": "tensorrtllm",
        "host": settings["address"],
        "openai-port": settings["port"],
        "enable-kserve-frontends": True,
        "kserve-http-port": ports["http"],
        "kserve-grpc-port": ports["grpc"],
        "tool-call-parser": model.get("tool_call_parser"),
        "chat-template": model.get("chat_template"),
        "default-max-tokens": model.get("default_max_tokens"),
    }
    gpus = list(given.get("gpus") or [])
    paths = [given["repository_dir"], model["tokenizer_dir"], *(given.get("engine_dirs") or [])]
    paths += [model["chat_template"]] if model.get("chat_template") else []
    container = {
        "AddDevice": [cdi_name(gpu) for gpu in gpus],
        "ShmSize": given.get("shm_size") or "2g",
        "Ulimit": ["memlock=-1:-1", "stack=67108864:67108864"],
        "PidsLimit": -1,
        "Volume": [_mount(path) for path in [settings["probe_file"], *sorted(set(paths))]],
        # Ranks of an engine on several GPUs are started by Triton itself: there is no mpirun around it.
        "Environment": {"HF_HUB_OFFLINE": "1", **({"TRTLLM_ORCHESTRATOR": "1"} if len(gpus) > 1 else {})},
        "Exec": ["python3", FRONTEND, *frontend_options(options, triton_version(settings))],
    }
    listen = [
        {"address": settings["address"], "port": port, "what": f"openai_gateway_frontend.{kind}_port"}
        for kind, port in ports.items()
    ]
    return container, {"listen": listen, "load_paths": list(given.get("engine_dirs") or [])}


def triton_version(settings: Settings) -> str:
    """The Triton in the image: as given, or the newest with the model's release."""
    given = (settings.get("frontend") or {}).get("triton_version")
    if given:
        return str(given)
    (model,) = settings["models"]
    known = release_of(str(model.get("release") or settings["release"]))
    if known.image_tag is None:
        raise FleetError(
            f"There is no image of Triton with TensorRT-LLM {known.version}; say which Triton your own has in "
            "openai_gateway_frontend.triton_version, for example 26.07."
        )
    return known.image_tag


def frontend_options(options: Mapping[str, Any], triton: str) -> list[str]:
    """*options* as words for the frontend of this Triton; what it does not know is refused."""
    if version_key(triton) < version_key(FIRST_FRONTEND):
        raise FleetError(
            f"Triton {triton} has no OpenAI frontend, which came with {FIRST_FRONTEND} (TensorRT-LLM 0.15.0); use a "
            "newer image, or set openai_gateway_flavour: gateway."
        )
    words: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        first = FRONTEND_OPTIONS[name]
        if version_key(triton) < version_key(first):
            raise FleetError(
                f"The frontend of Triton {triton} has no --{name}, which came with {first}; leave "
                f"{name.replace('-', '_')} out, use a newer image, or set openai_gateway_flavour: gateway."
            )
        if name == "tool-call-parser" and value not in TOOL_CALL_PARSERS:
            raise FleetError(
                f"Triton's frontend has no tool_call_parser {show(value)}, only {' and '.join(TOOL_CALL_PARSERS)}; "
                "take one of them, or set openai_gateway_flavour: gateway."
            )
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def _probe_words(flavour: str, settings: Settings, model: Mapping[str, Any]) -> Sequence[str]:
    address = str(settings["address"])
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    key: Optional[str] = settings["key_file"] if settings.get("api_keys") else None
    return [host, str(settings["port"]), str(model["entry_model"]), *([key] if key else [])]


def _mount(path: Any) -> str:
    return f"{path}:{path}:ro,z"


_COMPOSE: Mapping[str, Callable[[Settings, Mapping[str, Any]], tuple[dict[str, Any], dict[str, Any]]]] = {
    OPENAI_TRTLLM: _openai_trtllm,
    TRITON_FRONTEND: _triton_frontend,
}
