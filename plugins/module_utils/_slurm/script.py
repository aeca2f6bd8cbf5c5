# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Batch scripts: a replica of Triton whose ranks are tasks of Slurm, and the build of an engine. Pure.

The command of each rank is that of the release's own launcher without mpirun: Slurm starts the ranks, and they find
each other by PMIx. What is in the container beside Triton is told in roles/slurm/files.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from .._base.errors import FleetError
from .._base.names import check_text, show
from .._release.releases import release as release_of
from .._triton import launch as triton_launch
from .._triton.gang import SILENT, is_gang, node_names
from .._triton.ports import PORTS
from .._triton.replica import (
    ENVIRONMENT,
    START_WORD,
    entry_models,
    launch_of,
    probe_body,
    probe_models,
    read_only_paths,
    served,
)
from .submit import PLACE, PORTS_PER_SLOT, RESULT, SLOTS

Item = dict[str, Any]
PODMAN, PYXIS = "podman", "pyxis"
LAUNCHERS = (PODMAN, PYXIS)
PREFIX, BUILD_PREFIX = "trtllm-", "trtllm.build-"
# Filled in on the node, by the shell.
ADDRESS, JOB_ID, RANK = "@TRTLLM_ADDRESS@", "@SLURM_JOB_ID@", "@SLURM_PROCID@"
SHELL = {
    ADDRESS: "$TRTLLM_ADDRESS",
    JOB_ID: "$SLURM_JOB_ID",
    RANK: "$SLURM_PROCID",
    START_WORD: "$(cat /proc/sys/kernel/random/uuid)",
}
# The role decides these; others are a site's own.
OWN_OPTIONS = (
    "job-name", "comment", "output", "error", "nodes", "ntasks", "ntasks-per-node", "gres", "gpus", "requeue",
    "no-requeue", "open-mode", "array", "wrap", "parsable", "wait", "test-only",
)  # fmt: skip
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What Slurm calls kinds of Gres, with a type, and plugins.
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
OPTION = re.compile(r"--([a-z][a-z0-9-]*)(?:=.*)?", re.S)
# Of the lines "node: address:port" the address in the first.
FIRST_ADDRESS = r"1s/.* \[*\([0-9A-Fa-f.:]*\)\]*:[0-9]*$/\1/p"
# Ranks that end within so many seconds, so many times in a row, will not get better by themselves.
EARLY_SECONDS, EARLY_ENDS = 300, 5
# Seconds after the end of the first rank within which the others end too.
WAIT_SECONDS = 10
# Ranks of one node are in containers of their own; memory between processes of different ones is copied by them.
RANK_ENVIRONMENT = {"OMPI_MCA_btl": "self,vader,tcp", "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl_tcp_disable_family": "6"}
# As roles of the host give it; each at its path.
CONTAINER = ("--ulimit=memlock=-1:-1", "--ulimit=stack=67108864:67108864", "--pids-limit=-1", "--cap-drop=all")


def layout(name: str, ranks: int, gpus_per_node: int) -> tuple[int, int]:
    """On how many nodes the ranks are, and how many on each: as few nodes as can be."""
    if gpus_per_node < 1:
        raise FleetError(f"slurm_gpus_per_node is {gpus_per_node}; give how many GPUs a node has, 1 or more.")
    if ranks <= gpus_per_node:
        return 1, ranks
    if ranks % gpus_per_node:
        raise FleetError(
            f"{name}: its engine has {ranks} ranks (tp_size * pp_size * cp_size), which do not fill nodes of "
            f"{gpus_per_node} GPUs (slurm_gpus_per_node); choose sizes whose product is a multiple of it, or less."
        )
    return ranks // gpus_per_node, gpus_per_node


def check_options(options: Sequence[str], what: str) -> list[str]:
    """A site's own options of sbatch."""
    for option in options:
        check_text(option, what)
        match = OPTION.fullmatch(option)
        if match is None:
            raise FleetError(f"{what} has {option!r}; give long options of sbatch, such as --partition=serving.")
        if match.group(1) in OWN_OPTIONS:
            raise FleetError(f"{what} has {option!r}, which follows from trtllm_models; leave it out.")
    return list(options)


