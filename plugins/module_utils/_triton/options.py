# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be said about a replica, as a table.

From it `make docs` writes what the role triton repeats: defaults, the settings that hold for all replicas, and argument
specs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Optional

from .._base.errors import FleetError
from .._base.names import show


class Form(NamedTuple):
    """What the text of a value, an element or a dictionary's key looks like, and the same in words."""

    pattern: re.Pattern[str]
    words: str


# Models and addresses stand in the probe's shell command.
ADDRESS = Form(
    re.compile(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9a-fA-F:]*:[0-9a-fA-F:.]*"),
    "an IP address to listen on, e.g. 127.0.0.1",
)
RDMA_DEVICE = Form(
    re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+=[\w.:-]+)?", re.ASCII), "an RDMA device such as mlx5_0, or a CDI name"
)
MODEL = Form(re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII), "the name of a model of the repository")
PROGRAM = Form(re.compile(r"[^;].*"), "the path of a program")
SIZE = Form(re.compile(r"[1-9][0-9]*(?:[kKmMgGtT][iI]?[bB]?|[bB])?"), "a size such as 2g or 512m")
VOLUME = Form(re.compile(r"[^:\s][^:]*:/[^:]*(?::[\w,=]+)?"), "SOURCE:TARGET or SOURCE:TARGET:OPTIONS")
VARIABLE = Form(re.compile(r"[A-Za-z_]\w*", re.ASCII), "the name of a variable")
CAPABILITY = Form(re.compile(r"[A-Za-z_]+"), "a capability such as SYS_PTRACE")
ARGUMENT = Form(re.compile(r"--?[A-Za-z].*"), "options of the server, each with its value in one word")
# A day and more is no time that anybody waits; what is no time is bounded by what a signed 32-bit number holds.
MOST = 2**31 - 1


class ReplicaOption(NamedTuple):
    """A key of ``triton_replicas``. *variable*: the role has ``triton_<name>`` for all replicas, with the default.

    *form*: of its text, its elements or its keys; *least*: of a number, which is MOST at most.
    """

    name: str
    type: str
    description: str
    elements: Optional[str] = None
    choices: tuple[str, ...] = ()
    required: bool = False
    variable: bool = False
    default: Any = None
    form: Optional[Form] = None
    least: int = 0


