# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command of a Triton container, word for word as each release's own launcher composes it.

Upstream's launcher starts the processes and returns, so a container that runs it exits at once; the units of
this collection run the composed command themselves, and the container ends with mpirun.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable

from .._base.errors import FleetError
from .._base.versions import version_key

TRITONSERVER = "/opt/tritonserver/bin/tritonserver"
MPIRUN = ["mpirun", "--allow-run-as-root"]
LEADER, ORCHESTRATOR, LLMAPI = "leader", "orchestrator", "llmapi"
MODES = (LEADER, ORCHESTRATOR, LLMAPI)


@dataclass(frozen=True)
class Launch:
    """One server to start. Ports and paths are as seen in the container, which shares the host's network.

    *world_size*: ranks, each a tritonserver of its own under one mpirun. *worker_models*: what the ranks after
    the first load. *shm_prefix*: names of shared memory begin with it and the rank, so it must be unique on a
    host wherever containers share ``/dev/shm``. *extra*: further options for every rank; *extra_first*: for
    the first rank, the one that serves; *extra_others*: for those after it. *hosts*: by rank the host that it is on, as
    mpirun calls it; all on this one where none are given.
    """

    repository: str
    world_size: int = 1
    mode: str = LEADER
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    worker_models: tuple[str, ...] = ("tensorrt_llm",)
    shm_prefix: str = "prefix"
    oversubscribe: bool = False
    spawn_processes: bool = True
    gpu_count: int = 0
    llmapi_launch: bool = False
    tritonserver: str = TRITONSERVER
    extra: tuple[str, ...] = ()
    extra_first: tuple[str, ...] = ()
    extra_others: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


Segment = Callable[[Launch, int, "Launcher"], list[str]]


@dataclass(frozen=True)
class Launcher:
    """Releases whose launchers compose the same command. *options* are those added up to here."""

    first: str
    order: tuple[str, ...]
    joined_models: bool = False
    options: frozenset[str] = frozenset()


# What came when. The order of the words is part of the contract: it is what upstream tested together.
LAUNCHERS = [
    Launcher("0.5.0", ("repository", "tail")),
    Launcher("0.7.0", ("ports", "repository", "tail"), options=frozenset({"ports"})),
    Launcher("0.8.0", ("repository", "worker", "ports", "tail"), joined_models=True, options=frozenset({"ports"})),
    Launcher("0.9.0", ("repository", "worker", "ports", "tail"), options=frozenset({"ports", "orchestrator"})),
    Launcher(
        "0.11.0",
        ("repository", "worker", "ports", "tail"),
        options=frozenset({"ports", "orchestrator", "oversubscribe"}),
    ),
    Launcher(
        "0.13.0",
        ("repository", "worker", "pools", "ports", "tail"),
        options=frozenset({"ports", "orchestrator", "oversubscribe", "pools"}),
    ),
    Launcher(
        "0.19.0",
        ("repository", "ports", "worker", "pools", "ports", "tail"),
        options=frozenset({"ports", "orchestrator", "oversubscribe", "pools"}),
    ),
    Launcher(
        "1.0.0",
        ("repository", "ports", "worker", "pools", "ports", "tail"),
        options=frozenset({"ports", "orchestrator", "oversubscribe", "pools", "llmapi"}),
    ),
]

_SEGMENTS: dict[str, Segment] = {
    "repository": lambda launch, rank, launcher: [f"--model-repository={launch.repository}"],
    "ports": lambda launch, rank, launcher: [
        f"--grpc-port={launch.grpc_port}",
        f"--http-port={launch.http_port}",
        f"--metrics-port={launch.metrics_port}",
    ],
    "worker": lambda launch, rank, launcher: (
        []
        if rank == 0
        else ["--model-control-mode=explicit", *_load_models(launch.worker_models, launcher.joined_models)]
    ),
    "pools": lambda launch, rank, launcher: _pools(launch),
    "tail": lambda launch, rank, launcher: [
        "--disable-auto-complete-config",
        f"--backend-config=python,shm-region-prefix-name={launch.shm_prefix}{rank}_",
    ],
}


