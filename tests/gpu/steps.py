#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of the acceptance run, inside the root file system that tests/gpu/run unpacked.

Each step says what it shows, then what it saw. The first one that does not show it ends the run with exit status 1.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path("/trtllm")
OUT = Path("/out")
NVIDIA = Path("/usr/local/nvidia")
HOST = "gpuhost"
HOST_IMAGE = "localhost/gpuhost:1"
SSH_PORT = 2222
NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
CDI = Path("/etc/cdi/nvidia.yaml")
FRESH = "/var/run/cdi/nvidia.yaml"
# An apt repository with NVIDIA's container toolkit, where tests/gpu/pack was given one.
TOOLKIT = Path("/payload/toolkit")
REFRESH, OWN_REFRESH = "nvidia-cdi-refresh.service", "trtllm-cdi-refresh.service"
INVENTORY = Path("/tmp/inventory.json")
MODEL = "tiny-llama"
# Asks the driver itself, so that nothing that is handed over is missing: two results and the number of GPUs.
CUDA = (
    "import ctypes; cuda = ctypes.CDLL('libcuda.so.1'); count = ctypes.c_int();"
    "print(cuda.cuInit(0), cuda.cuDeviceGetCount(ctypes.byref(count)), count.value)"
)
FAKE = bool(os.environ.get("TRTLLM_GPU_FAKE"))
RELEASE = "1.2.1"
STEPS: list[tuple[str, Callable[[], None]]] = []


class Failed(Exception):
    """A step did not show what it had to."""


