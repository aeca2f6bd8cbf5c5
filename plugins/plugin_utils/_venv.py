# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual environments of the controller for tools that have nothing to do with Ansible's own, kept by content."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir


def place(name: str, requirements: Path) -> Path:
    """Where the environment of *requirements* is, or will be."""
    given = requirements.read_bytes() + f"{sys.version}{sys.base_prefix}".encode()
    return cache_dir() / "venv" / f"{name}-{hashlib.sha256(given).hexdigest()[:16]}"


def made(name: str, requirements: Path) -> bool:
    """Whether it is there already."""
    return (place(name, requirements) / ".complete").exists()


def environment(name: str, requirements: Path) -> Path:
    """The directory of the programs of an environment with *requirements*; it is made where it is not there yet."""
    path = place(name, requirements)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path / ".complete").exists():
            shutil.rmtree(path, ignore_errors=True)
            _make(path, requirements)
            (path / ".complete").touch()
    return path / "bin"


def _make(path: Path, requirements: Path) -> None:
    log = cache_dir() / f"pip-{path.name}.log"
    with log.open("wb") as output:
        for argv in (
            [sys.executable, "-m", "venv", str(path)],
            [str(path / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)],
        ):
            if subprocess.run(argv, stdout=output, stderr=subprocess.STDOUT, check=False).returncode != 0:
                shutil.rmtree(path, ignore_errors=True)
                raise FleetError(
                    f"the packages of {requirements.name} could not be installed; check the network and the package "
                    f"index that pip is configured for (log: {log})."
                )