def _load_models(models: tuple[str, ...], joined: bool) -> list[str]:
    return [f"--load-model={','.join(models)}"] if joined else [f"--load-model={model}" for model in models]


def _pools(launch: Launch) -> list[str]:
    """An orchestrator's server must leave GPU memory to the workers that it spawns."""
    if launch.mode != ORCHESTRATOR or not launch.spawn_processes:
        return []
    gpus = [f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(launch.gpu_count)]
    return ["--pinned-memory-pool-byte-size=0", "--enable-peer-access=false", *gpus]


def launcher_of(version: str) -> Launcher:
    """How the launcher of *version* composes; the versions between two known follow the earlier."""
    key = version_key(version)
    known = [launcher for launcher in LAUNCHERS if version_key(launcher.first) <= key]
    if not known:
        raise FleetError(f"TensorRT-LLM {version} is older than {LAUNCHERS[0].first}, the first with a launcher.")
    return known[-1]


def command(version: str, launch: Launch) -> list[str]:
    """The argv of the container for a TensorRT-LLM *version* (``"0.7.1"``, ``"1.0.0"``, ...).

    Raises `FleetError` for what the launcher of that release cannot do, naming the first that can.
    """
    words = MPIRUN + (["--oversubscribe"] if launch.oversubscribe else [])
    for rank, of_rank in enumerate(ranks(version, launch)):
        words += ["-n", "1"]
        words += ["--host", f"{launch.hosts[rank]}:{launch.hosts.count(launch.hosts[rank])}"] if launch.hosts else []
        words += [*of_rank, ":"]
    return words


def ranks(version: str, launch: Launch) -> list[list[str]]:
    """By rank its command, for whatever starts the ranks: mpirun, or Slurm. Errors as `command`."""
    launcher = launcher_of(version)
    _check(version, launch, launcher)
    found = []
    for rank in range(launch.world_size):
        words = ["trtllm-llmapi-launch"] if launch.llmapi_launch else []
        words.append(launch.tritonserver)
        for segment in launcher.order:
            words += _SEGMENTS[segment](launch, rank, launcher)
        found.append([*words, *(launch.extra_others if rank else launch.extra_first), *launch.extra])
    return found


def environment(version: str, launch: Launch) -> dict[str, str]:
    """What the launcher of *version* adds to the environment."""
    if launch.mode != ORCHESTRATOR:
        return dict(launch.environment)
    found = {"TRTLLM_ORCHESTRATOR": "1"}
    if "pools" in launcher_of(version).options:
        found["TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES"] = "1" if launch.spawn_processes else "0"
    return {**found, **launch.environment}


def _check(version: str, launch: Launch, launcher: Launcher) -> None:
    default = Launch(launch.repository)
    wanted: list[tuple[str, str, Any]] = [
        ("ports", "other ports than 8000, 8001 and 8002", _ports(launch) != _ports(default)),
        ("orchestrator", "orchestrator mode", launch.mode == ORCHESTRATOR),
        ("oversubscribe", "oversubscription", launch.oversubscribe),
        ("llmapi", "trtllm-llmapi-launch", launch.llmapi_launch),
    ]
    for option, words, is_wanted in wanted:
        if is_wanted and option not in launcher.options:
            first = next(known.first for known in LAUNCHERS if option in known.options)
            raise FleetError(f"The launcher of TensorRT-LLM {version} has no {words}; the first that has is {first}.")
    if launch.world_size < 1:
        raise FleetError(f"A server needs at least one rank, given is {launch.world_size}.")
    if launch.mode == ORCHESTRATOR and launch.spawn_processes and launch.world_size != 1:
        raise FleetError(
            f"An orchestrator spawns its workers and starts as one rank itself, given are {launch.world_size}; "
            "set its world size to 1."
        )


def _ports(launch: Launch) -> tuple[int, int, int]:
    return launch.http_port, launch.grpc_port, launch.metrics_port
