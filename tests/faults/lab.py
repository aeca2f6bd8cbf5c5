# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of the matrix of faults, which are kept for all rows, and the plays that are run on them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPO / "collections"))

from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir

TESTBED = REPO / "tests" / "testbed" / "testbed"
PLAYER = REPO / "molecule" / "rollout_faults" / "files" / "faults.py"
GPU_PREPARED = REPO / "molecule" / "gpu_driver" / "prepare.yml"
GPU_TREE = REPO / "tests" / "data" / "hosts" / "hgx-h200" / "sys" / "bus" / "pci" / "devices"
WORK = cache_dir() / "faults"
REGISTRY = "10.200.0.2:5000"
WAY = "127.0.0.1:5001"
SMALL = "faults/small:1"
HUB = "http://127.0.0.1:8080"
MODEL = "tiny-llama"
MIB = 24
"""Of the small image, in one layer that does not compress."""
SERVING = {"brk1": "10.200.0.11", "brk2": "10.200.0.12"}
GPU = {"brk3": "10.200.0.13"}
REPOSITORIES = {"brk4": "10.200.0.14"}
OTHER = {"brk5": "10.200.0.15"}
ADDRESSES = {**SERVING, **GPU, **REPOSITORIES, **OTHER}
SCRATCH = "/srv/scratch"
"""A root of its own on a small disk, for faults of disks."""

COMMIT = "1" * 40
ABOUT_HUB = {"revisions": {"main": COMMIT}, "commits": {COMMIT: "files"}}
FROM_HUB = {
    "name": "from-hub", "source": "huggingface", "repo": "acme/tiny-llama", "revision": "main", "endpoint": HUB,
    "exclude": [],
}  # fmt: skip
ENGINE = {
    "name": "scratch", "checkpoint": f"/var/lib/trtllm/checkpoints/{MODEL}", "gpus": [0],
    "options": {"dtype": "float32", "max_batch_size": 4, "max_input_len": 64, "max_seq_len": 96},
}  # fmt: skip
DESCRIBED = {
    "name": MODEL,
    "checkpoint": {"source": "path", "path": str(cache_dir() / "demo" / MODEL)},
    "engine": {"dtype": "float32", "max_batch_size": 8, "max_input_len": 256, "max_seq_len": 512},
    "serving": {"replicas": [{"gpus": [0]}]},
}
COMMON: dict[str, Any] = {
    "ansible_user": "root",
    "ansible_ssh_private_key_file": str(cache_dir() / "testbed" / "id_ed25519"),
    "ansible_ssh_common_args": (
        "-o IdentitiesOnly=yes -o StrictHostKeyChecking=yes"
        f" -o UserKnownHostsFile={cache_dir() / 'testbed' / 'known_hosts'} -o GlobalKnownHostsFile=/dev/null"
    ),
    "ansible_python_interpreter": "/usr/bin/python3",
    "trtllm_release": "1.2.1",
    "trtllm_root": "/var/lib/trtllm",
    "trtllm_triton_address": "{{ ansible_host }}",
    "trtllm_keep": "all",
    "trtllm_models": [DESCRIBED],
    "triton_image_name": f"{REGISTRY}/triton_cpu:1.2.1",
    "triton_image_tls_verify": False,
    "openai_gateway_image_name": f"{REGISTRY}/openai_gateway:0.1.0",
    "openai_gateway_image_tls_verify": False,
    "rollout_journal": str(WORK / "{{ inventory_hostname }}-rollouts.jsonl"),
}
REPOSITORY = "http://10.200.0.14:8080"
FABRICATED: dict[str, Any] = {
    "molecule_repositories": REPOSITORY,
    "molecule_fingerprint": f"{{{{ lookup('ansible.builtin.url', '{REPOSITORY}/fingerprint') }}}}",
    "gpu_driver_repository_root": f"{REPOSITORY}/nvidia",
    "gpu_driver_repository_fingerprints": ["{{ molecule_fingerprint }}"],
    "container_toolkit_repository_root": f"{REPOSITORY}/toolkit",
    "container_toolkit_repository_fingerprints": ["{{ molecule_fingerprint }}"],
    "gpu_driver_reboot": "if_needed",
    "gpu_driver_reboot_timeout": 120,
    "gpu_driver_branch": "570",
    "gpu_driver_version": "570.172.08",
    "container_toolkit_version": "1.17.8",
}
OWN = "tests/faults/play.yml"
# What is run: a playbook, and the variables that it is given.
PLAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "site": ("playbooks/site.yml", {}),
    "host": ("playbooks/host.yml", {}),
    "model": ("playbooks/model.yml", {}),
    "serve": ("playbooks/serve.yml", {}),
    "rollout": ("playbooks/rollout.yml", {}),
    "verify": ("playbooks/verify.yml", {}),
    "status": ("playbooks/status.yml", {}),
    "podman": (OWN, {"faults_role": "podman"}),
    "driver": (OWN, {"faults_role": "gpu_driver"}),
    "toolkit": (OWN, {"faults_role": "container_toolkit"}),
    "image": (
        OWN,
        {
            "faults_role": "triton_image", "triton_image_name": f"{WAY}/{SMALL}", "triton_image_retries": 1,
            "triton_image_retry_delay": 1,
        },
    ),
    "checkpoint": (
        OWN,
        {
            "faults_role": "checkpoint", "checkpoint_root": SCRATCH,
            "checkpoint_models": [{"name": "scratch", "source": "path", "path": DESCRIBED["checkpoint"]["path"]}],
        },
    ),
    "hub": (
        OWN,
        {
            "faults_role": "checkpoint", "checkpoint_root": SCRATCH, "checkpoint_models": [FROM_HUB],
            "checkpoint_image_source": "pull", "checkpoint_image_name": f"{REGISTRY}/checkpoint_fetch:0.1.0",
            "checkpoint_image_tls_verify": False,
        },
    ),
    "tokenizer": ("tests/faults/tokenizer.yml", {"tokenizer_root": SCRATCH}),
    "save": ("tests/faults/save.yml", {}),
    "triton": (OWN, {"faults_role": "triton"}),
    "gateway": (OWN, {"faults_role": "openai_gateway"}),
    "engine": (
        OWN,
        {
            "faults_role": "engine", "engine_root": SCRATCH, "engine_models": [ENGINE], "engine_release": "1.2.1",
            "engine_image": f"{REGISTRY}/triton_cpu:1.2.1", "engine_poll": 1,
        },
    ),
}  # fmt: skip


