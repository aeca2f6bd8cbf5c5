# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo: a real test host, the whole of site.yml against it, and a chat with what then serves."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from _stages import REPO, VENV, StageError, Stages, cache_dir, main_guard

HOST = "demo"
ADDRESS = "10.200.0.21"
GATEWAY = f"http://{ADDRESS}:3000/v1"
MODEL = "tiny-llama"
TESTBED = REPO / "tests" / "testbed" / "testbed"
PYTHON = VENV / "bin" / "python"
# Image that is built here -> name under which the test hosts pull it.
IMAGES = {"triton_cpu": "localhost/triton_cpu:1.2.1", "openai_gateway": "localhost/openai_gateway:0.1.0"}


def own_commands() -> None:
    """Have the checkout's own Ansible and its configuration, as make has."""
    os.environ["PATH"] = f"{VENV / 'bin'}:{os.environ['PATH']}"
    os.environ.setdefault("ANSIBLE_CONFIG", str(REPO / "ansible.cfg"))


def preflight() -> None:
    """Refuse in one sentence what could not work, before anything is made."""
    if os.geteuid() != 0:
        raise StageError("the test hosts are containers with systemd, which needs root; run it as root.")
    if shutil.which("apt-get") is None:
        raise StageError(
            "apt-get was not found; the test hosts are made from Debian packages, so use Debian or Ubuntu."
        )


def testbed(stages: Stages) -> None:
    """The packages, the network, the root file system and the registry of the test hosts."""
    stages.run("testbed", [TESTBED, "prepare"], "preparing the testbed (Debian packages, a root file system)")
    stages.run("testbed", [TESTBED, "registry", "up"], "starting a registry on the test network")


def images(stages: Stages) -> None:
    """Build both images and push them to the registry of the test network."""
    for name, reference in IMAGES.items():
        stages.run("images", [PYTHON, REPO / "images" / name / "build"], f"building the image {name} (kept by content)")
        stages.run("push", [TESTBED, "push", reference], f"pushing {name} to the registry of the test network")


def checkpoint(stages: Stages) -> Path:
    """Make the tiny checkpoint, from a fixed seed."""
    out = cache_dir() / "demo" / MODEL
    stages.run(
        "checkpoint",
        [PYTHON, REPO / "tools" / "tiny_checkpoint.py", out],
        "making a tiny Llama checkpoint from a fixed seed",
    )
    return out


def host(stages: Stages, name: str = HOST, address: str = ADDRESS) -> None:
    """Boot the test host."""
    stages.run("host", [TESTBED, "up", f"{name}={address}"], f"booting the test host {name} ({address})")


def playbook(stages: Stages, label: str = "site.yml", extra: list[str] | None = None) -> None:
    """What any user of the collection runs."""
    argv = ["ansible-playbook", "-i", "inventories/demo", "playbooks/site.yml", *(extra or [])]
    stages.run(label, argv, "running: " + " ".join(argv), remedy="the failed task says what to do")


def chat(stages: Stages) -> None:
    """Ask the gateway with the official client, as an application would."""
    stages.run(
        "chat", [PYTHON, REPO / "tools" / "chat.py", GATEWAY, MODEL], "asking the gateway with the openai client"
    )


def up(timings: Path | None) -> int:
    """All stages, from nothing to an answer."""
    stages = Stages("demo")
    preflight()
    testbed(stages)
    images(stages)
    checkpoint(stages)
    host(stages)
    playbook(stages)
    chat(stages)
    stages.say("stages:")
    print(stages.summary())
    stages.say(f"try next: curl {GATEWAY}/models   or point any OpenAI client at {GATEWAY} (model {MODEL})")
    stages.say("run it again for changed=0; `make clean-demo` removes what it made")
    if timings:
        timings.write_text(json.dumps(stages.seconds), encoding="utf-8")
    return 0


def other_hosts() -> list[str]:
    """The test hosts that are not the demo's: they may pull from its registry and read its checkpoint."""
    listed = subprocess.run([TESTBED, "list"], check=True, capture_output=True, text=True).stdout
    return other_hosts_in(listed)


def other_hosts_in(listed: str) -> list[str]:
    """The same, from what `testbed list` prints: one line for each container, its kind at the end."""
    rows = [line.split() for line in listed.splitlines()]
    return [row[0] for row in rows if row[-1:] == ["host"] and row[0] != HOST]


def down() -> int:
    """Remove the demo's host, the registry, and the checkpoint; downloads and images stay cached.

    Where other test hosts are up, a run of `make test` among them, registry and checkpoint stay for them.
    """
    stages = Stages("demo")
    preflight()
    users = other_hosts()
    if users:
        stages.run("host", [TESTBED, "down", HOST], "removing the test host")
        stages.say(f"the registry and the checkpoint stay: other test hosts use them ({', '.join(users)})")
    else:
        stages.run("host", [TESTBED, "down", HOST, "bed-registry"], "removing the test host and the registry")
        shutil.rmtree(cache_dir() / "demo", ignore_errors=True)
    stages.say(f"removed; what was downloaded and built stays in {cache_dir()} for the next time")
    return 0


def only_images() -> int:
    """Build both images, without a registry."""
    stages = Stages("images")
    preflight()
    stages.run("testbed", [TESTBED, "prepare"], "preparing podman")
    for name in IMAGES:
        stages.run("images", [PYTHON, REPO / "images" / name / "build"], f"building the image {name}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["up", "down", "images"])
    parser.add_argument("--timings", type=Path, help="write the stages' wall times, in seconds, to this JSON file")
    args = parser.parse_args()
    own_commands()
    actions = {"up": lambda: up(args.timings), "down": down, "images": only_images}
    return main_guard("demo", actions[args.action])


if __name__ == "__main__":
    sys.exit(main())
