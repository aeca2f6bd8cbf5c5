# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica of two kinds of servers: some of trtllm-serve read prompts, others write the answers.

All of them run in one container, with `trtllm-serve disaggregated` before them on the replica's port, so that for
everybody else it is one replica. What starts and ends them is roles/triton/files/serve_parts.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from .._base.errors import FleetError
from .._release.serve import CONTEXT, GENERATION

KINDS = (CONTEXT, GENERATION)
SCRIPT, PYTHON = "serve_parts.py", ("python3", "-I", "-S")
VARIABLE = "TRTLLM_PARTS"
# The servers listen on the loopback address, on the ports after those that every replica has.
FIRST_PORT, PORTS_LEFT = 3, 7
LOOPBACK = "127.0.0.1"
# systemd and the probe decide how long a start may take, and the gateway how long an answer.
PATIENCE = {"server_start_timeout": 86400, "request_timeout": 86400}

Replica = Mapping[str, Any]


def is_disaggregated(replica: Replica) -> bool:
    """Whether the replica has servers of two kinds."""
    return any(replica.get(kind) for kind in KINDS)


def gpus(replica: Replica) -> list[Any]:
    """The GPUs of all its servers."""
    return [gpu for kind in KINDS for server in replica.get(kind) or [] for gpu in server]


def check(replica: Replica, ranks: Optional[int] = None) -> None:
    """Raise `FleetError` for kinds that contradict themselves; *ranks*: of each server, where they are known."""
    name = replica["name"]
    for kind in KINDS:
        servers = replica.get(kind)
        if not servers:
            raise FleetError(
                f"{name}: it has servers of one kind alone; give {kind} too, a list of GPUs for each server, or gpus "
                "in the place of both."
            )
        for index, server in enumerate(servers):
            if not isinstance(server, Sequence) or isinstance(server, str):
                raise FleetError(f"{name}: {kind}[{index}] is {server!r}; give the list of the server's GPUs.")
            if server and ranks is not None and len(server) != ranks:
                raise FleetError(
                    f"{name}: {kind}[{index}] has {len(server)} GPUs, but each server has {ranks} ranks (tp_size * "
                    f"pp_size * cp_size); give it {ranks}."
                )
            for gpu in server:
                _visible(name, kind, gpu, [])
    if len({str(gpu).startswith("GPU-") for gpu in gpus(replica)}) > 1:
        raise FleetError(
            f"{name}: context and generation name some of its GPUs by index and some by UUID, and which index one has "
            "in the container is not known then; name all of them in one way."
        )
    count = sum(len(replica[kind]) for kind in KINDS)
    if count > PORTS_LEFT:
        raise FleetError(
            f"{name}: it has {count} servers, and a replica has ports for {PORTS_LEFT}; make a second replica of some."
        )
    given = replica.get("gpus")
    if given is not None and list(given) != gpus(replica):
        raise FleetError(f"{name}: gpus are given beside context and generation, which say them; leave gpus out.")


def _visible(name: str, kind: str, gpu: Any, indices: Sequence[int]) -> str:
    """What a server is told of one GPU: its UUID, or its place among those of the container."""
    text = str(gpu)
    if text.startswith("GPU-"):
        return text
    if not text.isdigit():
        raise FleetError(f"{name}: {kind} names the GPU {text}; give indices or UUIDs (GPU-...) of whole GPUs.")
    return str(sorted(indices).index(int(text))) if indices else text


def listens(replica: Replica) -> list[dict[str, Any]]:
    """Where its servers listen."""
    return [{"address": LOOPBACK, "port": part["port"], "what": part["name"]} for part in _parts(replica)]


def check_ports(replicas: Sequence[Replica], keys: Sequence[str]) -> None:
    """Raise `FleetError` for a port of another replica, by one of *keys*, on which a server listens already."""
    parts = [(replica, part) for replica in replicas if is_disaggregated(replica) for part in _parts(replica)]
    held = {int(one[key]): (one["name"], key) for one in replicas for key in keys if one.get(key) is not None}
    for replica, part in parts:
        owner, what = held.get(part["port"], (replica["name"], ""))
        if owner != replica["name"]:
            raise FleetError(
                f"Port {part['port']} is that of {owner}.{what}, but {replica['name']}, which has its http_port and "
                f"the nine after it, has a server there ({part['name']}); give {owner} other ports."
            )
        held[part["port"]] = (replica["name"], part["name"])


def _parts(replica: Replica) -> list[dict[str, Any]]:
    """Each server: ``name``, ``kind``, ``port`` and ``gpus``."""
    indices = [int(gpu) for gpu in gpus(replica) if str(gpu).isdigit()]
    found: list[dict[str, Any]] = []
    for kind in KINDS:
        for index, server in enumerate(replica[kind]):
            port = int(replica["http_port"]) + FIRST_PORT + len(found)
            visible = [_visible(str(replica["name"]), kind, gpu, indices) for gpu in server]
            found.append({"name": f"{kind}-{index}", "kind": kind, "port": port, "gpus": visible})
    return found


def command(replica: Replica, scripts: str) -> list[str]:
    """What the container runs. The port stands in it, by which the replica is known to have it."""
    return [*PYTHON, f"{scripts}/{SCRIPT}", f"--port={replica['http_port']}"]


def told(replica: Replica, model: str, address: str) -> str:
    """What the script is told: the servers, and the file of the one before them. JSON is YAML."""
    parts = _parts(replica)
    servers = [
        {
            "name": part["name"],
            "gpus": ",".join(part["gpus"]),
            "argv": [
                "trtllm-serve", "serve", model, f"--host={LOOPBACK}", f"--port={part['port']}",
                f"--extra_llm_api_options={replica['repository_dir']}/{part['kind']}.yaml",
                *(str(argument) for argument in replica.get("extra_args") or []),
            ],
        }
        for part in parts
    ]  # fmt: skip
    front: dict[str, Any] = {"hostname": address, "port": int(replica["http_port"])}
    for kind in KINDS:
        urls = [f"{LOOPBACK}:{part['port']}" for part in parts if part["kind"] == kind]
        front[f"{kind}_servers"] = {"num_instances": len(urls), "urls": urls}
    options = [f"--{name}={value}" for name, value in PATIENCE.items()]
    argv = ["trtllm-serve", "disaggregated", "--config_file=@file@", *options]
    return json.dumps({"servers": servers, "front": {"argv": argv, "file": front}}, separators=(",", ":"))


def metrics(replica: Replica) -> str:
    """Where statistics of iterations are asked for: the one before the servers has none."""
    return " ".join(f"http://{LOOPBACK}:{part['port']}" for part in _parts(replica))
