# SPDX-License-Identifier: GPL-3.0-or-later
"""How the ranks of one model talk: alone, or over MPI.

Within a forward pass ranks exchange arrays (`all_reduce`, `all_gather`, `send`/`receive`). Between passes the
leading rank sends the next step to the others; these wait by polling with growing pauses, because a
blocking MPI receive burns a core while it waits.
"""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

import numpy as np

from .errors import TrtllmError
from .mapping import Mapping
from .safetensors_file import Float32


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


def join_world(mapping: Mapping) -> Communicator:
    """The communicator for a model of `mapping`'s world. `mapping.rank` is not looked at; the launcher decides.

    Raises: the world has another size than the engine, in the words of the real runtime.
    """
    size = world_size_of_launcher()
    if size != mapping.world_size:
        raise TrtllmError(
            f"Assertion failed: mpiSize == tp * pp ({size} != {mapping.tp_size} * {mapping.pp_size}): the engine was"
            f" built for {mapping.world_size} ranks, mpirun started {size}"
        )
    if size == 1:
        return Alone()
    import mpi4py

    mpi4py.rc.threads = True
    mpi4py.rc.finalize = False
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    own = Mapping(world.Get_rank(), mapping.tp_size, mapping.pp_size)
    return OverMPI(world, own)