REPLICA_OPTIONS = [
    ReplicaOption("name", "str", "Names the replica; the service is C(triton-NAME).", required=True),
    ReplicaOption("model", "str", "The model that it serves.", required=True),
    ReplicaOption("release", "str", "The release of this replica, where it is not O(triton_release)."),
    ReplicaOption("image", "str", "The image of this replica, by digest or ID, where it is not O(triton_image)."),
    ReplicaOption(
        "repository_dir",
        "path",
        "The model repository. Mounted read-only at the same path, like everything of a replica.",
    ),
    ReplicaOption("engine_dirs", "list", "The engines that the repository names.", elements="path"),
    ReplicaOption("checkpoint_dirs", "list", "The checkpoints whose tokenizer the repository names.", elements="path"),
    ReplicaOption("fingerprint", "str", "The fingerprint of the repository; only told."),
    ReplicaOption(
        "world_size",
        "int",
        "The ranks of the engine, each a tritonserver under one mpirun. 1 in the modes V(orchestrator) and V(llmapi).",
        default=1,
        least=1,
    ),
    ReplicaOption(
        "mode",
        "str",
        "V(leader) for one engine, V(orchestrator) for several models in one server, V(llmapi) for releases "
        "without engines, V(trtllm-serve) for TensorRT-LLM's own server in the place of Triton. V(leader) by default.",
        choices=("leader", "orchestrator", "llmapi", "trtllm-serve"),
        default="leader",
    ),
    ReplicaOption(
        "gpus",
        "list",
        "The GPUs, as CDI indices, MIG instances (V(0:1)) or UUIDs. None are handed over by default.",
        elements="raw",
    ),
    ReplicaOption(
        "context",
        "list",
        "With O(triton_replicas[].mode=trtllm-serve), servers that read prompts, each a list of its GPUs; "
        "O(triton_replicas[].generation) are given too, and O(triton_replicas[].gpus) are those of all then.",
        elements="list",
    ),
    ReplicaOption(
        "generation",
        "list",
        "The servers that write the answers, each a list of its GPUs.",
        elements="list",
    ),
    ReplicaOption(
        "nodes",
        "list",
        "The hosts that the ranks are on, each with C(name) and C(address), the leader's first; as many ranks on "
        "each. Without them all ranks are on this host.",
        elements="dict",
    ),
    ReplicaOption("node", "int", "Which of O(triton_replicas[].nodes) this host is; V(0) is the leader."),
    ReplicaOption(
        "gang_port",
        "int",
        "The first port on which O(triton_replicas[].nodes) reach each other. Workers wait on it for their leader, "
        "Open MPI's daemons listen on the next, and ranks on fifty from ten above on.",
        default=18700,
    ),
    ReplicaOption(
        "rdma",
        "list",
        "The RDMA devices (C(mlx5_0)) that ranks of several hosts talk through, or CDI names such as "
        "C(nvidia.com/mofed=all). By default a node hands over all that it has, and V([]) hands over none.",
        elements="str",
        form=RDMA_DEVICE,
    ),
    ReplicaOption(
        "address",
        "str",
        "The address that Triton's HTTP, gRPC and metrics ports listen on. Give an address of the host where "
        "gateways run elsewhere; Triton itself asks nobody for a password.",
        variable=True,
        default="127.0.0.1",
        form=ADDRESS,
    ),
    ReplicaOption(
        "http_port",
        "int",
        "The port of Triton's HTTP endpoint. 8000 for the first replica and ten more for each next one by default.",
    ),
    ReplicaOption(
        "grpc_port", "int", "The port of Triton's gRPC endpoint, by default one above O(triton_replicas[].http_port)."
    ),
    ReplicaOption(
        "metrics_port", "int", "The port of Triton's metrics, by default two above O(triton_replicas[].http_port)."
    ),
    ReplicaOption(
        "entry_models",
        "list",
        "The models that clients ask. C(ensemble) and C(tensorrt_llm_bls) by default.",
        elements="str",
        form=MODEL,
    ),
    ReplicaOption(
        "probe_models",
        "list",
        "The models that the health probe asks for a token. C(tensorrt_llm_bls) where it is an entry model, "
        "as a token through it passes every process of the repository.",
        elements="str",
        form=MODEL,
    ),
    ReplicaOption(
        "model_control_mode", "str", "Triton's own option of that name.", choices=("none", "explicit", "poll")
    ),
    ReplicaOption(
        "load_models",
        "list",
        "The models to load with O(triton_replicas[].model_control_mode=explicit).",
        elements="str",
        form=MODEL,
    ),
    ReplicaOption(
        "worker_models",
        "list",
        "The models that ranks after the first load. C(tensorrt_llm) by default.",
        elements="str",
        form=MODEL,
    ),
    ReplicaOption("oversubscribe", "bool", "Let mpirun start more ranks than it sees slots for."),
    ReplicaOption(
        "spawn_processes",
        "bool",
        "Whether an orchestrator spawns its workers itself (from TensorRT-LLM 0.13 on). V(true) by default.",
    ),
    ReplicaOption("llmapi_launch", "bool", "Start tritonserver through trtllm-llmapi-launch in mode V(llmapi)."),
    ReplicaOption("tritonserver", "path", "Where tritonserver is in the image.", form=PROGRAM),
    ReplicaOption(
        "exit_timeout",
        "int",
        "Seconds that Triton waits for requests in flight when it ends. By default ten less than "
        "O(triton_replicas[].stop_timeout).",
        least=1,
    ),
    ReplicaOption(
        "start_timeout",
        "int",
        "Seconds that a start may take, instead of the value worked out from the engine's size.",
        least=1,
    ),
    ReplicaOption(
        "shm_size",
        "str",
        "Shared memory of a container. Ranks and Python processes talk through it.",
        variable=True,
        default="2g",
        form=SIZE,
    ),
    ReplicaOption(
        "memory",
        "str",
        "Limit the memory of a container, for example V(64g). No limit when null.",
        variable=True,
        form=SIZE,
    ),
    ReplicaOption(
        "cpus", "float", "Limit the CPUs of a container, for example V(8) or V(1.5). No limit when null.", variable=True
    ),
    ReplicaOption(
        "read_only",
        "bool",
        "Mount the container's root read-only, with a memory disk for /tmp and /run.",
        variable=True,
        default=False,
    ),
    ReplicaOption(
        "capabilities",
        "list",
        "Capabilities that a container gets; all others are dropped. Triton needs none.",
        elements="str",
        variable=True,
        default=[],
        form=CAPABILITY,
    ),
    ReplicaOption(
        "environment",
        "dict",
        "Environment variables of the containers. Nothing secret belongs here: C(podman inspect) shows it.",
        variable=True,
        default={},
        form=VARIABLE,
    ),
    ReplicaOption(
        "extra_args",
        "list",
        "Further options for tritonserver, or for trtllm-serve.",
        elements="str",
        variable=True,
        default=[],
        form=ARGUMENT,
    ),
    ReplicaOption(
        "volumes",
        "list",
        "Further volumes of the containers, as C(SOURCE:TARGET:OPTIONS).",
        elements="str",
        variable=True,
        default=[],
        form=VOLUME,
    ),
    ReplicaOption("log_verbose", "int", "Level of Triton's verbose log; V(0) is off.", variable=True, default=0),
    ReplicaOption(
        "stop_timeout",
        "int",
        "Seconds that requests in flight may take to finish when a replica stops.",
        variable=True,
        default=60,
        least=1,
    ),
    ReplicaOption(
        "probe_interval",
        "int",
        "Ask a running replica for a token every so many seconds. On a host, each time takes a tenth of a second of "
        "the processor, nearly all of it podman's.",
        variable=True,
        default=30,
        least=1,
    ),
    ReplicaOption(
        "probe_timeout",
        "int",
        "Seconds that the token may take while Triton gets nothing done. A server with a full queue or a long "
        "prompt works, and is left alone for as long as it does; a broken one answers with an error at once.",
        variable=True,
        default=60,
        least=1,
    ),
    ReplicaOption(
        "hang_timeout",
        "int",
        "A server that hangs is killed, and systemd starts it again, when it has given no sign of life for so "
        "many seconds: no token, and no answer to Triton's C(/v2/health/live), which needs no model and comes "
        "within milliseconds however full the queue is. A hang is noticed this long after it began, and "
        "O(triton_probe_interval) seconds later at most.",
        variable=True,
        default=25,
        least=1,
    ),
    ReplicaOption(
        "probe_retries",
        "int",
        "After so many wrong answers in a row, a second apart, the replica is killed, and systemd starts it again.",
        variable=True,
        default=2,
        least=1,
    ),
]

