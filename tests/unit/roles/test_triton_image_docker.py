# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in docker's place for build.py of Triton's server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

DOCKER = Path(__file__).resolve().parents[3] / "roles" / "triton_image" / "files" / "docker"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["build", "--secret", "id=req,src=", "-t", "tritonserver", "."], ["build", "-t", "tritonserver", "."]),
        (["build", "--secret", "id=a,src=/b", "."], ["build", "--secret", "id=a,src=/b", "."]),
        (["build", "--secret"], ["build", "--secret"]),
        (["build", "-t", "tritonserver_buildbase", "--cache-from=tritonserver_buildbase", "."],
         ["build", "-t", "tritonserver_buildbase", "."]),
        (["run", "-w", "/x", "-v", "/var/run/docker.sock:/var/run/docker.sock", "a", "./cmake_build"],
         ["run", "-w", "/x", "a", "./cmake_build"]),
        (["run", "-v", "/a:/b", "a"], ["run", "-v", "/a:/b", "a"]),
        (["cp", "tritonserver_builder:/tmp/x", "/y z"], ["cp", "tritonserver_builder:/tmp/x", "/y z"]),
    ],
)  # fmt: skip
def test_podman_is_told_the_same_without_the_socket_and_the_caches(
    tmp_path: Path, given: list[str], told: list[str]
) -> None:
    podman = tmp_path / "podman"
    podman.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 3\n')
    podman.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([DOCKER, *given], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (3, told)
