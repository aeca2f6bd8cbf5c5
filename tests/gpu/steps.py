#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of the acceptance run, inside the root file system that tests/gpu/run unpacked.

Each step says what it shows, then what it saw. The first one that does not show it ends the run with exit status 1.
"""

from __future__ import annotations

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
    return ansible("playbook", "-i", "/tmp/inventory.json", str(REPO / "playbooks" / name), *words, expect=expect)


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


def cdi_specification() -> str:
    """A specification as nvidia-ctk writes it, with the driver's files where this machine has them."""
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


@step("what the machine is")
def machine() -> None:
    say(call("uname", "-srm"))
    say(call("nvidia-smi", "-L"))
    version = Path("/proc/driver/nvidia/version")
    say(version.read_text().splitlines()[0] if version.exists() else "no /proc/driver/nvidia/version")


@step("gpu_host_info reports the GPU rightly")
def facts() -> None:
    seen = look()
    gpu: dict[str, Any] = next((gpu for gpu in seen["gpus"] if gpu["index"] == 0), {})
    need(gpu, f"no GPU 0 in {seen['gpus']}")
    asked = call(
        "nvidia-smi", "--query-gpu=name,uuid,compute_cap,memory.total", "--format=csv,noheader,nounits", "-i", "0"
    )
    name, uuid, capability, memory = [word.strip() for word in asked.strip().split(",")]
    say(json.dumps({key: gpu[key] for key in sorted(gpu)}, indent=1))
    say(json.dumps({"driver": {**seen["driver"], "modules": "-"}, "fabric": seen["fabric"], "cgroups": seen["cgroups"],
                    "secure_boot": seen["secure_boot"], "reboot": seen["reboot"]}, indent=1))  # fmt: skip
    need((gpu["name"], gpu["uuid"], gpu["compute_capability"]) == (name, uuid, capability), f"nvidia-smi says {asked}")
    need(gpu["memory_mib"] == int(memory), f"nvidia-smi says {memory} MiB")
    need(seen["driver"]["nvml"] == "ok" and not seen["reboot"]["required"], "the driver is not reported as working")
    if not os.environ.get("TRTLLM_GPU_FAKE"):
        need(seen["driver"]["loaded"] == seen["driver"]["userspace"], "loaded and installed driver differ")
        need(gpu["pci_id"] and gpu["architecture"], "the GPU was not found on the PCI bus")


@step("a CDI specification is known as true, and as stale once a device node or a file is another one")
def cdi() -> None:
    CDI.parent.mkdir(parents=True, exist_ok=True)
    CDI.write_text(cdi_specification())
    seen = look()["cdi"]
    say(f"devices {seen['devices']}, problems {seen['problems']}")
    declared = [f"nvidia.com/gpu={name}" for name in [*gpu_indices(), "all"]]
    need(seen["devices"] == sorted(declared), "the devices are not those declared")
    need(not seen["problems"], "a true specification is reported as false")
    spoilt = re.sub(r"major: \d+", "major: 7", cdi_specification(), count=1)
    CDI.write_text(spoilt.replace(f"hostPath: {NVIDIA}/lib64", f"hostPath: {NVIDIA}/lib32"))
    problems = look()["cdi"]["problems"]
    say("\n".join(problem["message"] for problem in problems))
    kinds = {problem["kind"] for problem in problems}
    need(kinds == {"stale_device", "stale_file"}, f"a stale specification is reported as {kinds}")
    CDI.write_text(cdi_specification())


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


@step("a container gets exactly the GPU asked for")
def containers() -> None:
    run = ["podman", "run", "--rm", "--network=none"]
    image = "localhost/triton_cpu:1.2.1"
    with_gpu = call(*run, "--device", "nvidia.com/gpu=0", image, "nvidia-smi", "-L")
    say(f"--device nvidia.com/gpu=0: {with_gpu}")
    need(len(re.findall(r"^GPU \d", with_gpu, re.M)) == 1, "not one GPU")
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
    # A rehearsal without a GPU has its PCI bus from a mount, which the host would not see by itself.
    bus = ["--volume", "/sys/bus/pci/devices:/sys/bus/pci/devices:ro"] if os.environ.get("TRTLLM_GPU_FAKE") else []
    call(
        "podman", "run", "--detach", *bus, "--name", HOST, "--hostname", HOST, "--privileged", "--systemd=always",
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
    call("podman", "cp", str(CDI), f"{HOST}:{CDI}")
    script = (
        f"chown root:root /root/.ssh/authorized_keys; echo {NVIDIA}/lib64 > /etc/ld.so.conf.d/nvidia.conf; ldconfig;"
        f"ln -sf {NVIDIA}/bin/nvidia-smi /usr/bin/nvidia-smi; systemctl restart ssh; nvidia-smi -L;"
        "ls /dev | grep nvidia"
    )
    say(call("podman", "exec", HOST, "sh", "-c", script))
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
        # The driver is no package here and the toolkit's repository is out of reach: look at both, change neither.
        "gpu_driver_manage": False,
        "container_toolkit_manage": False,
        "container_toolkit_probe": "always",
        "trtllm_models": [
            {
                "name": "tiny-llama",
                "checkpoint": {"source": "path", "path": "/payload/tiny-llama"},
                "engine": {"dtype": "float32", "max_batch_size": 8, "max_input_len": 256, "max_seq_len": 512},
                "serving": {"replicas": [{"gpus": [0]}]},
            }
        ],
    }
    Path("/tmp/inventory.json").write_text(json.dumps({"gpu_hosts": {"hosts": hosts, "vars": variables}}))