def step(title: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def add(function: Callable[[], None]) -> Callable[[], None]:
        STEPS.append((title, function))
        return function

    return add


def call(*argv: str, expect: int | None = 0, timeout: int = 300, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it says on both channels."""
    done = subprocess.run(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        check=False,
    )
    if expect is not None and done.returncode != expect:
        raise Failed(f"{' '.join(argv)[:200]} ended with {done.returncode}, not {expect}:\n{done.stdout[-4000:]}")
    return done.stdout


def say(text: str) -> None:
    print("\n".join("    " + line for line in text.rstrip().splitlines()), flush=True)


def need(condition: Any, text: str) -> None:
    if not condition:
        raise Failed(text)


def ansible(*words: str, expect: int | None = 0, timeout: int = 550) -> str:
    settings = {"ANSIBLE_CONFIG": str(REPO / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "LD_LIBRARY_PATH": ""}
    return call(sys.executable, "-m", "ansible", *words, expect=expect, timeout=timeout, env=settings)


def playbook(name: str, *words: str, expect: int | None = 0) -> str:
    return ansible("playbook", "-i", str(INVENTORY), str(REPO / "playbooks" / name), *words, expect=expect)


def recap(said: str) -> str:
    """The line that counts what a playbook did on the host."""
    return [line for line in said.splitlines() if re.match(rf"{HOST}\s+: ok=", line)][-1]


def on_host(script: str, expect: int | None = 0) -> str:
    return call("podman", "exec", HOST, "sh", "-c", script, expect=expect)


def seen_by_host() -> dict[str, Any]:
    """What gpu_host_info reports of the host."""
    report = Path("/tmp/look.json")
    report.unlink(missing_ok=True)
    playbook("preflight.yml", "-e", f"preflight_report={report}", expect=None)
    return dict(json.loads(report.read_text())["hosts"][0]["facts"])


def look() -> dict[str, Any]:
    """What gpu_host_info reports of this machine."""
    program = (
        "import json; from ansible_collections.trtllm.fleet.plugins.module_utils._host import facts, system;"
        "print(json.dumps(facts.gather(system.System(), packages=[], units=[], paths=['/'])))"
    )
    path = f"{REPO}/collections:{os.environ['PYTHONPATH']}"
    found = json.loads(call(sys.executable, "-c", program, env={"PYTHONPATH": path}))
    return dict(found)


def gpu_indices() -> list[int]:
    return sorted(int(name[6:]) for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name))


def asked(field: str) -> list[str]:
    """What nvidia-smi says of each GPU, in the order of their indices."""
    return call("nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader").split("\n")[:-1]


def written_specification() -> str:
    """A specification as nvidia-ctk writes it, where that is not there."""
    devices = {str(index): [index] for index in gpu_indices()}
    lines = ["cdiVersion: 0.5.0", "kind: nvidia.com/gpu", "devices:"]
    for name, indices in {**devices, "all": gpu_indices()}.items():
        lines += [f'  - name: "{name}"', "    containerEdits:", "      deviceNodes:"]
        lines += [f"        - path: /dev/nvidia{index}" for index in indices]
    lines += ["containerEdits:", "  env:", f"    - LD_LIBRARY_PATH={NVIDIA}/lib64", "  deviceNodes:"]
    for node in NODES:
        if Path("/dev", node).exists():
            number = os.stat(f"/dev/{node}").st_rdev
            lines += [f"    - path: /dev/{node}"]
            lines += [f"      major: {os.major(number)}", f"      minor: {os.minor(number)}"]
    lines += ["  mounts:"]
    for source, target in ((f"{NVIDIA}/lib64",) * 2, (f"{NVIDIA}/bin/nvidia-smi", "/usr/bin/nvidia-smi")):
        lines += [f"    - hostPath: {source}", f"      containerPath: {target}"]
        lines += ["      options: [ro, nosuid, nodev, rbind]"]
    return "\n".join(lines) + "\n"


def cdi_specification() -> str:
    """The specification of this machine, by nvidia-ctk where it is there."""
    if not TOOLKIT.exists():
        return written_specification()
    command = ["nvidia-ctk", "--quiet", "cdi", "generate"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def declared() -> list[str]:
    """The names that the specification has to have."""
    names = [*map(str, gpu_indices()), "all", *(asked("uuid") if TOOLKIT.exists() else [])]
    return sorted(f"nvidia.com/gpu={name}" for name in names)


@step("what the machine is")
def machine() -> None:
    say(call("uname", "-srm"))
    say(call("nvidia-smi", "-L"))
    version = Path("/proc/driver/nvidia/version")
    say(version.read_text().splitlines()[0] if version.exists() else "no /proc/driver/nvidia/version")
    # As a package of the driver does it: its libraries are in the linker's cache.
    Path("/etc/ld.so.conf.d/nvidia.conf").write_text(f"{NVIDIA}/lib64\n")
    call("ldconfig")
    if TOOLKIT.exists():
        call("dpkg", "--install", *map(str, TOOLKIT.glob("*.deb")))
        say(call("nvidia-ctk", "--version"))


@step("gpu_host_info reports the GPUs rightly")
def facts() -> None:
    seen = look()
    need([gpu["index"] for gpu in seen["gpus"]] == gpu_indices(), f"other GPUs than {gpu_indices()}: {seen['gpus']}")
    fields = "--query-gpu=name,uuid,compute_cap,memory.total"
    said = call("nvidia-smi", fields, "--format=csv,noheader,nounits").strip()
    for gpu, line in zip(seen["gpus"], said.splitlines()):
        name, uuid, capability, memory = [word.strip() for word in line.split(",")]
        say(json.dumps({key: gpu[key] for key in sorted(gpu)}, indent=1))
        need((gpu["name"], gpu["uuid"], gpu["compute_capability"]) == (name, uuid, capability), f"nvidia-smi: {line}")
        need(gpu["memory_mib"] == int(memory), f"nvidia-smi says {memory} MiB")
        need(FAKE or (gpu["pci_id"] and gpu["architecture"]), "the GPU was not found on the PCI bus")
    say(json.dumps({"driver": {**seen["driver"], "modules": "-"}, "fabric": seen["fabric"], "cgroups": seen["cgroups"],
                    "secure_boot": seen["secure_boot"], "reboot": seen["reboot"]}, indent=1))  # fmt: skip
    need(seen["driver"]["nvml"] == "ok" and not seen["reboot"]["required"], "the driver is not reported as working")
    need(FAKE or seen["driver"]["loaded"] == seen["driver"]["userspace"], "loaded and installed driver differ")


@step("a CDI specification is known as true, and as stale once a device node or a file is another one")
def cdi() -> None:
    CDI.parent.mkdir(parents=True, exist_ok=True)
    true = cdi_specification()
    CDI.write_text(true)
    (OUT / "cdi.yaml").write_text(true)
    seen = look()["cdi"]
    say(f"devices {seen['devices']}, driver {seen['specs'][0]['driver']}, problems {seen['problems']}")
    need(seen["devices"] == declared(), f"the devices are not those declared: {declared()}")
    need(not seen["problems"], "a true specification is reported as false")
    spoilt = re.sub(r"major: \d+", "major: 7", true, count=1)
    CDI.write_text(spoilt.replace(f"hostPath: {NVIDIA}/lib64", f"hostPath: {NVIDIA}/lib32", 1))
    problems = look()["cdi"]["problems"]
    say("\n".join(problem["message"] for problem in problems))
    kinds = {problem["kind"] for problem in problems}
    need(kinds == {"stale_device", "stale_file"}, f"a stale specification is reported as {kinds}")
    CDI.write_text(true)


@step("podman runs here")
def podman() -> None:
    settings = Path("/etc/containers/containers.conf.d/50-gpu.conf")
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('[containers]\npids_limit = 0\n[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
    call("/usr/local/lib/testbed/runtime", "/etc/containers/containers.conf.d/00-testbed.conf")
    say(call("podman", "info", "--format", "{{.Version.Version}} {{.Host.OCIRuntime.Name}} {{.Store.GraphDriverName}}"))
    call("podman", "load", "--quiet", "--input", "/payload/images.tar")
    call("podman", "import", "--quiet", "--change", 'CMD=["/usr/local/sbin/init"]', "--change", "STOPSIGNAL=37",
         "/payload/rootfs.tar", HOST_IMAGE)  # fmt: skip
    say(call("podman", "images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"))


@step("a container gets exactly the GPUs asked for")
def containers() -> None:
    run = ["podman", "run", "--rm", "--network=none"]
    image = "localhost/triton_cpu:1.2.1"
    uuids, gpus = asked("uuid"), gpu_indices()
    look_at = f"PATH=$PATH:{NVIDIA}/bin nvidia-smi -L; ls /dev | grep -E '^nvidia[0-9]'; python3 -c \"{CUDA}\""
    cases: dict[tuple[str, ...], list[int]] = {(str(gpu),): [gpu] for gpu in gpus}
    cases |= {("all",): gpus, tuple(map(str, gpus)): gpus}
    cases |= {(uuids[gpus[-1]],): gpus[-1:]} if TOOLKIT.exists() else {}
    for names, expected in cases.items():
        devices = [word for name in names for word in ("--device", f"nvidia.com/gpu={name}")]
        said = call(*run, *devices, image, "sh", "-c", look_at, expect=None)
        say(f"{' '.join(devices)}:\n{said}")
        if not FAKE:
            need(re.findall(r"UUID: (GPU-[\w-]+)", said) == [uuids[gpu] for gpu in expected], f"not GPUs {expected}")
            need(f"0 0 {len(expected)}" in said, "CUDA does not see them")
        need(len(re.findall(r"^nvidia\d", said, re.M)) == len(expected), "other device nodes")
    without = call(*run, image, "sh", "-c", "ls /dev | grep -c nvidia; command -v nvidia-smi", expect=None)
    say(f"without: {without.split()}")
    need(without.split() == ["0"], "a container without a device sees one")
    refused = call(*run, "--device", "nvidia.com/gpu=7", image, "true", expect=126)
    say(f"--device nvidia.com/gpu=7: {refused}")
    need("unresolvable CDI devices nvidia.com/gpu=7" in refused, "another error was expected")


@step("a host with systemd, ssh and podman boots with the GPU")
def host() -> None:
    call("podman", "rm", "--force", "--ignore", HOST)
    Path("/root/.ssh").mkdir(mode=0o700, exist_ok=True)
    for key in Path("/root/.ssh").glob("gpu_key*"):
        key.unlink()
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/gpu_key")
    Path("/tmp/port.conf").write_text(f"Port {SSH_PORT}\nListenAddress 127.0.0.1\n")
    # A rehearsal without a GPU has its PCI bus and its driver from mounts, which the host would not see by itself.
    mounts = [f"--volume={path}:{path}:ro" for path in ("/sys/bus/pci/devices", "/sys/module") if FAKE]
    call(
        "podman", "run", "--detach", *mounts, "--name", HOST, "--hostname", HOST, "--privileged", "--systemd=always",
        "--network=host", "--env", "TESTBED_GPU=0", "--volume", f"{HOST}-containers:/var/lib/containers",
        "--volume", f"{NVIDIA}:{NVIDIA}:ro", "--volume", "/payload:/payload:ro",
        "--volume", "/tmp/port.conf:/etc/ssh/sshd_config.d/00-port.conf:ro", HOST_IMAGE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = call("podman", "exec", HOST, "systemctl", "is-system-running", expect=None).strip()
        if state in ("running", "degraded"):
            break
        time.sleep(0.5)
    say(f"systemd: {state}")
    need(state in ("running", "degraded"), call("podman", "logs", "--tail", "40", HOST, expect=None))
    call("podman", "cp", "/root/.ssh/gpu_key.pub", f"{HOST}:/root/.ssh/authorized_keys")
    if not TOOLKIT.exists():
        call("podman", "cp", str(CDI), f"{HOST}:{CDI}")
    script = (
        f"chown root:root /root/.ssh/authorized_keys; echo {NVIDIA}/lib64 > /etc/ld.so.conf.d/nvidia.conf; ldconfig;"
        f"ln -sf {NVIDIA}/bin/nvidia-smi /usr/bin/nvidia-smi; systemctl restart ssh; nvidia-smi -L;"
        "ls /dev | grep nvidia; rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*;"
        f"echo 'deb [trusted=yes] file:{TOOLKIT} ./' > /etc/apt/sources.list.d/toolkit.list"
    )
    say(on_host(script))
    hosts = {
        HOST: {
            "ansible_host": "127.0.0.1",
            "ansible_port": SSH_PORT,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": "/root/.ssh/gpu_key",
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
    }
    variables = {
        "trtllm_release": RELEASE,
        "trtllm_root": "/var/lib/trtllm",
        "triton_image_name": "localhost/triton_cpu:1.2.1",
        "triton_image_source": "archive",
        "triton_image_archive": "/payload/images.tar",
        "openai_gateway_image_name": "localhost/openai_gateway:0.1.0",
        "openai_gateway_image_source": "archive",
        "openai_gateway_image_archive": "/payload/images.tar",
        # The driver is no package here: it is looked at and not changed, and so is CDI where no toolkit was packed.
        "gpu_driver_manage": False,
        "container_toolkit_manage": TOOLKIT.exists(),
        "container_toolkit_manage_repository": False,
        "container_toolkit_packages": ["nvidia-container-toolkit-base"],
        "container_toolkit_probe": "always",
        "triton_remove_stale": True,
    }
    INVENTORY.write_text(json.dumps({"gpu_hosts": {"hosts": hosts, "vars": variables}}))
    describe([[gpu] for gpu in gpu_indices()[:2]])


def describe(replicas: list[list[int]]) -> None:
    """Have the model served by replicas with these GPUs."""
    ranks = len(replicas[0])
    inventory = json.loads(INVENTORY.read_text())
    inventory["gpu_hosts"]["vars"]["trtllm_models"] = [
        {
            "name": MODEL,
            "checkpoint": {"source": "path", "path": "/payload/tiny-llama"},
            "engine": {"dtype": "float32", "tp_size": ranks, "max_batch_size": 8, "max_input_len": 256,
                       "max_seq_len": 512},
            "serving": {"replicas": [{"gpus": gpus} for gpus in replicas]},
        }
    ]  # fmt: skip
    INVENTORY.write_text(json.dumps(inventory))


def table(said: str) -> str:
    """The lines of the preflight's table."""
    lines = said.splitlines()
    start = next((at for at, line in enumerate(lines) if re.match(r"\s*host\s+system\s", line)), None)
    if start is None:
        return said[-1500:]
    return "\n".join(line.strip() for line in lines[start : start + 2])


@step("host.yml brings the toolkit and a CDI specification, though the toolkit's own service passes itself over")
def toolkit() -> None:
    if not TOOLKIT.exists():
        say("no toolkit was packed: the specification was written for this run")
        return
    said = playbook("host.yml")
    (OUT / "host.log").write_text(said)
    say(recap(said))
    seen = seen_by_host()
    say(json.dumps({name: seen["units"][name] for name in (REFRESH, OWN_REFRESH)}, indent=1))
    say(json.dumps({**seen["cdi"], "packages": seen["packages"].get("nvidia-container-toolkit-base")}, indent=1))
    # modules.dep has no driver: it is a mount here.
    need(seen["units"][REFRESH]["result"] == "exec-condition", "the toolkit's service was expected to do nothing")
    need(seen["cdi"]["devices"] == declared() and not seen["cdi"]["problems"], "the specification is another")
    again = recap(playbook("host.yml"))
    say(f"again: {again}")
    need("changed=0" in again, "the second run changed something")


@step("a stale CDI specification is made afresh")
def stale() -> None:
    if not TOOLKIT.exists():
        say("no toolkit was packed")
        return
    last = gpu_indices()[-1]
    spoils = {
        "another number of a device": f"sed -i '0,/major: [0-9]*/s//major: 7/' {CDI}",
        "libraries of another driver": f"sed -i 's/libcuda.so.[0-9.]*$/libcuda.so.1.2.3/' {CDI}",
        "a GPU that it does not have": f"sed -i 's/name: .{last}.$/name: 9/' {CDI}",
    }
    for what, script in spoils.items():
        on_host(script)
        problems = seen_by_host()["cdi"]["problems"]
        say(f"{what}: {'; '.join(problem['message'] for problem in problems)}")
        need(problems, "a stale specification was not noticed")
        said = recap(playbook("host.yml"))
        after = seen_by_host()["cdi"]
        say(said)
        need(after["devices"] == declared() and not after["problems"], f"it is still stale: {after['problems']}")


@step("once the driver's modules are installed, the toolkit's own service takes over")
def refresh() -> None:
    if not TOOLKIT.exists():
        say("no toolkit was packed")
        return
    # Those that the kernel has loaded, so that nothing can be loaded anew.
    modules = "/lib/modules/$(uname -r)"
    loaded = [f"{NVIDIA}/modules/{name}.ko" for name in ("nvidia", "nvidia-uvm")]
    index = "depmod" if not FAKE else f"echo extra/nvidia.ko: > {modules}/modules.dep"
    on_host(f"mkdir -p {modules}/extra && cp {' '.join(loaded)} {modules}/extra/ && {index}")
    began = time.monotonic()
    while "nvidia.com" not in on_host(f"cat {FRESH}", expect=None):
        need(time.monotonic() - began < 60, on_host(f"systemctl status {REFRESH}; ls -R /lib/modules", expect=None))
        time.sleep(0.2)
    say(f"{FRESH} was there {time.monotonic() - began:.1f} s after modules.dep")
    say(on_host(f"journalctl -o cat -u {REFRESH} | tail -n 12"))
    both = seen_by_host()["cdi"]["problems"]
    say(f"before host.yml: {'; '.join(problem['message'] for problem in both)}")
    say(recap(playbook("host.yml")))
    seen = seen_by_host()
    say(json.dumps({name: seen["units"][name] for name in (REFRESH, OWN_REFRESH)}, indent=1))
    say(f"specifications {[spec['path'] for spec in seen['cdi']['specs']]}, problems {seen['cdi']['problems']}")
    need([spec["path"] for spec in seen["cdi"]["specs"]] == [FRESH], "not the toolkit's specification alone")
    need(seen["cdi"]["devices"] == declared() and not seen["cdi"]["problems"], "the specification is another")
    on_host(f"sed -i '0,/major: [0-9]*/s//major: 7/' {FRESH}")
    say(f"with another number: {recap(playbook('host.yml'))}")
    need(not seen_by_host()["cdi"]["problems"], "the toolkit's specification is still stale")
    again = recap(playbook("host.yml"))
    say(f"again: {again}")
    need("changed=0" in again, "the second run changed something")


@step("preflight passes")
def preflight() -> None:
    said = playbook("preflight.yml", "-e", "preflight_report=/out/preflight.json")
    say(table(said))
    report = json.loads((OUT / "preflight.json").read_text())
    need(report["ok"] and report["hosts"][0]["cells"]["GPUs"], "the report is not ok")


@step("preflight fails where it must")
def preflight_fails() -> None:
    models = json.loads(INVENTORY.read_text())["gpu_hosts"]["vars"]["trtllm_models"]
    models[0]["serving"]["replicas"] = [{"gpus": [77]}]
    cases = {
        "a GPU that is not there": ("GPU 77 asked for, but the host has 0", {"trtllm_models": models}),
        "more room than there is": ("GiB are asked for", {"preflight_minimum_free_gib": {"/var/lib/trtllm": 10**6}}),
    }
    for what, (sentence, variables) in cases.items():
        said = playbook("preflight.yml", "-e", json.dumps(variables), expect=2)
        say(f"{what}: {table(said).splitlines()[-1]}")
        need(sentence in said, f"{sentence!r} was expected")
    place = FRESH if TOOLKIT.exists() else CDI
    on_host(f"cp {place} /root/true.yaml; sed -i 's/major: [0-9]*/major: 7/' {place}")
    said = playbook("host.yml", "-e", '{"container_toolkit_manage": false}', expect=2)
    stale = re.search(r"CDI specifications do not say[^\n]*|declares /dev/\S+ as device[^\n]*", said)
    say(f"a stale CDI specification: {stale.group(0) if stale else said[-1500:]}")
    need(stale, "a stale specification was not noticed")
    on_host(f"cp /root/true.yaml {place}")


@step("a driver that is no package is left alone")
def driver() -> None:
    said = playbook("host.yml", "-e", '{"gpu_driver_manage": true}', expect=None)
    found = re.search(r"driver [\d.]+ was not installed\s+from packages", re.sub(r"\s+", " ", said))
    say(found.group(0) if found else said[-1500:])
    need(found or FAKE, "the driver was not refused")


def site(name: str) -> None:
    """site.yml, twice."""
    started = time.monotonic()
    said = playbook("site.yml", "-e", f"verify_report=/out/verify-{name}.json")
    (OUT / f"site-{name}.log").write_text(said)
    say("\n".join(said.splitlines()[-25:]))
    say(f"in {time.monotonic() - started:.0f} s")
    again = recap(playbook("site.yml"))
    say(f"again: {again}")
    need("changed=0" in again, "the second run changed something")


def served(replicas: list[list[int]]) -> None:
    """Each unit, its container and Triton's metrics have exactly the GPUs of the replica."""
    uuids = asked("uuid")
    units = on_host("ls /etc/containers/systemd/ | grep ^triton-").split()
    need(len(units) == len(replicas), f"there are other units: {units}")
    for number, gpus in enumerate(replicas):
        name = f"triton-{MODEL}-{number}"
        unit = on_host(f"cat /etc/containers/systemd/{name}.container")
        devices = [line for line in unit.splitlines() if line.startswith("AddDevice")]
        say("\n".join([name, *devices]))
        need(devices == [f"AddDevice=nvidia.com/gpu={gpu}" for gpu in gpus], "the unit hands over other GPUs")
        # Written specifications put the libraries into the environment, which `podman exec` does not have.
        libraries = "" if TOOLKIT.exists() else f"LD_LIBRARY_PATH={NVIDIA}/lib64"
        look_at = f"export PATH=$PATH:{NVIDIA}/bin {libraries}; nvidia-smi -L; ls /dev | grep -E '^nvidia[0-9]'"
        look_at += (
            f'; python3 -c "{CUDA}"; cat /proc/[0-9]*/environ | tr "\\0" "\\n" | grep ^OMPI_COMM_WORLD_RANK= | sort -u'
        )
        inside = call("podman", "exec", HOST, "podman", "exec", name, "sh", "-c", look_at, expect=None)
        say(inside)
        port = 8002 + 10 * number
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            metrics = [line for line in answer.read().decode().splitlines() if line.startswith("nv_gpu_")]
        say("\n".join(line for line in metrics if "memory" in line))
        need(len(re.findall(r"^nvidia\d", inside, re.M)) == len(gpus), "the container has other device nodes")
        ranks = re.findall(r"^OMPI_COMM_WORLD_RANK=(\d+)", inside, re.M)
        need(ranks == [str(rank) for rank in range(len(gpus))], "there are not as many ranks as GPUs")
        if not FAKE:
            wanted = [uuids[gpu] for gpu in gpus]
            need(re.findall(r"UUID: (GPU-[\w-]+)", inside) == wanted, "the container sees other GPUs")
            need(f"0 0 {len(gpus)}" in inside, "CUDA in the container sees other GPUs")
            need({*re.findall(r'gpu_uuid="([^"]+)"', "\n".join(metrics))} == {*wanted}, "Triton measures other GPUs")


@step("site.yml brings the host to a served model with one replica on each GPU, and changes nothing the second time")
def one_each() -> None:
    site("one-each")


@step("each replica has its own GPU and no other, the engine's manifest names it, and the gateway asks each")
def own_gpu() -> None:
    replicas = [[gpu] for gpu in gpu_indices()[:2]]
    served(replicas)
    manifest = on_host("cat /var/lib/trtllm/engines/*/*/manifest.json")
    lines = [line.strip() for line in manifest.splitlines() if re.search(r"gpu|capability", line, re.I)]
    say("\n".join(lines))
    need(asked("name")[0] in manifest and asked("compute_cap")[0] in manifest, "the manifest does not name the GPU")
    counts = [requests(number) for number in range(len(replicas))]
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4})
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _number: chat(body), range(16)))
    after = [requests(number) for number in range(len(replicas))]
    say(f"requests by replica: {counts}, after 16 more through the gateway: {after}")
    need(all(now > before for before, now in zip(counts, after)), "the gateway does not ask each of them")


