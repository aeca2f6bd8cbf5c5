# SPDX-License-Identifier: GPL-3.0-or-later
"""A host in a directory: a podman, a nvidia-smi and an image's tools that are small scripts.

The scripted podman runs the container's command for real, as a process of its own, so that the orchestration is
tested with true processes, true kills and true exit codes.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import fingerprint
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.engine import Engine
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.plan import Request
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release

PODMAN = '''#!{python}
"""podman, as far as engines need it: one directory per container, one process per container."""
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

HOME = Path({home!r})
ARGS = sys.argv[1:]
with open(HOME / "calls", "a") as log:
    log.write(json.dumps(ARGS) + "\\n")

def fail(text, code=125):
    print("Error: " + text, file=sys.stderr)
    sys.exit(code)

def container(name):
    return HOME / "containers" / name

def alive(pid):
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return Path(f"/proc/{{pid}}/stat").read_text().split(")")[1].split()[0] != "Z"

def members(group):
    """Living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = path.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state not in "ZX":
            found.append(path)
    return found

images = json.loads((HOME / "images.json").read_text())
if ARGS[0] == "--version":
    print("podman version 5.4.2")
elif ARGS[:2] == ["image", "inspect"]:
    if ARGS[-1] not in images:
        fail(ARGS[-1] + ": image not known")
    print(images[ARGS[-1]]["id"])
elif ARGS[:2] == ["container", "inspect"]:
    home = container(ARGS[2])
    if not home.is_dir():
        fail("no such container " + ARGS[2])
    pid = int((home / "pid").read_text())
    code = home / "exit"
    running = alive(pid) and not code.exists()
    status = dict(Status="running" if running else "exited", ExitCode=0, OOMKilled=False)
    if not running:
        # Killed together with what records its exit code: as podman shows a SIGKILL.
        status["ExitCode"] = int(code.read_text()) if code.exists() else 137
    print(json.dumps([dict(Id=home.name, Name=home.name, Image=(home / "image").read_text(), State=status,
                           Config=dict(Labels={{}}))]))
elif ARGS[0] == "rm":
    home = container(ARGS[-1])
    if home.is_dir():
        pid = int((home / "pid").read_text())
        try:
            os.killpg(pid, signal.SIGKILL)
        except OSError:
            pass
        while members(pid):
            time.sleep(0.01)
        shutil.rmtree(home)
