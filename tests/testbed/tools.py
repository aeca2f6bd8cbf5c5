# SPDX-License-Identifier: GPL-3.0-or-later
"""The packages that the testbed needs on the machine, installed through apt where they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .errors import TestbedError
from .settings import Settings

# package -> what shows on a machine without dpkg that it is there
PACKAGES = {
    "podman": "podman",
    "crun": "crun",
    "conmon": "conmon",
    "netavark": None,
    "aardvark-dns": None,
    "nftables": "nft",
    "iptables": "iptables",
    "uidmap": "newuidmap",
    "mmdebstrap": "mmdebstrap",
    "zstd": "zstd",
    "openssh-client": "ssh-keygen",
    "debian-archive-keyring": None,
    # of a controller that downloads repositories itself
    "git": "git",
    "git-lfs": "git-lfs",
}
OLDEST_PODMAN = (4, 3)


def require_root() -> None:
    """Raise unless we are root: hosts are privileged containers with addresses of their own."""
    if os.geteuid() != 0:
        raise TestbedError("test hosts need root (privileged containers, a network of their own); run this as root.")


def missing() -> list[str]:
    """Packages that are not installed."""
    if not shutil.which("dpkg-query"):
        return [name for name, program in PACKAGES.items() if program and not shutil.which(program)]
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *PACKAGES]
    output = subprocess.run(query, text=True, capture_output=True, check=False).stdout
    installed = {line.split()[0] for line in output.splitlines() if line.endswith(" installed")}
    return [name for name in PACKAGES if name not in installed]


def install(settings: Settings, packages: list[str]) -> None:
    """Install `packages` with apt and say so."""
    if not shutil.which("apt-get"):
        raise TestbedError(
            f"{', '.join(packages)} must be installed, and this machine has no apt-get to do it; "
            "install them by hand (the testbed is made for Debian and Ubuntu)."
        )
    print(f"installing with apt: {' '.join(packages)}", flush=True)
    log = settings.logs / "apt.log"
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    fail_soon = ["-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20", "-o", "DPkg::Lock::Timeout=120"]
    with open(log, "w") as output:
        for arguments in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *packages]):
            # update may fail for a repository that nothing here needs; what counts is the installation
            code = subprocess.call(
                ["apt-get", *fail_soon, *arguments], stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=env
            )
    if code:
        raise TestbedError(f"apt could not install {' '.join(packages)} ({first_error(log)}); see {log}.")


def first_error(log: Path) -> str:
    """The line of an apt or mmdebstrap log that says what is wrong, with the reason that follows a failed download."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if line.startswith("Err:"):
            return " ".join([line.partition(" ")[2], *lines[number + 1 : number + 2]])
        if line.startswith(("E:", "dpkg: error")):
            return line
    return lines[-1] if lines else "no output"


def require_podman() -> None:
    """Raise unless podman is new enough."""
    try:
        text = subprocess.run(["/usr/bin/podman", "--version"], text=True, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise TestbedError(f"/usr/bin/podman does not run ({error}); install podman 4.3 or newer.") from None
    version = text.split()[-1]
    if tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < OLDEST_PODMAN:
        raise TestbedError(
            f"podman {version} is too old for the testbed, which needs 4.3 with netavark; use Debian 12, Ubuntu "
            "24.04 or newer."
        )


def require_space(path: Path, megabytes: int) -> None:
    """Raise unless the file system of `path` has that much room."""
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free // 10**6
    if free < megabytes:
        raise TestbedError(f"{path} has {free} MB free and the testbed needs {megabytes} MB there; make room.")
