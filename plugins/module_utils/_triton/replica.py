# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica of a model as a container service: the server's command, its limits, its probes and how it stops.

Pure: the same description gives the same services, so that a unit changes only when a restart is due.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from .._base.errors import FleetError
from .._base.labels import label
from .._base.names import check_name, show
from .._host.gpu import CDI_KIND, cdi_name, check_gpu
from .._release.releases import release as release_of
from .._service.quadlet import PODMAN, command_line
from . import disaggregated, gang, serve
from . import launch as triton_launch
from .held import PREFIX
from .options import DEFAULTS, check_values
from .ports import PORT_BASE, PORTS, Held, assign_ports

# A server that listens on one of these listens on every address of its host.
ANY_ADDRESS = ("0.0.0.0", "::", "")
# What a start may wait for; systemd ignores those that a host does not have.
AFTER = [
    "network-online.target",
    "nvidia-persistenced.service",
    "nvidia-fabricmanager.service",
    "nvidia-cdi-refresh.service",
    "trtllm-cdi-refresh.service",
]
# Nothing is fetched at serving time, and OpenMPI's ranks must not need the right to trace each other.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
}
# Ranks of one host talk through shared memory; without this each listens on a TCP port of every address. Ranks that
# an orchestrator spawns belong to another job, which shared memory does not join.
LEADER_ENVIRONMENT = {"OMPI_MCA_btl": "self,vader"}
# Through the BLS model a token passes every process of the repository; the ensemble has none of its own.
# In a server of several models, their names have prefixes, and every model is asked.
PROBE_SUFFIXES = ("tensorrt_llm_bls", "ensemble")
# Seconds that a probe takes for its other looks while it waits for a token.
PROBE_SLACK = 20
SCRIPTS_DIR = "/etc/trtllm/triton"
# What runs in the container beside Triton.
SCRIPTS = ("run.sh", "probe.sh", "stop.py")
# What the nodes of a replica on several hosts are told; see roles/triton/files/gang.py.
GANG_VARIABLE = "TRTLLM_GANG"
# Every start of the leader is in a fresh container of each worker, which has nothing to finish when it stops.
WORKER_SERVICE = {"Restart": "always", "RestartSec": 1, "TimeoutStartSec": 120, "TimeoutStopSec": 30}

# What nobody needs of a serving Triton: with the first, whoever reaches it could have it write its log into any file of
# the container. run.sh replaces the word at each start.
START_WORD = "@word@"
RESTRICTED = f"logging,trace,shared-memory:trtllm-fleet={START_WORD}"
RESTRICTING = ("--http-restricted-api", "--grpc-restricted-protocol")

Replica = Mapping[str, Any]


