# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is different about a replica that loads a checkpoint itself, without an engine.

trtllm-serve, TensorRT-LLM's own server, is no Triton: it speaks OpenAI's API on one port, starts its own ranks, and
calls its model by the name of the directory that it is given. In the mode llmapi it is Triton's one Python model that
loads the checkpoint, starts the ranks, and has tensors of other names.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .._base.errors import FleetError
from .._release.releases import FLOW_SERVE, Release, flow_of
from .._release.serve import caches, check_arguments, check_disaggregated
from .._service.quadlet import PODMAN
from . import disaggregated, gang
from .launch import LLMAPI

MODE, API = FLOW_SERVE, "openai"
# What such replicas speak; all others speak as Triton's models for engines do.
APIS = {MODE: API, LLMAPI: LLMAPI}
PORTS = (("http_port", "HTTP"),)
RUN, PROBE, STOP = "serve_run.sh", "serve_probe.sh", "serve_stop.sh"
SCRIPTS = ("run.sh", RUN, PROBE, STOP)
# Where the checkpoint is in the container, below the name of the model.
MODELS = "/models"
LLM_ARGS = "llm_args.yaml"
# Where what a start compiles and tunes is kept, below the root of the fleet, and in the container.
CACHES, CACHE = "caches", "/cache"
# By which tar, restic and others know what they need not keep.
CACHE_TAG = "Signature: 8a477f597d28d172789f06886806bc55"
MADE_BY_US = re.compile(r"(?P<root>/.*)/repositories/[^/]+/(?P<fingerprint>[0-9a-f]{64})/?")

Replica = Mapping[str, Any]


def is_served(replica: Replica) -> bool:
    """Whether the replica is trtllm-serve."""
    return replica.get("mode") == MODE


def loads_checkpoint(replica: Replica) -> bool:
    """Whether the replica loads a checkpoint and not an engine."""
    return replica.get("mode") in APIS


def check(replica: Replica, release: Release) -> None:
    """Raise `FleetError` for what trtllm-serve of *release* cannot do."""
    name = str(replica["name"])
    flow_of(release, MODE)
    if gang.is_gang(replica):
        raise FleetError(
            f"{name}: nodes is given, but trtllm-serve runs on one host here; leave nodes out, or set flow: engine."
        )
    if len(replica.get("checkpoint_dirs") or []) != 1:
        raise FleetError(f"{name}: trtllm-serve serves one checkpoint; give the directory of it as checkpoint_dirs.")
    check_arguments(release, replica.get("extra_args") or [], f"{name}: extra_args")
    if disaggregated.is_disaggregated(replica):
        check_disaggregated(release, f"{name}: context and generation")
        disaggregated.check(replica)


def place(replica: Replica) -> str:
    """The checkpoint in the container."""
    return f"{MODELS}/{replica['model']}"


def volumes(replica: Replica) -> list[str]:
    """Of trtllm-serve the checkpoint, where its name is the model's, and what starts keep for the next."""
    found, kept = [], cache_dir(replica)
    if is_served(replica):
        found.append(f"{posixpath.normpath(str(replica['checkpoint_dirs'][0]))}:{place(replica)}:ro,z")
    return [*found, *([f"{kept}:{CACHE}:rw,z"] if kept else [])]


def cache_dir(replica: Replica) -> str:
    """The directory of the host for what a start compiles and tunes; empty where there is an engine, or the repository
    is not one of ours.

    One for each replica, as two would write at once, by all that such work follows from but the kind of GPU: what it is
    served by and what it is told, which has the content of the checkpoint in it.
    """
    made = MADE_BY_US.fullmatch(str(replica.get("repository_dir")))
    if not made or not loads_checkpoint(replica):
        return ""
    told = {"image": replica["image"], "told": made["fingerprint"], "gpus": len(replica.get("gpus") or [])}
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return f"{made['root']}/{CACHES}/{replica['name']}/{key}"


def environment(replica: Replica, release: Release) -> dict[str, str]:
    """Where the libraries of the server keep what they compile and tune, and of what servers it is made up."""
    parts = {}
    if is_served(replica) and disaggregated.is_disaggregated(replica):
        parts = {disaggregated.VARIABLE: disaggregated.told(replica, place(replica), str(replica["address"]))}
    return {**parts, **_caches(replica, release)}


def _caches(replica: Replica, release: Release) -> dict[str, str]:
    return {name: f"{CACHE}/{where}" for name, where in caches(release).items()} if cache_dir(replica) else {}


def files(replica: Replica) -> dict[str, str]:
    """What makes the directory, and has backups leave it out."""
    kept = cache_dir(replica)
    return {f"{kept}/CACHEDIR.TAG": f"{CACHE_TAG}\n"} if kept else {}


def prepare(replica: Replica) -> dict[str, str]:
    """What systemd does before the start: a cache may be removed at any time."""
    kept = cache_dir(replica)
    return {"ExecStartPre": f"/bin/mkdir -p {kept}"} if kept else {}


def command(replica: Replica, scripts: str) -> list[str]:
    """The words that the container runs; its scripts are in *scripts*."""
    if disaggregated.is_disaggregated(replica):
        return disaggregated.command(replica, scripts)
    return [
        "trtllm-serve",
        "serve",
        place(replica),
        f"--host={replica['address']}",
        f"--port={replica['http_port']}",
        f"--extra_llm_api_options={replica['repository_dir']}/{LLM_ARGS}",
        *(str(argument) for argument in replica.get("extra_args") or []),
    ]


def stop(container: str, scripts: str, seconds: int) -> str:
    """The command of the host that ends the replica, which has so many seconds for what is in flight.

    The script comes from the host, as the container that ends may have another.
    """
    return f"exec {PODMAN} exec --interactive {container} sh -s {seconds} < {scripts}/{STOP}"


def refuse_elsewhere(replicas: Sequence[Replica], where: str) -> None:
    """Raise `FleetError` for a replica that is to run *where* none that loads a checkpoint itself runs yet."""
    for replica in replicas:
        if loads_checkpoint(replica):
            raise FleetError(
                f"{replica['name']}: its flow is {replica['mode']}, which runs as a service of a host (rollout.yml, "
                f"serve.yml) and not {where} yet; serve it so, or set flow: engine and a release that has it."
            )
