#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed rpm repositories with module streams, of packages that behave like NVIDIA's.

Run on a test host beside make_repositories.py: make_rpm_repositories.py ROOT. Below ROOT come to lie
  nvidia/rhel9/x86_64/      driver 570 and 580, each in a module stream, signed packages
  toolkit/stable/rpm/x86_64 container toolkit 1.17 and 1.18, signed index
  system/                   what the distribution itself has
  epel/                     dkms, and something that nobody may take from there
and key.asc, fingerprint.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import make_repositories as content

KERNEL = os.uname().release
DRIVERS = ("570.172.08", "580.95.05")
# NVIDIA's driver packages have an epoch.
EPOCH = 3


def rpm(
    pool: Path,
    name: str,
    version: str,
    files: dict[str, str],
    release: str = "1.el9",
    epoch: int = 0,
    requires: tuple[str, ...] = (),
) -> str:
    """Build one package and return its NEVRA, as module metadata names it."""
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        for path, text in files.items():
            place = tree / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if text.startswith("-> "):
                place.symlink_to(text[3:])
            else:
                place.write_text(text)
                place.chmod(0o755 if text.startswith("#!") else 0o644)
        spec = Path(temporary) / "x.spec"
        spec.write_text(
            f"Name: {name}\nVersion: {version}\nRelease: {release}\nEpoch: {epoch}\nSummary: stands in for {name}\n"
            "License: none\nAutoReqProv: no\n"
            + "".join(f"Requires: {need}\n" for need in requires)
            + "%description\nstands in\n%install\nmkdir -p %{buildroot}\n"
            + (f"cp -a {tree}/. %{{buildroot}}/\n" if files else "")
            + "%files\n"
            + "".join(f"{path}\n" for path in files)
        )
        subprocess.run(
            [
                "rpmbuild", "-bb", "--quiet", "--target", "x86_64", "--define", f"_topdir {temporary}/build",
                "--define", f"_rpmdir {pool}", "--define", "_build_name_fmt %{NAME}-%{VERSION}-%{RELEASE}.rpm",
                "--define", "__os_install_post %{nil}", "--define", "_build_id_links none", spec,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
    return f"{name}-{epoch}:{version}-{release}.x86_64"


def on_el(files: dict[str, str]) -> dict[str, str]:
    return {path.replace("/usr/lib/x86_64-linux-gnu", "/usr/lib64"): text for path, text in files.items()}


def nvidia(pool: Path) -> str:
    """Return the metadata of the module streams."""
    streams = []
    for version in DRIVERS:
        branch = version.split(".")[0]
        artifacts = [
            rpm(pool, "kmod-nvidia-open-dkms", version, content.module_files(version), epoch=EPOCH, requires=("dkms",)),
            rpm(
                pool, "nvidia-driver-cuda", version, on_el(content.userspace_files(version)), epoch=EPOCH,
                requires=(f"nvidia-driver-cuda-libs = {EPOCH}:{version}", f"nvidia-persistenced = {EPOCH}:{version}"),
            ),
            rpm(pool, "nvidia-driver-cuda-libs", version, {}, epoch=EPOCH),
            rpm(
                pool, "nvidia-persistenced", version, content.daemon_files("nvidia-persistenced", version), epoch=EPOCH
            ),
        ]  # fmt: skip
        streams.append(
            "---\ndocument: modulemd\nversion: 2\ndata:\n  name: nvidia-driver\n"
            f"  stream: {branch}-open\n  version: {branch}0000\n  context: 00000000\n  arch: x86_64\n"
            "  summary: NVIDIA driver\n  description: NVIDIA driver\n  license: {module: [none]}\n"
            "  dependencies: [{requires: {platform: [el9]}}]\n"
            f"  artifacts:\n    rpms:\n" + "".join(f"    - {name}\n" for name in artifacts) + "...\n"
        )
        # What joins GPUs is in no stream.
        rpm(pool, "nvidia-fabricmanager", version, content.daemon_files("nvidia-fabricmanager", version))
        rpm(pool, "libnvidia-nscq", version, {})
    headers = {f"/usr/src/kernels/{KERNEL}/Makefile": ""}
    version = KERNEL.split("-")[0]
    rpm(pool, f"kernel-devel-{KERNEL}", version, headers, release="1")
    return "".join(streams)


def toolkit(pool: Path) -> str:
    for version in content.TOOLKITS:
        rpm(pool, "nvidia-container-toolkit-base", version, content.toolkit_files(version), release="1")
        for name in ("nvidia-container-toolkit", "libnvidia-container-tools", "libnvidia-container1"):
            rpm(pool, name, version, {}, release="1")
    return ""


def epel(pool: Path) -> str:
    rpm(pool, "dkms", "3.0", {})
    # Newer than NVIDIA's: it must not be taken.
    rpm(pool, "nvidia-persistenced", "999.99.99", {}, epoch=9)
    return ""


def system(pool: Path) -> str:
    """What the distribution has. The programs themselves are there already, from Debian."""
    for name in ("python3-dnf-plugin-versionlock", "podman", "crun", "netavark", "aardvark-dns"):
        rpm(pool, name, "4.10", {})
    return ""


def main(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    key, fingerprint = content.make_key(root)
    makers = {"nvidia/rhel9/x86_64": nvidia, "toolkit/stable/rpm/x86_64": toolkit, "epel": epel, "system": system}
    for place, make in makers.items():
        directory = root / place
        directory.mkdir(parents=True)
        modules = make(directory)
        packages = [str(path) for path in directory.glob("*.rpm")]
        subprocess.run(
            ["rpmsign", "--define", f"_gpg_name {fingerprint}", "--addsign", *packages],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        subprocess.run(["createrepo_c", "--quiet", directory], check=True)
        if modules:
            (root / "modules.yaml").write_text(modules)
            subprocess.run(
                ["modifyrepo_c", "--mdtype=modules", root / "modules.yaml", directory / "repodata"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        subprocess.run(
            ["gpg", "--batch", "--yes", "--armor", "--detach-sign", directory / "repodata/repomd.xml"], check=True
        )
    for place in ("key.asc", "nvidia/rhel9/x86_64/D42D0685.pub", "toolkit/gpgkey"):
        (root / place).write_bytes(key)
    (root / "fingerprint").write_text(fingerprint)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