def triton_services(replicas: Sequence[Replica], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The services of a host, as M(trtllm.fleet.container_service) takes them.

    *replicas* are elements of ``triton_replicas``; *settings* the values of the role that hold for all of them
    (see roles/triton/meta/argument_specs.yml) and stand in for what an element does not give.
    Raises `FleetError` for GPUs or ports given twice, and for what the release cannot do.
    """
    return [triton_service(replica) for replica in served(replicas, settings)]


def served(replicas: Sequence[Replica], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every replica as the role serves it: what neither it nor *settings* give is as the table of options has it."""
    return [_with_scripts(replica) for replica in complete(replicas, {**DEFAULTS, **settings})]


def _with_scripts(replica: dict[str, Any]) -> dict[str, Any]:
    """Only those that it runs, so that it is left alone where another changes."""
    names = (
        serve.SCRIPTS if serve.is_served(replica) else (*SCRIPTS, *((gang.SCRIPT,) if gang.is_gang(replica) else ()))
    )
    names = (*names, *((disaggregated.SCRIPT,) if disaggregated.is_disaggregated(replica) else ()))
    given = replica.get("scripts", {})
    return {**replica, "scripts": {name: text for name, text in given.items() if name in names}}


def complete(
    replicas: Sequence[Replica], settings: Mapping[str, Any], port_base: int = PORT_BASE, held: Optional[Held] = None
) -> list[dict[str, Any]]:
    """Every replica with all its values, or a `FleetError` for what contradicts itself."""
    given = [{key: value for key, value in replica.items() if value is not None} for replica in replicas]
    merged = [{**settings, **replica} for replica in given]
    check_names(merged)
    for replica in merged:
        check_values(replica)
        if disaggregated.is_disaggregated(replica):
            disaggregated.check(replica)
            replica.setdefault("gpus", disaggregated.gpus(replica))
    check_gpus(merged)
    for replica in merged:
        if gang.is_gang(replica):
            gang.check_gang(replica)
    gang.check_gang_ports(merged)
    assign_ports([replica for replica in merged if not gang.is_worker(replica)], port_base, held)
    disaggregated.check_ports(merged, [key for key, _what in PORTS])
    return merged


def listens(replica: Replica) -> list[dict[str, Any]]:
    """Where Triton listens, and what nodes of a replica reach each other at."""
    between = gang.listens(replica) if gang.is_gang(replica) else []
    if gang.is_worker(replica):
        return between
    ports = serve.PORTS if serve.is_served(replica) else PORTS
    own = [{"address": str(replica["address"]), "port": int(replica[key]), "what": what} for key, what in ports]
    if serve.is_served(replica) and disaggregated.is_disaggregated(replica):
        own += disaggregated.listens(replica)
    return own + between


def triton_service(replica: Replica) -> dict[str, Any]:
    """One service: ``name``, ``unit``, ``listen``, ``load_paths``, ``files`` and ``record``."""
    if not replica.get("repository_dir"):
        raise FleetError(f"{replica['name']} has no repository_dir; give it the model repository that it serves.")
    name = service_name(replica["name"])
    known = release_of(str(replica["release"]))
    if serve.is_served(replica):
        serve.check(replica, known)
    worker = gang.is_worker(replica)
    server = serve.MODE if serve.is_served(replica) else "Ranks of Triton" if worker else "Triton"
    container = {
        "ContainerName": name,
        "Image": replica["image"],
        "Pull": "never",
        "Network": "host",
        "AddDevice": [
            *(cdi_name(gpu) for gpu in replica.get("gpus") or []),
            *(gang.rdma_devices(replica) if gang.is_gang(replica) else []),
        ],
        "ShmSize": replica["shm_size"],
        "Ulimit": ["memlock=-1:-1", "stack=67108864:67108864"],
        "PidsLimit": -1,
        "Memory": replica.get("memory"),
        "PodmanArgs": [f"--cpus={replica['cpus']}"] if replica.get("cpus") else None,
        "DropCapability": "all",
        "AddCapability": list(replica.get("capabilities") or []),
        "NoNewPrivileges": True,
        "ReadOnly": True if replica.get("read_only") else None,
        "Volume": [
            *(f"{path}:{path}:ro,z" for path in read_only_paths(replica)),
            *serve.volumes(replica),
            *(replica.get("volumes") or []),
        ],
        **(_waits(replica) if worker else serves(replica, known.version)),
        "Label": labels(replica),
        "LogDriver": "passthrough",
    }
    return {
        "name": name,
        "unit": {
            "Unit": {
                "Description": f"{server} replica {replica['name']} of {replica['model']} "
                f"(TensorRT-LLM {known.version})",
                "Wants": "network-online.target",
                "After": AFTER,
                "StartLimitIntervalSec": 0,
            },
            "Container": container,
            "Service": dict(WORKER_SERVICE) if worker else service_section(name, replica),
            "Install": {"WantedBy": "multi-user.target"},
        },
        "listen": listens(replica),
        "load_paths": list(replica.get("checkpoint_dirs" if serve.loads_checkpoint(replica) else "engine_dirs") or []),
        "files": {
            **{f"{scripts_dir(replica)}/{name}": f"{text}\n" for name, text in replica["scripts"].items()},
            **serve.files(replica),
        },
        "record": {
            "release": known.version,
            "replica": replica["name"],
            "model": replica["model"],
            **({} if worker else _asked_at(replica)),
            **(
                {"nodes": gang.node_names(replica), "node": int(replica.get("node") or 0)}
                if gang.is_gang(replica)
                else {}
            ),
            "gpus": [str(gpu) for gpu in replica.get("gpus") or []],
            "repository": replica["repository_dir"],
            "engines": list(replica.get("engine_dirs") or []),
        },
    }


def serves(replica: Replica, release: str) -> dict[str, Any]:
    """The keys of a container that clients ask: the command, its probes, and how long it may take to stop."""
    if serve.is_served(replica):
        return {
            "Environment": {
                **ENVIRONMENT,
                **serve.environment(replica, release_of(release)),
                **(replica.get("environment") or {}),
            },
            "Exec": ["sh", f"{scripts_dir(replica)}/{serve.RUN}", *serve.command(replica, scripts_dir(replica))],
            "Notify": "healthy",
            **probes(replica),
            "StopTimeout": int(replica["stop_timeout"]),
        }
    launch = launch_of(replica)
    command = triton_launch.command(release, launch)
    runs = ["sh", f"{scripts_dir(replica)}/run.sh"]
    if gang.is_gang(replica):
        runs = [*gang.PYTHON, f"{scripts_dir(replica)}/{gang.SCRIPT}", "lead"]
    return {
        "Environment": triton_launch.environment(release, launch),
        "Exec": [*runs, *command],
        "Notify": "healthy",
        **probes(replica),
        "StopTimeout": int(replica["stop_timeout"]),
    }


def _waits(replica: Replica) -> dict[str, Any]:
    """The keys of a container that waits for the leader of its replica."""
    return {
        "Environment": {
            **ENVIRONMENT,
            **gang.network_environment(replica),
            **(replica.get("environment") or {}),
            **_gang_environment(replica),
        },
        "Exec": [*gang.PYTHON, f"{scripts_dir(replica)}/{gang.SCRIPT}", "wait"],
        "StopTimeout": 10,
    }


def _gang_environment(replica: Replica) -> dict[str, str]:
    scripts = posixpath.basename(scripts_dir(replica))
    return {GANG_VARIABLE: gang.told(replica, service_name(replica["name"]), scripts)}


def _asked_at(replica: Replica) -> dict[str, Any]:
    """What the release record says of a replica that clients ask."""
    if serve.is_served(replica):
        return {
            "http": f"{host_of(replica['address'])}:{replica['http_port']}",
            "entry_models": entry_models(replica),
            **api(replica),
        }
    return {
        "http": f"{host_of(replica['address'])}:{replica['http_port']}",
        "metrics": f"{host_of(replica['address'])}:{replica['metrics_port']}",
        "entry_models": entry_models(replica),
        **api(replica),
    }


def api(replica: Replica) -> dict[str, str]:
    """What a replica speaks, where it does not speak as Triton's models for engines do."""
    spoken = serve.APIS.get(str(replica.get("mode")))
    return {"api": spoken} if spoken else {}


def gangs(replicas: Sequence[Replica], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By name what this host would have of each replica that is on several: ``nodes``, ``node``, and what is shared."""
    return {
        str(replica["name"]): {
            "nodes": gang.node_names(replica),
            "node": int(replica.get("node") or 0),
            "is": gang.shared(replica, posixpath.basename(scripts_dir(replica))),
            "secret_dir": gang.secret_dir(service_name(replica["name"])),
        }
        for replica in served(replicas, settings)
        if gang.is_gang(replica)
    }


def service_name(replica: str) -> str:
    """The service of a replica, and of its container."""
    return PREFIX + replica


def launch_of(replica: Replica) -> triton_launch.Launch:
    """What the container runs."""
    mode = str(replica["mode"])
    if mode == serve.MODE:
        serve.refuse_elsewhere([replica], "otherwise")
    if mode not in triton_launch.MODES:
        raise FleetError(f"{replica['name']}: mode is {mode!r}; it is one of {', '.join(triton_launch.MODES)}.")
    if mode == triton_launch.LLMAPI and int(replica["world_size"]) != 1:
        raise FleetError(
            f"{replica['name']}: in mode llmapi TensorRT-LLM starts the ranks of a model itself; set world_size to 1."
        )
    if gang.is_gang(replica) and mode != triton_launch.LEADER:
        raise FleetError(f"{replica['name']}: mode is {mode}, but ranks are on several hosts in mode leader alone.")
    address = str(replica["address"])
    listen = [f"--{kind}-address={address}" for kind in ("http", "grpc", "metrics")]
    extra = [f"--exit-timeout-secs={exit_timeout(replica)}"]
    first = [f"--log-verbose={replica['log_verbose']}"] if replica.get("log_verbose") else []
    # Where all ranks are on one host, those after the first are told the same, as upstream's launcher does.
    if gang.is_gang(replica):
        first = [*listen, *first]
    else:
        extra = [*listen, *extra]
    first += restrictions(replica)
    control = replica.get("model_control_mode")
    if control:
        first.append(f"--model-control-mode={control}")
        first += [f"--load-model={model}" for model in replica.get("load_models") or []]
    return triton_launch.Launch(
        repository=str(replica["repository_dir"]),
        world_size=int(replica["world_size"]),
        mode=mode,
        http_port=int(replica["http_port"]),
        grpc_port=int(replica["grpc_port"]),
        metrics_port=int(replica["metrics_port"]),
        worker_models=tuple(replica.get("worker_models") or ("tensorrt_llm",)),
        shm_prefix=f"{replica['name']}_",
        oversubscribe=bool(replica.get("oversubscribe")),
        spawn_processes=bool(replica.get("spawn_processes", True)),
        gpu_count=len(replica.get("gpus") or []),
        llmapi_launch=mode == triton_launch.LLMAPI and bool(replica.get("llmapi_launch")),
        tritonserver=str(replica.get("tritonserver") or triton_launch.TRITONSERVER),
        extra=(*extra, *(replica.get("extra_args") or [])),
        extra_first=tuple(first),
        extra_others=gang.SILENT if gang.is_gang(replica) else (),
        hosts=gang.hosts_by_rank(replica) if gang.is_gang(replica) else (),
        environment={
            **ENVIRONMENT,
            **(LEADER_ENVIRONMENT if mode == triton_launch.LEADER else {}),
            **serve.environment(replica, release_of(str(replica["release"]))),
            **(gang.environment(replica, scripts_dir(replica)) if gang.is_gang(replica) else {}),
            **(gang.network_environment(replica) if gang.is_gang(replica) else {}),
            **(replica.get("environment") or {}),
            **(_gang_environment(replica) if gang.is_gang(replica) else {}),
        },
    )


def restrictions(replica: Replica) -> list[str]:
    """Options that keep everybody from changing Triton's log and traces, and from its shared memory.

    All images with an engine of a release here have them: Triton 2.34 the one for gRPC, 2.40 (23.11) that for HTTP.
    """
    if gang.is_gang(replica):
        return []  # its first process is another script
    given = [str(argument).partition("=")[0] for argument in replica.get("extra_args") or []]
    return [f"{option}={RESTRICTED}" for option in RESTRICTING if option not in given]


def exit_timeout(replica: Replica) -> int:
    """Seconds after which Triton itself gives up on requests in flight, which must be before we give up on it.

    Triton 2.51 never forgets a streamed request to an ensemble whose client went away: it waits for that to the end.
    """
    if replica.get("exit_timeout") is not None:
        return int(replica["exit_timeout"])
    stop = int(replica["stop_timeout"])
    return max(1, stop - 10, stop // 2)


def ends_after(replica: Replica) -> int:
    """Seconds after which what is still in flight is ended.

    Where ranks are on several hosts, mpirun may take a moment more to end those of all nodes, which is within the time
    that the replica has to stop.
    """
    stop = int(replica["stop_timeout"])
    return min(stop, max(exit_timeout(replica) + 1, stop - gang.END_SECONDS)) if gang.is_gang(replica) else stop


def read_only_paths(replica: Replica) -> list[str]:
    """The directories that the container reads, each at its path of the host; nested ones only once."""
    wanted = [scripts_dir(replica), replica["repository_dir"]]
    if not serve.is_served(replica):
        wanted += [*(replica.get("engine_dirs") or []), *(replica.get("checkpoint_dirs") or [])]
    wanted += [gang.secret_dir(service_name(replica["name"]))] if gang.is_gang(replica) else []
    paths = sorted({posixpath.normpath(str(path)) for path in wanted})
    return [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]


def labels(replica: Replica) -> dict[str, str]:
    """What `podman inspect` and status tell of a replica, beside what podman knows itself."""
    return {
        label("replica"): str(replica["name"]),
        label("model"): str(replica["model"]),
        label("release"): release_of(str(replica["release"])).version,
    }


def entry_models(replica: Replica) -> list[str]:
    """The models that clients ask, in the order of the description."""
    given = replica.get("entry_models")
    if given:
        return [str(model) for model in given]
    if serve.is_served(replica):
        return [str(replica["model"])]
    return ["tensorrt_llm"] if replica["mode"] == triton_launch.LLMAPI else ["ensemble", "tensorrt_llm_bls"]


def probe_models(replica: Replica) -> list[str]:
    """The models that the probe asks for a token: enough of them that no dead process goes unnoticed."""
    given = replica.get("probe_models")
    if given:
        return [str(model) for model in given]
    entries = entry_models(replica)
    for suffix in PROBE_SUFFIXES:
        found = [model for model in entries if model.endswith(suffix)]
        if found:
            return found
    return entries


def is_loopback(host: Optional[str]) -> bool:
    """Whether *host* of a URL means the host itself."""
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def host_of(address: Any) -> str:
    """Where a client of this host reaches a server that listens on *address*, as in a URL."""
    text = str(address)
    if text in ANY_ADDRESS:
        return "127.0.0.1"
    return f"[{text}]" if ":" in text else text


def http_url(replica: Replica) -> str:
    """The URL of Triton's HTTP endpoint."""
    return f"http://{host_of(replica['address'])}:{replica['http_port']}"


def probe_body(replica: Replica) -> str:
    """The smallest request: one token. The empty word lists are needed up to 0.8."""
    if serve.is_served(replica):
        return json.dumps({"model": entry_models(replica)[0], "prompt": "1", "max_tokens": 1})
    if replica["mode"] == triton_launch.LLMAPI:
        return json.dumps({"text_input": "1", "sampling_param_max_tokens": 1})
    return json.dumps({"text_input": "1", "max_tokens": 1, "bad_words": "", "stop_words": ""})


def probe_command(replica: Replica, mode: str) -> str:
    """The shell command that judges a replica in its container; *mode* is ``start`` or ``steady``.

    What it does and why is told in the script itself, roles/triton/files/probe.sh or serve_probe.sh.
    """
    served = serve.is_served(replica)
    metrics = {} if served else {"metrics_url": f"http://{host_of(replica['address'])}:{replica['metrics_port']}"}
    if served and disaggregated.is_disaggregated(replica):
        metrics = {"servers": f"'{disaggregated.metrics(replica)}'"}
    settings = {
        "url": http_url(replica),
        **metrics,
        "body": f"'{probe_body(replica)}'",
        "token_timeout": int(replica["probe_timeout"]),
        "hang_timeout": int(replica["hang_timeout"]),
        "retries": int(replica["probe_retries"]),
    }
    words = [f"{name}={value}" for name, value in settings.items()]
    script = serve.PROBE if served else "probe.sh"
    return " ".join([*words, "sh", f"{scripts_dir(replica)}/{script}", mode, *probe_models(replica)])


def probes(replica: Replica) -> dict[str, Any]:
    """The health keys.

    A probe judges by itself when enough is enough, so one failure of it counts; its time limits only end one that got
    lost. The start-up probe has no limit but ``TimeoutStartSec``; podman starts it again.
    """
    token = len(probe_models(replica)) * (int(replica["probe_timeout"]) + PROBE_SLACK)
    tries = max(1, int(replica["probe_retries"]))
    return {
        "HealthCmd": probe_command(replica, "steady"),
        "HealthInterval": f"{replica['probe_interval']}s",
        "HealthTimeout": f"{(tries + 2) * token + int(replica['hang_timeout'])}s",
        "HealthRetries": 1,
        "HealthOnFailure": "kill",
        "HealthStartupCmd": probe_command(replica, "start"),
        "HealthStartupInterval": "1s",
        "HealthStartupRetries": 0,
        "HealthStartupTimeout": f"{3 * token}s",
    }


def scripts_dir(replica: Replica) -> str:
    """Where the scripts of a replica are, on the host and in the container. Others are elsewhere, as replicas that
    run must keep theirs.
    """
    digest = hashlib.sha256(json.dumps(dict(replica["scripts"]), sort_keys=True).encode()).hexdigest()
    return f"{SCRIPTS_DIR}/{digest[:16]}"


def service_section(name: str, replica: Replica) -> dict[str, Any]:
    """systemd's part: how it restarts, and how it stops."""
    stop = int(replica["stop_timeout"])
    # The script comes from the host, as the container that ends may be of a release that has another or none. It needs
    # a right that the container has not, to close a connection of another process.
    end = (
        serve.stop(name, scripts_dir(replica), stop)
        if serve.is_served(replica)
        else (
            f"exec {PODMAN} exec --interactive --privileged {name} python3 -I -S - {ends_after(replica)} "
            f"{replica['http_port']} < {scripts_dir(replica)}/stop.py"
        )
    )
    section: dict[str, Any] = {
        "Restart": "on-failure",
        "RestartSec": 1,
        "RestartSteps": 8,
        "RestartMaxDelaySec": 30,
        "TimeoutStopSec": 2 * stop + 30,
        **serve.prepare(replica),
        "ExecStop": "-" + command_line(["/bin/sh", "-c", end]),
    }
    if replica.get("start_timeout") is not None:
        section["TimeoutStartSec"] = int(replica["start_timeout"])
    return section


def gpu_name(gpu: Any) -> str:
    """The shortest of the names by which a GPU can be given: ``nvidia.com/gpu=0`` is ``0``."""
    return cdi_name(gpu).removeprefix(f"{CDI_KIND}=")


def check_names(replicas: Sequence[Replica]) -> None:
    """Refuse a replica name that cannot name a unit, and one given twice."""
    for replica in replicas:
        missing = [key for key in ("name", "model") if replica.get(key) is None]
        if missing:
            raise FleetError(f"triton_replicas has {show(replica.get('name'))} without {missing[0]}; give it one.")
    names = [check_name(replica["name"], "triton_replicas[].name") for replica in replicas]
    for name in names:
        if names.count(name) > 1:
            raise FleetError(f"triton_replicas has two replicas called {name!r}; give each its own name.")


def check_gpus(replicas: Sequence[Replica]) -> None:
    """Refuse a GPU given twice, also as a whole and as a MIG instance of it."""
    taken: dict[str, str] = {}
    for replica in replicas:
        for gpu in replica.get("gpus") or []:
            check_gpu(gpu, f"The replica {replica['name']}")
        for gpu in (str(gpu) for gpu in replica.get("gpus") or []):
            for other, owner in taken.items():
                if same_gpu(gpu, other):
                    raise FleetError(
                        f"GPU {gpu} of replica {replica['name']} is already given to {owner} (as {other}); give each "
                        "replica GPUs of its own."
                    )
            taken[gpu] = str(replica["name"])


def same_gpu(left: Any, right: Any) -> bool:
    """Whether two names are of one GPU: equal, one a MIG instance of the other, or one of them ``all``."""
    one, other = gpu_name(left), gpu_name(right)
    return one == other or "all" in (one, other) or one == other.split(":")[0] or other == one.split(":")[0]
