# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual environments of tools that have nothing to do with each other, kept by content in the cache directory."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from _stages import StageError, cache_dir

__all__ = ["environment", "made"]


def environment(name: str, requirements: Path) -> Path:
    """The directory of the programs of an environment with *requirements*; it is made where it is not there yet."""
    path = _place(name, requirements)
    path.parent.mkdir(parents=True, exist_ok=True)
    complete = path / ".complete"
    with (path.parent / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(path, ignore_errors=True)
            _make(path, requirements)
            complete.touch()
    return path / "bin"


def made(name: str, requirements: Path) -> bool:
    """Whether that environment is there already."""
    return (_place(name, requirements) / ".complete").exists()


def _place(name: str, requirements: Path) -> Path:
    given = requirements.read_bytes() + f"{sys.version}{sys.base_prefix}".encode()
    return cache_dir() / "venv" / f"{name}-{hashlib.sha256(given).hexdigest()[:16]}"


def _make(path: Path, requirements: Path) -> None:
    log = cache_dir() / f"pip-{path.name}.log"
    with log.open("wb") as output:
        for argv in (
            [sys.executable, "-m", "venv", str(path)],
            [str(path / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)],
        ):
            if subprocess.run(argv, stdout=output, stderr=subprocess.STDOUT, check=False).returncode != 0:
                shutil.rmtree(path, ignore_errors=True)
                raise StageError(
                    f"the packages of {requirements.name} could not be installed; check the network and the package "
                    f"index that pip is configured for (log: {log})."
                )