@step("a host with a GPU is settled once a whole run found nothing to change, and is only verified then")
def settled() -> None:
    # The host of these steps has its GPUs proved by each run, which no look can answer for.
    only_then = ["-e", "container_toolkit_probe=changed"]
    say(recap(playbook("site.yml", *only_then)))
    said = playbook("site.yml", *only_then)
    found = re.search(r"^\S+: (settled since|not settled)[^\n]*", said, re.M)
    say(found.group(0) if found else said[-1500:])
    say(recap(said))
    need(found and found.group(1) == "settled since", "the host is not settled")


def chat(body: str) -> Any:
    """One request to the gateway."""
    sent = urllib.request.Request(
        "http://127.0.0.1:3000/v1/chat/completions", body.encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(sent, timeout=30) as answer:
        return json.load(answer)


def requests(number: int) -> int:
    """The requests that a replica has answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{8002 + 10 * number}/metrics", timeout=10) as answer:
        found = re.findall(r'nv_inference_request_success\{model="tensorrt_llm",[^}]*\} (\d+)', answer.read().decode())
    return sum(map(int, found))


@step("one replica with tensor parallelism over two GPUs takes the place of both")
def both() -> None:
    gpus = gpu_indices()[:2]
    if len(gpus) < 2:
        say("this machine has one GPU")
        return
    describe([gpus])
    site("tp2")
    served([gpus])
    say(playbook("status.yml").split("TASK")[-1])


def take_down() -> None:
    """Leave nothing running, whatever was shown."""
    subprocess.run(["podman", "rm", "--force", "--ignore", "--time", "2", HOST], stdout=subprocess.DEVNULL, check=False)
    subprocess.run(["podman", "volume", "rm", "--force", f"{HOST}-containers"], stdout=subprocess.DEVNULL, check=False)


def main() -> int:
    began = time.monotonic()
    for number, (title, function) in enumerate(STEPS, 1):
        started = time.monotonic()
        print(f"[{number}/{len(STEPS)}] {title}", flush=True)
        try:
            function()
        except (Failed, subprocess.TimeoutExpired, OSError, ValueError) as error:
            print(f"[{number}/{len(STEPS)}] NOT SHOWN: {error}", flush=True)
            return 1
        print(f"[{number}/{len(STEPS)}] shown, {time.monotonic() - started:.1f} s", flush=True)
    print(f"all {len(STEPS)} steps shown in {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        take_down()