def table(said: str) -> str:
    """The lines of the preflight's table."""
    lines = said.splitlines()
    start = next((at for at, line in enumerate(lines) if re.match(r"\s*host\s+system\s", line)), None)
    if start is None:
        return said[-1500:]
    return "\n".join(line.strip() for line in lines[start : start + 2])


@step("preflight passes")
def preflight() -> None:
    said = playbook("preflight.yml", "-e", "preflight_report=/out/preflight.json")
    say(table(said))
    report = json.loads((OUT / "preflight.json").read_text())
    need(report["ok"] and report["hosts"][0]["cells"]["GPUs"], "the report is not ok")


@step("preflight fails where it must")
def preflight_fails() -> None:
    models = json.loads(Path("/tmp/inventory.json").read_text())["gpu_hosts"]["vars"]["trtllm_models"]
    models[0]["serving"]["replicas"] = [{"gpus": [7]}]
    cases = {
        "a GPU that is not there": ("GPU 7 asked for, but the host has 0", {"trtllm_models": models}),
        "more room than there is": ("GiB are asked for", {"preflight_minimum_free_gib": {"/var/lib/trtllm": 10**6}}),
    }
    for what, (sentence, variables) in cases.items():
        said = playbook("preflight.yml", "-e", json.dumps(variables), expect=2)
        say(f"{what}: {table(said).splitlines()[-1]}")
        need(sentence in said, f"{sentence!r} was expected")
    call("podman", "exec", HOST, "sh", "-c", f"sed -i 's/major: [0-9]*/major: 7/' {CDI}")
    said = playbook("host.yml", expect=2)
    stale = re.search(r"CDI specifications do not say[^\n]*|declares /dev/\S+ as device[^\n]*", said)
    say(f"a stale CDI specification: {stale.group(0) if stale else said[-1500:]}")
    need(stale, "a stale specification was not noticed")
    call("podman", "cp", str(CDI), f"{HOST}:{CDI}")


@step("a driver that is no package is left alone")
def driver() -> None:
    said = playbook("host.yml", "-e", '{"gpu_driver_manage": true}', expect=None)
    found = re.search(r"driver [\d.]+ was not installed\s+from packages", re.sub(r"\s+", " ", said))
    say(found.group(0) if found else said[-1500:])
    need(found or os.environ.get("TRTLLM_GPU_FAKE"), "the driver was not refused")


@step("site.yml brings the host to a served model, and changes nothing the second time")
def site() -> None:
    started = time.monotonic()
    said = playbook("site.yml", "-e", "verify_report=/out/verify.json")
    (OUT / "site.log").write_text(said)
    say("\n".join(said.splitlines()[-25:]))
    say(f"in {time.monotonic() - started:.0f} s")
    again = playbook("site.yml")
    (OUT / "site-again.log").write_text(again)
    recap = [line for line in again.splitlines() if re.match(rf"{HOST}\s+: ok=", line)][-1]
    say(recap)
    need("changed=0" in recap, "the second run changed something")


@step("the unit hands over the GPU, the engine's manifest names it, Triton measures it")
def served() -> None:
    unit = call("podman", "exec", HOST, "sh", "-c", "cat /etc/containers/systemd/triton-*.container")
    say("\n".join(line for line in unit.splitlines() if line.startswith(("AddDevice", "Image", "Notify"))))
    need("AddDevice=nvidia.com/gpu=0" in unit, "the unit does not hand over the GPU")
    manifest = call("podman", "exec", HOST, "sh", "-c", "cat /var/lib/trtllm/engines/*/*/manifest.json")
    lines = [line.strip() for line in manifest.splitlines() if re.search(r"gpu|capability", line, re.I)]
    say("\n".join(lines))
    name = call("nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "-i", "0").strip()
    capability = call("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader", "-i", "0").strip()
    need(name in manifest and capability in manifest, f"the manifest does not name {name}, {capability}")
    # What CDI puts into the environment is there for the container, not for `podman exec`.
    ask = f"podman exec -e LD_LIBRARY_PATH={NVIDIA}/lib64 $(podman ps -q --filter name=triton) nvidia-smi -L"
    inside = call("podman", "exec", HOST, "sh", "-c", ask, expect=None)
    say(f"in the replica: {inside}")
    with urllib.request.urlopen("http://127.0.0.1:8002/metrics", timeout=10) as answer:
        metrics = [line for line in answer.read().decode().splitlines() if line.startswith("nv_gpu_")]
    say("\n".join(metrics[:6]))
    need(metrics or os.environ.get("TRTLLM_GPU_FAKE"), "Triton's metrics do not name the GPU")


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
