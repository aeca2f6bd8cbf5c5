# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be said about a replica, as a table.

From it `make docs` writes what the role triton repeats: defaults, the settings that hold for all replicas, and argument
specs.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional


class ReplicaOption(NamedTuple):
    """A key of ``triton_replicas``. *variable*: the role has ``triton_<name>`` for all replicas, with the default."""

    name: str
    type: str
    description: str
    elements: Optional[str] = None
    choices: tuple[str, ...] = ()
    required: bool = False
    variable: bool = False
    default: Any = None


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
    ),
    ReplicaOption(
        "mode",
        "str",
        "V(leader) for one engine, V(orchestrator) for several models in one server, V(llmapi) for releases "
        "without engines. V(leader) by default.",
        choices=("leader", "orchestrator", "llmapi"),
        default="leader",
    ),
    ReplicaOption(
        "gpus",
        "list",
        "The GPUs, as CDI indices, MIG instances (V(0:1)) or UUIDs. None are handed over by default.",
        elements="raw",
    ),
    ReplicaOption(
        "address",
        "str",
        "The address that Triton's HTTP, gRPC and metrics ports listen on. Give an address of the host where "
        "gateways run elsewhere; Triton itself asks nobody for a password.",
        variable=True,
        default="127.0.0.1",
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
    ),
    ReplicaOption(
        "probe_models",
        "list",
        "The models that the health probe asks for a token. C(tensorrt_llm_bls) where it is an entry model, "
        "as a token through it passes every process of the repository.",
        elements="str",
    ),
    ReplicaOption(
        "model_control_mode", "str", "Triton's own option of that name.", choices=("none", "explicit", "poll")
    ),
    ReplicaOption(
        "load_models",
        "list",
        "The models to load with O(triton_replicas[].model_control_mode=explicit).",
        elements="str",
    ),
    ReplicaOption(
        "worker_models",
        "list",
        "The models that ranks after the first load. C(tensorrt_llm) by default.",
        elements="str",
    ),
    ReplicaOption("oversubscribe", "bool", "Let mpirun start more ranks than it sees slots for."),
    ReplicaOption(
        "spawn_processes",
        "bool",
        "Whether an orchestrator spawns its workers itself (from TensorRT-LLM 0.13 on). V(true) by default.",
    ),
    ReplicaOption("llmapi_launch", "bool", "Start tritonserver through trtllm-llmapi-launch in mode V(llmapi)."),
    ReplicaOption("tritonserver", "path", "Where tritonserver is in the image."),
    ReplicaOption(
        "exit_timeout",
        "int",
        "Seconds that Triton waits for requests in flight when it ends. By default ten less than "
        "O(triton_replicas[].stop_timeout).",
    ),
    ReplicaOption(
        "start_timeout", "int", "Seconds that a start may take, instead of the value worked out from the engine's size."
    ),
    ReplicaOption(
        "shm_size",
        "str",
        "Shared memory of a container. Ranks and Python processes talk through it.",
        variable=True,
        default="2g",
    ),
    ReplicaOption(
        "memory", "str", "Limit the memory of a container, for example V(64g). No limit when null.", variable=True
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
    ),
    ReplicaOption(
        "environment",
        "dict",
        "Environment variables of the containers. Nothing secret belongs here: C(podman inspect) shows it.",
        variable=True,
        default={},
    ),
    ReplicaOption("extra_args", "list", "Further options for tritonserver.", elements="str", variable=True, default=[]),
    ReplicaOption(
        "volumes",
        "list",
        "Further volumes of the containers, as C(SOURCE:TARGET:OPTIONS).",
        elements="str",
        variable=True,
        default=[],
    ),
    ReplicaOption("log_verbose", "int", "Level of Triton's verbose log; V(0) is off.", variable=True, default=0),
    ReplicaOption(
        "stop_timeout",
        "int",
        "Seconds that requests in flight may take to finish when a replica stops.",
        variable=True,
        default=60,
    ),
    ReplicaOption(
        "probe_interval", "int", "Ask a running replica for a token every so many seconds.", variable=True, default=10
    ),
    ReplicaOption(
        "probe_timeout",
        "int",
        "Seconds that the token may take while Triton gets nothing done. A server with a full queue or a long "
        "prompt works, and is left alone for as long as it does; a broken one answers with an error at once.",
        variable=True,
        default=60,
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
    ),
    ReplicaOption(
        "probe_retries",
        "int",
        "After so many wrong answers in a row, a second apart, the replica is killed, and systemd starts it again.",
        variable=True,
        default=2,
    ),
]

# What holds where neither the role nor the replica says otherwise.
DEFAULTS: dict[str, Any] = {
    option.name: option.default for option in REPLICA_OPTIONS if option.variable or option.default is not None
}