def _shell(word: str) -> str:
    """*word* for a shell, with what is known on the node alone."""
    quoted = shlex.quote(word)
    around = "" if quoted == word else "'"
    for mark, variable in SHELL.items():
        quoted = quoted.replace(mark, f'{around}"{variable}"{around}')
    return quoted


def _words(words: Sequence[str]) -> str:
    return " ".join(_shell(word) for word in words)


def _head(options: Sequence[str]) -> list[str]:
    return ["#!/bin/bash", *(f"#SBATCH {option}" for option in options)]


def _environment(values: Mapping[str, Any]) -> list[str]:
    for name, value in values.items():
        if not VARIABLE.fullmatch(str(name)):
            raise FleetError(f"{show(name)} is no name of an environment variable; use letters, digits and '_'.")
        check_text(str(value), f"The environment variable {name}")
    return [f"export {name}={shlex.quote(str(value))}" for name, value in sorted(values.items())]


def _pull(settings: Mapping[str, Any]) -> str:
    """Bring the image to a node that has it not."""
    image = str(settings["image"])
    options = [] if settings.get("tls_verify", True) else ["--tls-verify=false"]
    options += [f"--authfile={settings['authfile']}"] if settings.get("authfile") else []
    return f"podman image exists {_shell(image)} || podman pull --quiet {_words([*options, image])}"


def _gres(settings: Mapping[str, Any], count: int) -> list[str]:
    return [f"--gres={_word(settings['gres'], 'slurm_gres')}:{count}"] if settings.get("gres") else []


def _word(value: Any, what: str) -> str:
    if not WORD.fullmatch(str(value)):
        raise FleetError(f"{what} is {show(value)}; give it as Slurm writes it, in letters, digits and '_.:-'.")
    return str(value)


# -- a replica -----------------------------------------------------------------------------------------------------


