#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write `requirements.txt` of the images: each package of `requirements.in` with the sums of its files.

pip takes no file with another sum, whatever the index or a mirror gives. Run it after a change in `requirements.in`;
it asks the index that uv is configured for.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from _stages import REPO, StageError, main_guard

HEAD = "# Made by tools/lock.py of requirements.in: the same packages, with the sums of all their files.\n"


def locked(source: Path) -> str:
    """The text of the file beside *source*."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", scratch, "uv"], check=True)
        argv = [f"{scratch}/bin/uv", "pip", "compile", "--quiet", "--no-deps", "--generate-hashes", "--no-header"]
        argv += ["--no-annotate", "--python-version", "3.11", str(source)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"uv could not find the sums of {source.relative_to(REPO)}: {done.stderr.strip()}")
    return HEAD + done.stdout


def main() -> int:
    for source in sorted((REPO / "images").glob("*/requirements.in")):
        source.with_suffix(".txt").write_text(locked(source), encoding="utf-8")
        print(f"wrote {source.with_suffix('.txt').relative_to(REPO)}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard("lock", main))
