# SPDX-License-Identifier: GPL-3.0-or-later
"""A rank that the leading one spawned: it loads its part of the engine and serves steps until it is released."""

from __future__ import annotations

import sys
from dataclasses import replace

from .communicator import OverMPI, start_mpi
from .errors import TrtllmError
from .executor import serve_steps
from .loading import load_model
from .mapping import Mapping
from .parameters import Parameters


def main() -> int:
    """Run this rank. Returns the exit status; an engine that cannot be loaded ends the whole world."""
    mpi = start_mpi()
    world = mpi.Comm.Get_parent().Merge(high=True)
    mapping: Mapping = world.recv(source=0)
    comm = OverMPI(world, replace(mapping, rank=world.Get_rank()))
    parameters: Parameters = comm.receive(0)
    try:
        model, _, _ = load_model(parameters, comm, lambda text: print(text, file=sys.stderr))
    except TrtllmError as e:
        print(f"[TensorRT-LLM][ERROR] rank {world.Get_rank()}: {e}", file=sys.stderr, flush=True)
        world.Abort(1)
        return 1
    serve_steps(model, comm)
    return 0


if __name__ == "__main__":
    sys.exit(main())