def serving_job(replica: Mapping[str, Any], settings: Mapping[str, Any], of_all: Mapping[str, Any]) -> Item:
    """The job of one replica, as M(trtllm.fleet.slurm_job) takes it: ``name``, ``script``, ``files`` and ``serves``.

    *replica*: as the role triton takes it, with repository and engines; *settings*: what the role slurm has for all;
    *of_all*: what the role triton has for every replica.
    """
    (full,) = served([replica], {**of_all, "scripts": {}})
    settings = {**settings, "image": full["image"]}
    name = str(full["name"])
    if is_gang(full):
        raise FleetError(
            f"{name}: nodes names {', '.join(node_names(full))}, but Slurm chooses its nodes; leave it out."
        )
    if full["mode"] != triton_launch.LEADER:
        raise FleetError(
            f"{name}: mode is {full['mode']}, but under Slurm each rank is a task, as in mode leader; serve it "
            "from an engine of its own, or on hosts of gpu_hosts."
        )
    if settings["launcher"] not in LAUNCHERS:
        raise FleetError(f"slurm_launcher is {settings['launcher']!r}; it is one of {', '.join(LAUNCHERS)}.")
    nodes, tasks = layout(name, int(full["world_size"]), int(settings["gpus_per_node"]))
    head = _head(
        [f"--nodes={nodes}", f"--ntasks-per-node={tasks}", *_gres(settings, tasks), "--requeue", "--open-mode=append",
         *check_options(settings["options"], "slurm_options")]
    )  # fmt: skip
    environment = {
        **ENVIRONMENT, **(RANK_ENVIRONMENT if nodes * tasks > 1 else {}), **settings["environment"],
        **(full.get("environment") or {}),
    }  # fmt: skip
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes * tasks}", f"--ntasks-per-node={tasks}",
            f"--mpi={_word(settings['mpi'], 'slurm_mpi')}", "--kill-on-bad-exit=1",
            f"--wait={WAIT_SECONDS}"]  # fmt: skip
    every_node = f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --mpi=none sh -c "
    pull = [f"{every_node}{shlex.quote(_pull(settings))} || exit 1"] if settings["launcher"] == PODMAN else []
    body = [
        "",
        f"# {name} of {full['model']}, rendered by trtllm.fleet: a change here is lost with the next one of the model.",
        "slot=${1:-0}",
        # Both of Slurm's own; what is not exported is no variable of the ranks.
        *_environment(environment),
        f"export TRTLLM_PASSED={shlex.quote(' '.join(sorted(environment)))}",
        "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}",
        # The first node of the list has rank 0.
        f"TRTLLM_ADDRESS=$(scontrol getaddrs \"$SLURM_JOB_NODELIST\" | sed -n '{FIRST_ADDRESS}')",
        "export TRTLLM_ADDRESS",
        "# Gateways look there: Slurm may start the job anew, on other nodes.",
        f'echo "$TRTLLM_ADDRESS" > {PLACE}/address.$$ && mv {PLACE}/address.$$ "{PLACE}/$SLURM_JOB_ID.address"',
        *pull,
        "",
        "# The ranks start again together when one has ended, as long as that does not happen at once each time.",
        "stopping= early=0",
        "trap 'stopping=1' TERM",
        'while [ -z "$stopping" ]; do',
        "    begun=$SECONDS",
        f'    {_words(step)} {_rank(full, settings, tasks)} "$slot"',
        "    status=$?",
        '    [ -z "$stopping" ] || break',
        f"    sh {PLACE}/current.sh || {{ echo 'trtllm.fleet: Slurm has given this start up'; exit 0; }}",
        f"    early=$((SECONDS - begun < {EARLY_SECONDS} ? early + 1 : 0))",
        '    echo "trtllm.fleet: the ranks ended with exit code $status after $((SECONDS - begun)) s"',
        f'    [ "$early" -lt {EARLY_ENDS} ] || exit 1',
        "    sleep $((2 * early))",
        "done",
        "",
    ]
    return {
        "name": PREFIX + name,
        "replica": name,
        "model": full["model"],
        "release": str(full["release"]),
        "entry_models": entry_models(full),
        "ports": {key: int(full[key]) for key, _what in PORTS},
        "script": "\n".join([*head, *body]),
        "files": {
            **{name: f"{text}\n" for name, text in settings["scripts"].items()},
            "probe.sh": f"{of_all['scripts']['probe.sh']}\n",
            "server.sh": _server(full),
        },
        "serves": {
            "port": int(full["http_port"]),
            "models": probe_models(full),
            "body": json.loads(probe_body(full)),
        },
    }


def _mounts(replica: Mapping[str, Any]) -> list[str]:
    paths = [path for path in read_only_paths(replica) if path.startswith("/") and not path.startswith("/etc/trtllm/")]
    return [*(f"{path}:{path}:ro" for path in [*paths, PLACE]), *(replica.get("volumes") or [])]


def _rank(replica: Mapping[str, Any], settings: Mapping[str, Any], tasks: int) -> str:
    """What starts the container of each of the *tasks* ranks of a node; the number of the slot follows."""
    inside = ["sh", f"{PLACE}/rank.sh"]
    if settings["launcher"] == PYXIS:
        image = settings.get("container_image") or str(settings["image"]).replace("/", "#", 1)
        return _words(
            [f"--container-image={image}", f"--container-mounts={','.join(_mounts(replica))}", "--container-workdir=/",
             *inside]
        )  # fmt: skip
    # Ranks of a node share its memory disk, through which they talk; one alone has its own.
    limits = ["--ipc=host"] if tasks > 1 else [f"--shm-size={replica['shm_size']}"]
    limits += [f"--memory={replica['memory']}"] if replica.get("memory") else []
    limits += [f"--cpus={replica['cpus']}"] if replica.get("cpus") else []
    limits += [f"--cap-add={capability}" for capability in replica.get("capabilities") or []]
    limits += ["--read-only"] if replica.get("read_only") else []
    volumes = [f"--volume={mount}" for mount in _mounts(replica)]
    return _words(["sh", f"{PLACE}/task.sh", *CONTAINER, *limits, *volumes, str(settings["image"]), *inside])


