#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at pages in a real browser: Debian's Chromium, with axe, in a virtual environment of its own.

tools/browser.py setup                          install the browser where it is missing, and make the environment
tools/browser.py check [--screenshots DIR] PAGE...   no serious finding of axe, no scrolling sideways, nothing fetched
                                                from elsewhere; at 360 and 1280 pixels, in light and dark; exit code 1
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _stages import REPO, StageError, cache_dir, main_guard
from _venvs import environment, made

HERE = REPO / "tests" / "browser"
REQUIREMENTS = HERE / "requirements.txt"
NAME = "browser"
KEPT = REPO / "tests" / "output" / "screenshots"  # what `make test` looked at, until it runs again
PACKAGES = ("chromium", "fonts-dejavu-core")  # which comes without any font
OS_RELEASE = Path("/etc/os-release")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
APT = ["-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20", "-o", "DPkg::Lock::Timeout=300"]


def program() -> str | None:
    """The browser of this machine."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


def missing() -> str:
    """Why no page can be looked at here, empty where it can."""
    if program() is None:
        return "there is no Chromium (tools/browser.py setup installs Debian's)"
    if not made(NAME, REQUIREMENTS):
        return "the environment of the browser is not made; run tools/browser.py setup"
    return ""


def setup() -> int:
    """Install Chromium where it is missing, and make the environment; elsewhere than on Debian say what is missing."""
    if program() is None:
        if not re.search(r"^ID=debian$", OS_RELEASE.read_text(encoding="utf-8"), re.M):
            # Ubuntu's package of the name is none: it asks a shop.
            print(
                "SKIPPED [1] browser: there is no Chromium, and only Debian has a package of it; install one yourself"
            )
            return 0
        if os.geteuid() != 0:
            raise StageError("there is no Chromium; install it, or run this as root.")
        log = cache_dir() / "apt-chromium.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        with log.open("wb") as output:
            for words in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *PACKAGES]):
                subprocess.run(
                    ["apt-get", *APT, *words], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ,
                    check=False,
                )  # fmt: skip
        if program() is None:
            raise StageError(f"apt-get could not install chromium; see {log}.")
    environment(NAME, REQUIREMENTS)
    return 0


def check(
    pages: Sequence[str | Path],
    screenshots: Path | None = None,
    must_say: Sequence[str] = (),
    widths: Sequence[int] = (360, 1280),
) -> list[dict[str, Any]]:
    """What is wrong with *pages* (URLs, or files): by finding its page, where, kind, and what it says."""
    if problem := missing():
        raise StageError(f"{problem}.")
    argv = [str(environment(NAME, REQUIREMENTS) / "python"), str(HERE / "audit.py"), f"--chromium={program()}"]
    argv += [f"--widths={','.join(map(str, widths))}", *(f"--must-say={text}" for text in must_say)]
    argv += [f"--screenshots={screenshots}"] if screenshots else []
    done = subprocess.run([*argv, *map(str, pages)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"the browser did not come up: {done.stderr.strip()[-500:]}")
    findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return findings


def checked(options: argparse.Namespace) -> int:
    """Print what is wrong."""
    findings = check(options.pages, options.screenshots, options.must_say)
    for one in findings:
        print(f"{one['page']} ({one['where']}): {one['kind']}: {one['says']}")
    print(f"browser: {len(options.pages)} pages, {len(findings)} findings")
    return 1 if findings else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["setup", "check"])
    parser.add_argument("pages", nargs="*")
    parser.add_argument("--screenshots", type=Path)
    parser.add_argument("--must-say", action="append", default=[])
    options = parser.parse_intermixed_args()
    return main_guard("browser", setup if options.what == "setup" else lambda: checked(options))


if __name__ == "__main__":
    sys.exit(main())
