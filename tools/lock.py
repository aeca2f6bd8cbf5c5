#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write `requirements.txt` of the images and the site: each package of `requirements.in` with the sums of its files.

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
# An image has one Python and names all its packages; the site and the benchmark's client name what they use, and are
# made by any Python.
IMAGES = ("images/*/requirements.in", ["--no-deps"])
SITE = ("tools/site/requirements.in", ["--universal"])
CLIENT = ("plugins/plugin_utils/benchmark/requirements.in", ["--universal"])


def locked(source: Path, options: list[str]) -> str:
    """The text of the file beside *source*."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", scratch, "uv"], check=True)
        argv = [f"{scratch}/bin/uv", "pip", "compile", "--quiet", *options, "--generate-hashes", "--no-header"]
        argv += ["--no-annotate", "--python-version", "3.11", str(source)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"uv could not find the sums of {source.relative_to(REPO)}: {done.stderr.strip()}")
    return HEAD + done.stdout


def main() -> int:
    for pattern, options in (IMAGES, SITE, CLIENT):
        for source in sorted(REPO.glob(pattern)):
            source.with_suffix(".txt").write_text(locked(source, options), encoding="utf-8")
            print(f"wrote {source.with_suffix('.txt').relative_to(REPO)}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard("lock", main))