elif ARGS[0] == "run":
    words = ARGS[1:]
    name, environment, detach = "once", dict(os.environ), False
    while words[0].startswith("-"):
        word = words.pop(0)
        detach |= word == "--detach"
        if word.startswith("--name="):
            name = word.split("=", 1)[1]
        if word.startswith("--env="):
            key, value = word.split("=", 1)[1].split("=", 1)
            environment[key] = value
        if word.startswith("--device=") and word.endswith("=99"):
            fail("setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=99", 126)
    image, command = words[0], words[1:]
    held = next(value for value in images.values() if value["id"] == image)
    if "importlib.metadata" in " ".join(command):
        if not held["version"]:
            fail("ModuleNotFoundError: No module named 'tensorrt_llm'", 1)
        print(held["version"])
        sys.exit(0)
    home = container(name)
    if home.is_dir():
        fail("the container name " + name + " is already in use")
    home.mkdir(parents=True)
    (home / "image").write_text(image)
    environment["PATH"] = str(HOME / "tools") + ":" + environment["PATH"]
    if command[0] == "python3":
        command[0] = sys.executable
    # Renamed into place: who looks in between must not see a file without a number.
    record = ("import os,subprocess,sys; c=subprocess.call(sys.argv[2:]); a=sys.argv[1]+'.new'; f=open(a,'w');"
              "f.write(str(c % 256)); f.close(); os.replace(a, sys.argv[1])")
    process = subprocess.Popen([sys.executable, "-c", record, str(home / "exit"), *command], env=environment,
                               start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (home / "pid").write_text(str(process.pid))
    print(name)
else:
    fail("unknown command " + " ".join(ARGS))
'''

TOOL = '''#!{python}
"""convert_checkpoint.py and trtllm-build: one small file per rank, as slow or broken as the test wants."""
import json, os, sys, time
from pathlib import Path

words = sys.argv[1:]
value = dict(zip(words, words[1:]))
kind = {kind!r}
print(kind, "begins", flush=True)
for rule in os.environ.get("FAKE", "").split(","):
    what, _, how = rule.partition(":")
    if what != kind:
        continue
    if how.startswith("sleep"):
        print("sleeping", flush=True)
        time.sleep(float(how[5:]))
    elif how.startswith("fail"):
        print("RuntimeError: " + os.environ.get("FAKE_WORDS", "boom"), flush=True)
        sys.exit(int(how[4:]))
    elif how == "nothing":
        sys.exit(0)
output = Path(value["--output_dir"])
output.mkdir(exist_ok=True)
if kind == "convert":
    ranks = int(value.get("--tp_size", 1)) * int(value.get("--pp_size", 1))
else:
    ranks = json.loads((Path(value["--checkpoint_dir"]) / "config.json").read_text())["ranks"]
for rank in range(ranks):
    suffix = "safetensors" if kind == "convert" else "engine"
    (output / f"rank{{rank}}.{{suffix}}").write_text(" ".join(words) + str(rank))
(output / "config.json").write_text(json.dumps(dict(ranks=ranks)))
print(kind, "ends", flush=True)
'''

NVIDIA_SMI = """#!/bin/sh
echo x >> "{home}/smi-calls"
while IFS=, read -r index name capability total free uuid; do
  echo "$index,$name,$uuid, 00000000:0$index:00.0,$total,$free, 580.95.05,$capability, Disabled, Enabled"
done < "{home}/gpus.csv"
"""

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "torch_dtype": "float16",
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_size": 64,
    "vocab_size": 320,
}


@dataclass
class FakeHost:
    """The directories of one host and what a test asks of it."""

    home: Path

    @property
    def root(self) -> Path:
        return self.home / "trtllm"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoints" / "tiny"

    def calls(self, *first: str) -> list[list[str]]:
        """Calls of podman whose first words are *first*."""
        path = self.home / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [words for words in map(json.loads, lines) if words[: len(first)] == list(first)]

    def forget_calls(self) -> None:
        (self.home / "calls").unlink(missing_ok=True)
        (self.home / "smi-calls").unlink(missing_ok=True)

    def set_images(self, **images: dict[str, str]) -> None:
        (self.home / "images.json").write_text(json.dumps(images))

    def set_gpus(self, *lines: str) -> None:
        (self.home / "gpus.csv").write_text("".join(f"{line}\n" for line in lines))

    def container_pid(self) -> int:
        """The process group of the one container."""
        (home,) = (self.home / "containers").iterdir()
        return int((home / "pid").read_text())

    def request(self, **changes: Any) -> Request:
        base = Request(
            name="tiny",
            root=self.root,
            checkpoint=self.checkpoint,
            release=release(LAST),
            image="triton",
            gpus=[],
            options={"tp_size": 1, "pp_size": 1, "cp_size": 1, "max_batch_size": 4},
            examples_dir=str(self.home / "examples"),
        )
        options = {**base.options, **changes.pop("options", {})}
        return replace(base, options=options, **changes)

    def engine(self, check_mode: bool = False, environment: dict[str, str] | None = None, **changes: Any) -> Engine:
        return Engine(self.request(**changes), check_mode, environment)

    def build(self, environment: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
        """Run to the end, as the module does without its action plugin."""
        return self.engine(environment=environment, **changes).waited(0.05)

    def check(self, **changes: Any) -> dict[str, Any]:
        return self.engine(True, **changes).present()

    def wait_until(self, condition: Any, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    def log_says(self, text: str) -> bool:
        return any(text in path.read_text() for path in (self.root / "logs" / "engines").glob("*.log"))


def write_safetensors(path: Path, content: bytes) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)


def write_checkpoint(path: Path) -> None:
    """A whole checkpoint of 8 attention heads, a few hundred bytes long."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text("{}")
    write_safetensors(path / "model.safetensors", b"weights of a tiny model")


def make_host(home: Path) -> FakeHost:
    """Everything that a build needs, below *home*; the caller puts ``<home>/bin`` on PATH."""
    host = FakeHost(home)
    (home / "bin").mkdir(parents=True)
    (home / "tools").mkdir()
    examples = home / "examples" / "models" / "core" / "llama"
    examples.mkdir(parents=True)
    scripts = {
        home / "bin" / "podman": PODMAN.format(python=sys.executable, home=str(home)),
        home / "bin" / "nvidia-smi": NVIDIA_SMI.format(home=home),
        home / "tools" / "trtllm-build": TOOL.format(python=sys.executable, kind="build"),
        examples / "convert_checkpoint.py": TOOL.format(python=sys.executable, kind="convert"),
    }
    for path, text in scripts.items():
        path.write_text(text)
        path.chmod(0o755)
    (home / "tools" / "python3").symlink_to(sys.executable)
    host.set_images(triton={"id": "sha256:" + "a" * 64, "version": LAST})
    host.set_gpus("0, NVIDIA H200, 9.0, 143771, 143000, GPU-aa", "1, NVIDIA H200, 9.0, 143771, 143000, GPU-bb")
    write_checkpoint(host.checkpoint)
    os.utime(host.checkpoint / "model.safetensors", (1e9, 1e9))
    return host


def arranged_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """The same with its programs on PATH; files of the test count as old at once."""
    made = make_host(tmp_path / "host")
    monkeypatch.setenv("PATH", f"{made.home / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(fingerprint, "RACY_NS", -(10**15))
    return made
