# SPDX-License-Identifier: GPL-3.0-or-later
"""``CHANGELOG.md`` from the fragments in ``changelogs/fragments``, for the version that galaxy.yml names."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

REPO = Path(__file__).resolve().parent.parent


def release(root: Path) -> None:
    """Write the changelog below *root*; a version that has a date keeps it."""
    version = str(yaml.safe_load((root / "galaxy.yml").read_text(encoding="utf-8"))["version"])
    known = yaml.safe_load((root / "changelogs" / "changelog.yaml").read_text(encoding="utf-8"))["releases"]
    date = str(known.get(version, {}).get("release_date") or time.strftime("%Y-%m-%d", time.gmtime()))
    bin_ = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "ANSIBLE_CONFIG": str(root / "ansible.cfg")}
    argv = [str(bin_ / "antsibull-changelog"), "release", "--version", version, "--date", date, "--update-existing"]
    subprocess.run([*argv, "--reload-plugins"], cwd=root, env=environment, check=True)


if __name__ == "__main__":
    release(Path(sys.argv[1]) if len(sys.argv) > 1 else REPO)
