# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's own build.py, at the branch of each release, with what the role gives it.

Needs TRITON_SERVER_DIR, a clone of triton-inference-server/server with its branches. ``--dryrun`` has build.py write
what it would run, and run nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._release.images import server_build
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import RELEASES

LACK = ("0.8.0", "0.9.0", "0.18.1")  # refused; see _SERVER_LACKS
VERSIONS = [version for version, about in RELEASES.items() if about.key < (0, 20) and version not in LACK]
BASE, ORGANIZATION = "localhost/base:1", "http://git.example.com/triton"


@pytest.fixture(scope="module")
def clone() -> Path:
    path = os.environ.get("TRITON_SERVER_DIR")
    if not path:
        pytest.skip("TRITON_SERVER_DIR is not set; set it to a clone of triton-inference-server/server to run build.py")
    return Path(path)


def written(clone: Path, home: Path, version: str, branch: str, options: tuple[str, ...]) -> dict[str, str]:
    """What build.py of *branch* writes, by the names of its files."""
    for name in ("build.py", "TRITON_VERSION"):
        found = [branch, f"origin/{branch}"]
        shown = [
            subprocess.run(["git", "-C", str(clone), "show", f"{ref}:{name}"], capture_output=True) for ref in found
        ]
        body = next((answer.stdout for answer in shown if not answer.returncode), None)
        assert body, f"{clone} has no {name} at {branch}, which the table names for {version}"
        (home / name).write_bytes(body)
    ran = subprocess.run([sys.executable, "build.py", "--dryrun", *options], cwd=home, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return {path.name: path.read_text() for path in (home / "build").iterdir() if path.is_file()}


@pytest.mark.parametrize("version", VERSIONS)
def test_build_py_takes_what_it_is_given(clone: Path, tmp_path: Path, version: str) -> None:
    asked = server_build(version, BASE, organization=ORGANIZATION)
    found = written(clone, tmp_path, version, asked.version, asked.options)
    assert f"ARG BASE_IMAGE={BASE}\n" in found["Dockerfile"], "the base image is the one that was built before"
    assert "yum " not in found["Dockerfile.buildbase"] and "apt-get " in found["Dockerfile.buildbase"]
    clones = re.findall(r"git clone .* -b (\S+) (\S+)/(\w+)\.git", found["cmake_build"])
    backend = RELEASES[version].backend_tag
    assert (backend, ORGANIZATION, "tensorrtllm_backend") in clones and (
        asked.version,
        ORGANIZATION,
        "python_backend",
    ) in clones
    assert {place for _, place, _ in clones} == {ORGANIZATION}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_it_runs_is_what_the_role_reckons_with(clone: Path, tmp_path: Path, version: str) -> None:
    asked = server_build(version, BASE)
    script = written(clone, tmp_path, version, asked.version, asked.options)["docker_build"]
    lines = [line.strip() for line in script.splitlines()]
    docker = [line for line in lines if line.startswith("docker ")]
    assert {line.split()[1] for line in docker} == {"build", "run", "cp"}, "podman stands in for these"
    built = [word for line in docker for word in re.findall(r" build .*?-t (\S+)", line)]
    assert built == ["tritonserver_buildbase", "tritonserver", "tritonserver_cibase"], "two of them are removed"
    assert not any("--pull" in line for line in docker), "no registry has the base image"
    secrets = {word for line in docker for word in re.findall(r"--secret (\S+)", line)}
    assert secrets <= {"id=req,src="}, "this one stands for none, and podman is not told of it"
    (run,) = (line for line in docker if line.startswith("docker run "))
    assert "--name tritonserver_builder" in run and " -it " not in run
