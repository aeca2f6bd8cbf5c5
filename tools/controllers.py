#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Try the collection with another release of ansible-core than that of `.venv`: one of `.ci/controllers.yml`.

    tools/controllers.py 2.21

An environment is made for it once, kept by content beside the other, and the tests that start Ansible run in it: every
playbook's syntax, the fleet's plan, lost hosts, the actions on the controller. Where the machine has no Python that the
release runs on, a line says that this was skipped.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from _stages import REPO, StageError, cache_dir, main_guard
from ansible_collections.trtllm.fleet.plugins.module_utils._base.versions import version_key

MATRIX = REPO / ".ci" / "controllers.yml"
TESTS = [
    "tests/unit/test_collection.py", "tests/unit/playbooks", "tests/unit/plugins/action", "tests/unit/plugins/callback",
]  # fmt: skip
REQUIREMENTS = ["requirements.txt", "requirements-dev.txt", "images/openai_gateway/requirements.in"]
# What the tests import beside what a controller needs.
FOR_TESTS = [
    "pytest", "hypothesis", "jsonschema", "kubernetes-validate", "numpy", "safetensors", "tokenizers", "docker",
    "antsibull-docs",
]  # fmt: skip
ASKS = "import sys; print(sys.executable, *sys.version_info[:2])"


def matrix() -> dict[str, str]:
    """Release of ansible-core -> the oldest Python that it runs on."""
    rows: list[dict[str, Any]] = yaml.safe_load(MATRIX.read_text(encoding="utf-8"))["controllers"]
    return {row["ansible_core"]: row["python"] for row in rows}


def others() -> list[str]:
    """The releases of the matrix that are not in this environment."""
    here = ".".join(version("ansible-core").split(".")[:2])
    return [release for release in matrix() if release != here]


def pythons() -> Iterator[str]:
    """Commands that may be a newer Python: by name, and those that pyenv keeps."""
    if named := os.environ.get("PYTHON"):
        yield named
    yield from filter(None, (shutil.which(f"python3.{minor}") for minor in (14, 13, 12)))
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from (str(path) for path in sorted(kept.glob("3.1[234].*/bin/python3"), reverse=True))


def python_for(least: str) -> str | None:
    """A Python of at least this version that the project runs on."""
    for command in pythons():
        try:
            asked = subprocess.run([command, "-c", ASKS], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        executable, major, minor = asked.stdout.split()
        if version_key(least) <= (int(major), int(minor)) < (3, 15):
            return executable
    return None


def packages(release: str) -> list[str]:
    """What is installed, each as our own requirements name it; ansible-core at *release*."""
    lines = [line for name in REQUIREMENTS for line in (REPO / name).read_text(encoding="utf-8").splitlines()]
    named = {re.split(r"[\[<>=~]", line)[0]: line for line in lines if line and not line.startswith(("#", "-r"))}
    wanted = (REPO / "requirements.txt").read_text(encoding="utf-8").splitlines()
    controller = [line for line in wanted if line and not line.startswith(("#", "ansible-core"))]
    return [f"ansible-core=={release}.*", *controller, *(named[name] for name in FOR_TESTS)]


def environment(release: str, python: str) -> Path:
    """The directory of the environment with this release; it is made where it is not there."""
    key = hashlib.sha256("\n".join([python, *packages(release)]).encode()).hexdigest()[:16]
    place = cache_dir() / "venv" / f"core-{release}-{key}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / f".core-{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / ".complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            for argv in ([python, "-m", "venv", str(place)], [*pip, *packages(release)]):
                done = subprocess.run(argv, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise StageError(
                        f"no environment with ansible-core {release}: {(done.stdout + done.stderr)[-2000:]}"
                    )
            (place / ".complete").touch()
    return place


def tried(release: str) -> int:
    """Run the tests with *release*; the exit code of pytest."""
    least = matrix().get(release)
    if least is None:
        raise StageError(f"ansible-core {release} is not one of {', '.join(matrix())} ({MATRIX.relative_to(REPO)}).")
    python = python_for(least)
    if python is None:
        print(
            f"SKIPPED [1] ansible-core {release}: it needs Python {least} or newer; install one, or name it in PYTHON."
        )
        return 0
    binaries = environment(release, python) / "bin"
    argv = [str(binaries / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *TESTS]
    env = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"}
    return subprocess.run(argv, cwd=REPO, env=env, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", help="such as 2.21")
    return tried(parser.parse_args().release)


if __name__ == "__main__":
    sys.exit(main_guard("controllers", main))