# Plays of one role that get what serve.yml had worked out for it, as it is the role that is looked at.
SAVED = ("triton", "gateway")


def testbed(*words: str, stdin: str | bytes | None = None, limit: float = 300, check: bool = True) -> str:
    """What the testbed says."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run([str(TESTBED), *words], input=given, capture_output=True, timeout=limit, check=False)
    if check and done.returncode:
        raise RuntimeError(f"testbed {' '.join(words)}: {done.stdout.decode()} {done.stderr.decode()}".strip())
    return done.stdout.decode(errors="replace").strip()


def ssh(host: str, command: str) -> list[str]:
    """A command of the shell on a host; unlike an exec, ssh keeps no host from rebooting."""
    options = str(COMMON["ansible_ssh_common_args"]).split()
    key = str(COMMON["ansible_ssh_private_key_file"])
    alive = [
        "-o",
        "ConnectTimeout=10",
        "-o",
        "ServerAliveInterval=5",
        "-o",
        "ServerAliveCountMax=3",
        "-o",
        "LogLevel=ERROR",
    ]
    return ["ssh", "-i", key, *options, *alive, f"root@{ADDRESSES[host]}", f"bash -c {shlex.quote(command)}"]


def on(host: str, command: str, limit: float = 120) -> tuple[int, str]:
    """The exit status of a command of the shell on a host, and what it says."""
    try:
        done = subprocess.run(
            ssh(host, command), capture_output=True, text=True, timeout=limit, check=False, errors="replace",
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 124, f"no end within {limit:.0f} s"
    return done.returncode, (done.stdout + done.stderr).strip()


def must(host: str, command: str, limit: float = 300) -> str:
    """The same; raises RuntimeError where it fails."""
    status, said = on(host, command, limit)
    if status:
        raise RuntimeError(f"{host}: {command[:300]}: {said[-600:]}")
    return said


def put(host: str, path: str, content: str | bytes) -> None:
    """A file on a host."""
    testbed("exec", host, "--", "sh", "-c", f"mkdir -p $(dirname {path}) && cat > {path}", stdin=content)


def inventory(host: str) -> Path:
    """The inventory that has one host alone, or the GPU host with what serves its repositories."""
    place = WORK / f"{host}.json"
    variables = {**COMMON, **(FABRICATED if host in GPU else {})}
    own = {host: {"ansible_host": ADDRESSES[host]}}
    children: dict[str, Any] = {"gpu_hosts": {"hosts": own}}
    if host in GPU:
        variables.pop("trtllm_models")
        children["fabricated"] = {"hosts": own}
        children["gpu1"] = {"hosts": {name: {"ansible_host": ip} for name, ip in REPOSITORIES.items()}}
    place.write_text(json.dumps({"all": {"vars": variables, "children": children}}))
    return place


def environment() -> dict[str, str]:
    """That of playbooks."""
    return {
        **os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "false",
        "ANSIBLE_NOCOLOR": "true", "PATH": f"{REPO / '.venv' / 'bin'}:{os.environ['PATH']}",
    }  # fmt: skip


def command_of(host: str, play: str, given: Mapping[str, Any]) -> list[str]:
    """The command that runs a play on a host."""
    playbook, variables = PLAYS[play]
    saved = WORK / f"{host}-saved.json"
    words = ["ansible-playbook", "-i", str(inventory(host)), "--limit", host, str(REPO / playbook)]
    if play == "save":
        variables = {"faults_saved": str(saved)}
    elif play in SAVED:
        words += ["-e", f"@{saved}"]
    return [*words, "-e", json.dumps({**variables, **given})]


def up() -> None:
    """Bring up the hosts, and what stands on each for the rows; what is there is kept."""
    WORK.mkdir(parents=True, exist_ok=True)
    tree = WORK / "pci"
    if not tree.exists():
        shutil.copytree(GPU_TREE, tree, symlinks=True)
    hosts = [
        {"name": name, "ip": ip, "tmpfs": [f"{SCRATCH}:size=256m"]} for name, ip in SERVING.items()
    ] + [
        {"name": name, "ip": ip, "gpu": False, "volumes": [f"{tree}:/sys/bus/pci/devices:ro"]}
        for name, ip in GPU.items()
    ] + [{"name": name, "ip": ip, "gpu": False} for name, ip in REPOSITORIES.items()]  # fmt: skip
    for host in hosts:
        host.setdefault("gpu", True)
    testbed("registry", "up")
    plain = [host for host in hosts if host["gpu"]]
    testbed("up", "--from", "-", stdin=json.dumps(plain))
    testbed("up", "--no-gpu", "--from", "-", stdin=json.dumps([host for host in hosts if not host["gpu"]]))
    for host in SERVING:
        furnish(host)


def unit(command: str) -> str:
    """The text of a unit that is there after a reboot too."""
    return f"[Service]\nExecStart={command}\nRestart=always\n[Install]\nWantedBy=multi-user.target\n"


def furnish(host: str) -> None:
    """A way to the registry that can go wrong, and a hub, on a host."""
    if on(host, "systemctl is-active faults-way.service faults-hub.service && ls /usr/lib/*/faketime")[0] == 0:
        return
    put(host, "/usr/local/lib/way.py", (REPO / "tests" / "faults" / "way.py").read_text())
    put(host, "/usr/local/lib/hub_server.py", (REPO / "tests" / "hub_server.py").read_text())
    address, _, port = REGISTRY.partition(":")
    put(host, "/etc/systemd/system/faults-way.service", unit(f"python3 /usr/local/lib/way.py 5001 {address} {port}"))
    hub = unit("python3 /usr/local/lib/hub_server.py /srv/hub 8080")
    put(host, "/etc/systemd/system/faults-hub.service", hub)
    for path in sorted(Path(DESCRIBED["checkpoint"]["path"]).iterdir()):
        put(host, f"/srv/hub/acme/tiny-llama/files/{path.name}", path.read_bytes())
    put(host, "/srv/hub/acme/tiny-llama/hub.json", json.dumps(ABOUT_HUB))
    must(host, "apt-get -qq update && apt-get -qqy install --no-install-recommends libfaketime > /dev/null")
    must(host, "systemctl daemon-reload && systemctl enable --now faults-way.service faults-hub.service")
    small_image(host)


def small_image(host: str) -> None:
    """An image of which nothing compresses, in the registry."""
    made = (
        f"curl -fsI -o /dev/null http://{REGISTRY}/v2/faults/small/manifests/1"
        " -H 'Accept: application/vnd.oci.image.manifest.v1+json' && exit 0; set -e; cd $(mktemp -d);"
        f" head -c {MIB}M /dev/urandom > data;"
        " printf 'FROM scratch\\nCOPY data /\\nCMD [\"/data\"]\\n' > Containerfile; podman build -q -t small . &&"
        f" podman push -q --tls-verify=false small {REGISTRY}/{SMALL}; podman rmi -f small"
    )
    must(host, made)


def down() -> None:
    """Remove the hosts."""
    testbed("down", *ADDRESSES)


def quoted(host: str, command: str) -> str:
    """A command on the host, as one of this machine's shell."""
    return f"{shlex.join(ssh(host, command))} < /dev/null"
