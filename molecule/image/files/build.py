#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of build.py of Triton's server that a release is built with, and its four steps with docker.

It clones the backend in its container as that does; what that would take hours to compile is a file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
SWITCHES = (
    "--no-container-interactive", "--no-container-pull", "--enable-logging", "--enable-stats", "--enable-tracing",
    "--enable-metrics", "--enable-gpu-metrics", "--enable-cpu-metrics", "--enable-gpu",
)  # fmt: skip
LISTS = ("--filesystem", "--endpoint", "--backend", "--image", "--repoagent", "--cache")


def docker(*words: str) -> None:
    """Run docker in this directory, as the script does that build.py writes."""
    subprocess.run(["docker", *words], cwd=HERE, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-v", "--verbose", action="store_true")
    # The real one would write Dockerfiles for RHEL on a test host, as Debian has no ID_LIKE.
    parser.add_argument("--target-platform", choices=["linux"], required=True)
    parser.add_argument("--github-organization", default="https://github.com/triton-inference-server")
    for name in SWITCHES:
        parser.add_argument(name, action="store_true")
    for name in LISTS:
        parser.add_argument(name, action="append", default=[])
    flags = parser.parse_args()
    base = dict(image.split(",") for image in flags.image)["base"]
    pull = [] if flags.no_container_pull else ["--pull"]
    tag = dict(backend.partition(":")[::2] for backend in flags.backend)["tensorrtllm"]
    BUILD.mkdir(exist_ok=True)
    # The container has no git, so what is cloned in it is cloned here.
    subprocess.run(["rm", "-rf", BUILD / "tensorrtllm"], check=True)
    clone = ["git", "clone", "--quiet", "--depth=1", "-b", tag]
    subprocess.run([*clone, f"{flags.github_organization}/tensorrtllm_backend.git", BUILD / "tensorrtllm"], check=True)
    (BUILD / "cmake_build").write_text(
        "#!/bin/sh\nset -e\nbusybox mkdir -p /tmp/tritonbuild/install/backends/tensorrtllm /tmp/tritonbuild/ci\n"
        "busybox cp tensorrtllm/requirements.txt /tmp/tritonbuild/install/backends/tensorrtllm/\n"
    )
    os.chmod(BUILD / "cmake_build", 0o755)
    (BUILD / "Dockerfile.buildbase").write_text(f"ARG BASE_IMAGE={base}\nFROM ${{BASE_IMAGE}}\nCOPY . /workspace\n")
    (BUILD / "Dockerfile").write_text(
        f"ARG BASE_IMAGE={base}\nFROM ${{BASE_IMAGE}}\nCOPY build/install /opt/tritonserver\n"
    )
    (BUILD / "Dockerfile.cibase").write_text("FROM tritonserver\nCOPY build/ci /workspace\n")
    docker("build", "-t", "tritonserver_buildbase", "-f", f"{BUILD}/Dockerfile.buildbase", *pull,
           "--cache-from=tritonserver_buildbase", ".")  # fmt: skip
    there = subprocess.run(["docker", "ps", "-a"], capture_output=True, text=True, check=True).stdout
    if "tritonserver_builder" in there:
        docker("rm", "-f", "tritonserver_builder")
    docker("run", "-w", "/workspace/build", "--name", "tritonserver_builder",
           "-v", "/var/run/docker.sock:/var/run/docker.sock", "tritonserver_buildbase", "./cmake_build")  # fmt: skip
    docker("cp", "tritonserver_builder:/tmp/tritonbuild/install", str(BUILD))
    docker("cp", "tritonserver_builder:/tmp/tritonbuild/ci", str(BUILD))
    docker("build", "--secret", "id=req,src=", "-t", "tritonserver", "-f", f"{BUILD}/Dockerfile", ".")
    docker("build", "-t", "tritonserver_cibase", "-f", f"{BUILD}/Dockerfile.cibase", ".")


if __name__ == "__main__":
    main()