# What holds where neither the role nor the replica says otherwise.
DEFAULTS: dict[str, Any] = {
    option.name: option.default for option in REPLICA_OPTIONS if option.variable or option.default is not None
}


def argument_spec(without: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """What a replica may say, as ``options`` of an argument spec, all of it optional; *without* some keys."""
    spec: dict[str, dict[str, Any]] = {}
    for option in REPLICA_OPTIONS:
        if option.name in without:
            continue
        # Choices are judged below: models that say nothing share one default, which has a null for each option then.
        about = {"type": option.type, "elements": option.elements}
        spec[option.name] = {key: value for key, value in about.items() if value}
    return spec


def check_values(replica: Mapping[str, Any]) -> None:
    """Refuse a value that no unit can say; raises `FleetError` with the replica's name."""
    for option in REPLICA_OPTIONS:
        value = replica.get(option.name)
        if value is None:
            continue
        what = f"{replica['name']}: {option.name}"
        if option.choices and value not in option.choices:
            raise FleetError(f"{what} is {show(value)}; it is one of {', '.join(option.choices)}.")
        if option.type in ("int", "float"):
            number = float(value) if isinstance(value, str) else value  # of a command line it is a text
            if not option.least <= number <= MOST:
                raise FleetError(f"{what} is {value}; give a number from {option.least} to {MOST}.")
        elif option.form:
            texts = value if isinstance(value, (list, tuple, Mapping)) else [value]
            for text in texts:
                if not option.form.pattern.fullmatch(str(text)):
                    raise FleetError(f"{what} has {show(text)}; it takes {option.form.words}.")