def _server(replica: Mapping[str, Any]) -> str:
    """What rank.sh reads: the settings of the probe, and the command of each rank."""
    lines = [
        f"interval={int(replica['probe_interval'])}",
        f"models={shlex.quote(' '.join(probe_models(replica)))}",
        f"export body={shlex.quote(probe_body(replica))} token_timeout={int(replica['probe_timeout'])}",
        f"export hang_timeout={int(replica['hang_timeout'])} retries={int(replica['probe_retries'])}",
        "case $slot in",
    ]
    for slot in range(SLOTS):
        http, metrics = (int(replica[key]) + PORTS_PER_SLOT * slot for key in ("http_port", "metrics_port"))
        lines.append(
            f'{slot}) export url="http://$TRTLLM_ADDRESS:{http}" metrics_url="http://$TRTLLM_ADDRESS:{metrics}" ;;'
        )
    lines += ["esac", "serve() {", "    case $slot:$SLURM_PROCID in"]
    version = release_of(str(replica["release"])).version
    for slot in range(SLOTS):
        first, *others = triton_launch.ranks(version, _launch(replica, slot))
        lines.append(f"    {slot}:0) exec {_words(first)} ;;")
    if others:
        # The ranks after the first differ in their number alone.
        words = [word.replace(f"{JOB_ID}_1_", f"{JOB_ID}_{RANK}_") for word in others[0]]
        lines.append(f"    *) exec {_words(words)} ;;")
    return "\n".join([*lines, "    esac", "}", ""])


def _launch(replica: Mapping[str, Any], slot: int) -> triton_launch.Launch:
    """Triton's command for one slot: only the first rank listens, at the address of its node."""
    own = {**replica, "address": ADDRESS, **{key: int(replica[key]) + PORTS_PER_SLOT * slot for key, _what in PORTS}}
    launch = launch_of(own)
    listen = tuple(word for word in launch.extra if word.endswith(f"-address={ADDRESS}"))
    return dataclasses.replace(
        launch,
        shm_prefix=f"{JOB_ID}_",
        extra=tuple(word for word in launch.extra if word not in listen),
        extra_first=(*listen, *launch.extra_first),
        extra_others=SILENT,
    )


# -- an engine -----------------------------------------------------------------------------------------------------

PROGRAM, SPEC = "build.pyz", "build.json"
BUILD_POLL = 1


def build_job(engine: Mapping[str, Any], settings: Mapping[str, Any]) -> Item:
    """The job that builds an engine on one node: ``name``, ``script`` and ``files``; *engine*: as the module has it.

    *settings*: ``gpus`` (how many the build has), ``gres``, ``options``, ``python``, ``image``, ``tls_verify`` and
    ``authfile``.
    """
    head = _head(
        ["--nodes=1", "--ntasks=1", *_gres(settings, int(settings["gpus"])), "--no-requeue", "--open-mode=append",
         "--dependency=singleton", *check_options(settings["options"], "sbatch_options")]
    )  # fmt: skip
    spec = {"engine": dict(engine), "poll": BUILD_POLL, "result": f"{PLACE}/{RESULT}"}
    body = [
        "",
        f"# The engine of {engine['name']}, built by trtllm.fleet.",
        f"{_pull({**settings, 'image': engine['image']})} || exit 1",
        f"exec {_words([str(settings['python']), f'{PLACE}/{PROGRAM}', f'{PLACE}/{SPEC}'])}",
        "",
    ]
    return {
        "name": BUILD_PREFIX + str(engine["name"]),
        "script": "\n".join([*head, *body]),
        "files": {SPEC: json.dumps(spec, sort_keys=True)},
    }
