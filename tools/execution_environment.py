#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the execution environment of `execution-environment.yml`, and run what it is for in it.

    tools/execution_environment.py [--base IMAGE]

The collection is that of the checkout. The base is made of Debian's packages, as those of the other images are, unless
an image is named; packages come through this machine's own configuration of pip.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import release
from _stages import REPO, StageError, cache_dir, main_guard

sys.path.insert(0, str(REPO / "images"))

from _build import BuildError, debian_base, podman_command

REFERENCE = "localhost/trtllm-fleet-ee:latest"
DEFINITION = REPO / "execution-environment.yml"
SUITE = "trixie"
# What pip goes by on this machine: it is there while the image is built, and not in it.
MACHINES = (Path("/etc/pip.conf"), Path("/etc/ssl/certs/ca-certificates.crt"))
COLLECTION = "trtllm.fleet"


def look_at() -> list[tuple[list[str], list[str]]]:
    """Commands that have to succeed in the environment, each with what it has to print."""
    books = [f"{COLLECTION}.{path.stem}" for path in sorted((REPO / "playbooks").glob("*.yml"))]
    modules = [f"{COLLECTION}.{path.stem}" for path in sorted((REPO / "plugins" / "modules").glob("[!_]*.py"))]
    return [
        (["ansible-galaxy", "collection", "list", COLLECTION], [release.version()]),
        (["ansible-playbook", "--syntax-check", "-i", "localhost,", *books], ["site.yml"]),
        # Which succeeds without those that are not there.
        (["ansible-doc", "--json", *modules], [f'"{name}": ' for name in modules]),
        # What requirements.txt and bindep.txt are for.
        (["python3", "-c", "import openai, tritonclient.http; print(openai.__name__)"], ["openai"]),
        (["ssh", "-V"], ["OpenSSH"]),
        (["ansible-runner", "--version"], ["."]),
        # A playbook that needs no host, from its beginning to its end.
        (["ansible-playbook", "-i", "project/inventories/kubernetes", f"{COLLECTION}.kubernetes"], ["failed=0"]),
    ]


def podman(*words: str | Path, failure: str) -> str:
    """What a command of podman says; raise with the end of it where it fails."""
    try:
        done = subprocess.run(
            [podman_command(), *map(str, words)], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise StageError("podman was not found; install the package podman.") from None
    if done.returncode:
        raise StageError(f"{failure}: {(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout + done.stderr


def identity() -> str:
    """Of the image that has the name, empty where there is none."""
    return podman("images", "--quiet", "--no-trunc", REFERENCE, failure="podman does not tell its images").strip()


def build(base: str, log: Path) -> None:
    """The image with the collection of the checkout, on a base."""
    before = identity()
    with tempfile.TemporaryDirectory(prefix="trtllm-ee-") as scratch:
        release.build(release.SOMEWHERE, Path(scratch)).rename(Path(scratch) / "trtllm-fleet.tar.gz")
        shutil.copy2(DEFINITION, scratch)
        release.create(Path(scratch))
        mounts = [f"--volume={path}:{path}:ro" for path in MACHINES if path.exists()]
        said = podman(
            "build", "--isolation", "chroot", "--layers=false", f"--build-arg=EE_BASE_IMAGE={base}", *mounts,
            "--tag", REFERENCE, Path(scratch) / "context", failure=f"podman cannot build {DEFINITION.name}",
        )  # fmt: skip
    log.write_text(said, encoding="utf-8")
    if before and before != identity():
        # It has lost its name. Where something runs from it still, it stays.
        subprocess.run([podman_command(), "rmi", before], capture_output=True, check=False)


def look() -> None:
    """Run each command in a container that reaches nothing, with the checkout at /runner/project."""
    inside = ["run", "--rm", "--privileged", "--network=none", "--user=root", f"--volume={REPO}:/runner/project:ro"]
    for argv, says in look_at():
        named = f"in {REFERENCE}, '{' '.join(argv)[:100]}'"
        said = podman(*inside, REFERENCE, *argv, failure=f"{named} failed")
        if unsaid := [text for text in says if text not in said]:
            raise StageError(f"{named} does not say {unsaid[0].strip()}; it says: {said.strip()[-1000:]}")


def made(base: str) -> int:
    begin = time.monotonic()
    try:
        build(base or debian_base(["ca-certificates"], SUITE), cache_dir() / "execution-environment.log")
    except BuildError as error:
        raise StageError(str(error)) from error
    built = time.monotonic()
    look()
    size = int(podman("image", "inspect", "--format={{.Size}}", REFERENCE, failure=f"{REFERENCE} is not there"))
    print(
        f"execution environment: {REFERENCE}, {size / 1e6:.0f} MB, built in {built - begin:.0f} s; "
        f"{len(look_at())} commands ran in it in {time.monotonic() - built:.0f} s"
    )
    return 0


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="", help="an image of Debian to build on, instead of one of its packages")
    options = parser.parse_args(given)
    return main_guard("execution environment", lambda: made(options.base))


if __name__ == "__main__":
    sys.exit(main())
