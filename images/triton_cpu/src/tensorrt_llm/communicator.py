# SPDX-License-Identifier: GPL-3.0-or-later
"""How the ranks of one model talk: alone, or over MPI.

Within a forward pass ranks exchange arrays (`all_reduce`, `all_gather`, `send`/`receive`). Between passes the
leading rank sends the next step to the others; these wait by polling with growing pauses, because a
blocking MPI receive burns a core while it waits.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from .errors import TrtllmError
from .mapping import Mapping
from .safetensors_file import Float32

# Where NVIDIA's image keeps the program of a spawned rank, and the parameter executor_worker_path points.
WORKER = "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker"


class Communicator(Protocol):
    """What a rank can do. Ranks are numbered in the world; tensor-parallel groups are known to it."""

    rank: int
    size: int

    def all_reduce(self, values: Float32) -> Float32:
        """The sum over this rank's tensor-parallel group."""

    def all_gather(self, values: Float32) -> Float32:
        """The group's arrays side by side, joined along the last axis in rank order."""

    def send(self, what: Any, to: int) -> None:
        """Hand a Python object to another rank of the world."""

    def receive(self, source: int) -> Any:
        """Wait for an object from another rank, without burning a core."""

    def close(self) -> None:
        """Leave the world; collective."""


class Alone:
    """A world of one."""

    rank = 0
    size = 1

    def all_reduce(self, values: Float32) -> Float32:
        return values

    def all_gather(self, values: Float32) -> Float32:
        return values

    def send(self, what: Any, to: int) -> None:
        raise TrtllmError(f"there is no rank {to} in a world of one")

    def receive(self, source: int) -> Any:
        raise TrtllmError(f"there is no rank {source} in a world of one")

    def close(self) -> None:
        """Nothing is open."""


class OverMPI:
    """A world of MPI processes. mpi4py is imported here alone: a world of one never starts MPI."""

    # Seconds between two looks for a message: at once while a request runs, slower the longer it is quiet.
    _SHORTEST, _LONGEST = 0.0002, 0.01

    def __init__(self, world: Any, mapping: Mapping) -> None:
        """`world` is an mpi4py intracommunicator; every rank of it must call this."""
        self._world = world
        self.rank: int = world.Get_rank()
        self.size: int = world.Get_size()
        self._group = world.Split(color=mapping.pp_rank, key=mapping.tp_rank)

    def all_reduce(self, values: Float32) -> Float32:
        if self._group.Get_size() == 1:
            return values
        result = np.empty_like(values)
        self._group.Allreduce(np.ascontiguousarray(values), result)
        return result

    def all_gather(self, values: Float32) -> Float32:
        parts = self._group.Get_size()
        if parts == 1:
            return values
        gathered = np.empty((parts, *values.shape), np.float32)
        self._group.Allgather(np.ascontiguousarray(values), gathered)
        return np.concatenate(list(gathered), axis=-1)

    def send(self, what: Any, to: int) -> None:
        self._world.send(what, dest=to)

    def receive(self, source: int) -> Any:
        pause = self._SHORTEST
        quiet_since = time.monotonic()
        while not self._world.Iprobe(source=source):
            time.sleep(pause)
            if time.monotonic() - quiet_since > 1.0:
                pause = min(self._LONGEST, pause * 2)
        return self._world.recv(source=source)

    def close(self) -> None:
        from mpi4py import MPI

        if not MPI.Is_finalized():
            MPI.Finalize()


def world_size_of_launcher() -> int:
    """How many ranks mpirun (or Slurm's PMIx) started; 1 without either."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 1


def is_orchestrator() -> bool:
    """Whether this server starts the other ranks of its models itself (several models behind one server)."""
    return os.environ.get("TRTLLM_ORCHESTRATOR") == "1"


def start_mpi() -> Any:
    """mpi4py's MPI module, with threads, left to be finalised by `OverMPI.close`."""
    import mpi4py

    mpi4py.rc.threads = True
    mpi4py.rc.finalize = False
    from mpi4py import MPI

    return MPI


def join_world(mapping: Mapping) -> Communicator:
    """The communicator for a model of `mapping`'s world. `mapping.rank` is not looked at; the launcher decides.

    Raises: the world has another size than the engine, in the words of the real runtime.
    """
    size = world_size_of_launcher()
    if is_orchestrator() and size == 1 < mapping.world_size:
        return spawn_world(mapping)
    if size != mapping.world_size:
        raise TrtllmError(
            f"Assertion failed: mpiSize == tp * pp ({size} != {mapping.tp_size} * {mapping.pp_size}): the engine was"
            f" built for {mapping.world_size} ranks, mpirun started {size}"
        )
    if size == 1:
        return Alone()
    _claim_rank()
    world = start_mpi().COMM_WORLD
    return OverMPI(world, replace(mapping, rank=world.Get_rank()))


def spawn_world(mapping: Mapping) -> Communicator:
    """Start the other ranks as processes of their own, under an MPI world that belongs to this model alone."""
    for name in [n for n in os.environ if n.startswith(("OMPI_", "PMIX_"))]:
        # What mpirun told the server is the server's; several models cannot all be its rank 0.
        del os.environ[name]
    world = start_mpi().COMM_SELF.Spawn(WORKER, maxprocs=mapping.world_size - 1).Merge(high=False)
    for rank in range(1, mapping.world_size):
        world.send(mapping, dest=rank)
    return OverMPI(world, replace(mapping, rank=0))


def _claim_rank() -> None:
    """Make sure that no other model of this server is this rank of mpirun's world: MPI would not come up twice."""
    name = f"{os.environ.get('PMIX_NAMESPACE', '')}.{os.environ.get('OMPI_COMM_WORLD_RANK', '')}"
    lock = os.open(f"{tempfile.gettempdir()}/tensorrt_llm-{name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise TrtllmError(
            "another model of this server spans several ranks already; serve several such models in orchestrator mode"
            " (TRTLLM_ORCHESTRATOR=1)"
        ) from None
