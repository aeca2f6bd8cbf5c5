#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release needs: one version everywhere, an archive that knows where it comes from, and Galaxy's own checks.

tools/release.py check [TAG]             version, changelog and tag fit together
tools/release.py build REPOSITORY [DIR]  the collection's archive, with the address of its repository in it
tools/release.py galaxy                  what Galaxy's importer and ansible-builder say of the checkout as it is
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from _stages import REPO, VENV, StageError, main_guard
from _venvs import environment

REQUIREMENTS = REPO / "tools" / "galaxy" / "requirements.txt"
# Semantic, as Galaxy wants it.
VERSION = re.compile(r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$")
# Ansible's documentation is read too; what `make lint` does itself is not done again.
IMPORTER = """[galaxy-importer]
CHECK_REQUIRED_TAGS = True
CHECK_CHANGELOG = True
RUN_ANSIBLE_DOC = True
RUN_ANSIBLE_LINT = False
RUN_ANSIBLE_TEST = False
"""
# The checkout does not know at which address it is published.
SOMEWHERE = "https://example.com/trtllm/fleet"


def version() -> str:
    """The version of the collection."""
    return str(yaml.safe_load((REPO / "galaxy.yml").read_text(encoding="utf-8"))["version"])


def check(tag: str = "") -> str:
    """Raise where version, changelog and tag contradict each other."""
    ours = version()
    if not VERSION.match(ours):
        raise StageError(f"galaxy.yml has the version {ours}; give a semantic one, such as 1.4.0 or 2.0.0-rc.1.")
    if tag and tag != f"v{ours}":
        raise StageError(
            f"the tag is {tag}, and galaxy.yml has the version {ours}; tag it v{ours}, or set the version."
        )
    if f"\n## v{ours.replace('.', chr(92) + '.')}\n" not in (REPO / "CHANGELOG.md").read_text(encoding="utf-8"):
        raise StageError(f"CHANGELOG.md has nothing of {ours}; run `make changelog`.")
    return ours


def build(repository: str, out: Path) -> Path:
    """The archive, of the files that git knows."""
    if not re.match(r"https://[^\s/]+/\S+$", repository):
        raise StageError(
            f"the repository is {repository}; give its address, such as https://forge.example.com/me/fleet."
        )
    ours = check()
    with tempfile.TemporaryDirectory(prefix="trtllm-release-") as scratch:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, check=True, capture_output=True, text=True).stdout
        for name in filter(None, listed.split("\0")):
            source, target = REPO / name, Path(scratch) / name
            if not source.is_file() or name.startswith("collections/"):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
        with (Path(scratch) / "galaxy.yml").open("a", encoding="utf-8") as galaxy:
            galaxy.write(f"repository: {repository}\nissues: {repository}/issues\n")
            galaxy.write(f"documentation: {repository}/blob/v{ours}/docs\n")
        out.mkdir(parents=True, exist_ok=True)
        argv = [
            str(VENV / "bin" / "ansible-galaxy"),
            "collection",
            "build",
            "--force",
            "--output-path",
            str(out),
            scratch,
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"ansible-galaxy cannot build the collection: {done.stderr.strip()[-1000:]}")
    return out / f"trtllm-fleet-{ours}.tar.gz"


def create(directory: Path) -> None:
    """Have ansible-builder make the build context of the execution environment, of its definition in *directory*."""
    programs = environment("galaxy", REQUIREMENTS)
    environ = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    argv = [str(programs / "ansible-builder"), "create", "--file", "execution-environment.yml"]
    done = subprocess.run(argv, cwd=directory, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"ansible-builder refuses execution-environment.yml: {(done.stdout + done.stderr)[-1000:]}")


def galaxy() -> int:
    """Have the importer read the archive, and ansible-builder the definition of the execution environment."""
    programs = environment("galaxy", REQUIREMENTS)
    with tempfile.TemporaryDirectory(prefix="trtllm-galaxy-") as scratch:
        archive = build(SOMEWHERE, Path(scratch))
        configuration = Path(scratch) / "galaxy-importer.cfg"
        configuration.write_text(IMPORTER, encoding="utf-8")
        environ = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "GALAXY_IMPORTER_CONFIG": str(configuration),
        }
        environ.pop("ANSIBLE_CONFIG", None)
        argv = [str(programs / "python"), "-m", "galaxy_importer.main", str(archive)]
        done = subprocess.run(argv, cwd=scratch, env=environ, capture_output=True, text=True, check=False)
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("ERROR", "WARNING"))]
        if done.returncode or said or "completed successfully" not in done.stdout + done.stderr:
            raise StageError(f"Galaxy's importer is not content: {' '.join(said) or done.stderr.strip()[-1000:]}")
        shutil.copy2(archive, Path(scratch) / "trtllm-fleet.tar.gz")
        shutil.copy2(REPO / "execution-environment.yml", scratch)
        create(Path(scratch))
    print(f"release: Galaxy's importer and ansible-builder take {archive.name}")
    return 0


def main() -> int:
    words = sys.argv[1:]
    if words[:1] == ["check"] and len(words) <= 2:
        print(f"release: {check(*words[1:])}")
        return 0
    if words[:1] == ["build"] and len(words) in (2, 3):
        print(build(words[1], Path(words[2]) if len(words) == 3 else REPO))
        return 0
    if words == ["galaxy"]:
        return galaxy()
    raise StageError("give check [TAG], build REPOSITORY [DIR], or galaxy.")


if __name__ == "__main__":
    sys.exit(main_guard("release", main))
