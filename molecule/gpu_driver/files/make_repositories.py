#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed apt repositories with packages that behave like NVIDIA's, for hosts whose GPUs are fabricated.

Run on a test host: make_repositories.py ROOT. Below ROOT come to lie
  nvidia/debian13/x86_64/    driver 570 and 580, in the layout and under the names of NVIDIA's repository
  unsigned/debian13/x86_64/  the same without a signature
  toolkit/stable/deb/amd64/  container toolkit 1.17 (no service of its own) and 1.18 (with one)
  ubuntu/                    Canonical's driver 580 with signed modules for the running kernel
and key.asc, fingerprint. The packages hold what the roles look at: files at the right places, daemons, versions.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNEL = os.uname().release
DRIVERS = ("570.172.08", "580.95.05", "580.105.08")
TOOLKITS = ("1.17.8", "1.18.1")
LIBRARY = "/usr/lib/x86_64-linux-gnu"


def deb(pool: Path, name: str, version: str, files: dict[str, str], **fields: str) -> None:
    """Build one package. A file whose text starts with "-> " is a symbolic link."""
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary)
        control = {
            "Package": name,
            "Version": version,
            "Architecture": "amd64",
            "Maintainer": "nobody <nobody@example.invalid>",
            **{key.replace("_", "-"): value for key, value in fields.items() if key != "postinst"},
            "Description": f"stands in for {name}",
        }
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in control.items()))
        if "postinst" in fields:
            (tree / "DEBIAN/postinst").write_text(f"#!/bin/sh\nset -e\n{fields['postinst']}\n")
            (tree / "DEBIAN/postinst").chmod(0o755)
        for path, text in files.items():
            place = tree / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if text.startswith("-> "):
                place.symlink_to(text[3:])
            else:
                place.write_text(text)
                place.chmod(0o755 if text.startswith("#!") else 0o644)
        pool.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["dpkg-deb", "-Znone", "--root-owner-group", "--build", tree, pool / f"{name}_{version}_amd64.deb"],
            check=True,
            stdout=subprocess.DEVNULL,
        )


def unit(description: str, exec_start: str, kind: str = "simple", extra: str = "") -> str:
    return (
        f"[Unit]\nDescription={description}\n[Service]\nType={kind}\n{extra}ExecStart={exec_start}\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def module_files(version: str) -> dict[str, str]:
    """Modules for the running kernel, and what loads them: at boot, never before."""
    files = {f"/usr/lib/fabricated/{version}/nvidia.ko": "", "/usr/lib/fabricated/installed": version}
    files["/usr/lib/fabricated/load"] = (HERE / "load").read_text()
    files["/usr/lib/systemd/system/fabricated-nvidia.service"] = unit(
        "Load the fabricated NVIDIA module", "/usr/lib/fabricated/load", "oneshot", "RemainAfterExit=yes\n"
    ).replace("[Service]", "Before=nvidia-persistenced.service nvidia-fabricmanager.service\n[Service]")
    files["/usr/lib/systemd/system/multi-user.target.wants/fabricated-nvidia.service"] = (
        "-> ../fabricated-nvidia.service"
    )
    for name in ("nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm"):
        files[f"/usr/lib/modules/{KERNEL}/updates/dkms/{name}.ko"] = ""
    return files


def userspace_files(version: str) -> dict[str, str]:
    return {
        "/usr/bin/nvidia-smi": (HERE / "nvidia-smi").read_text().replace("@VERSION@", version),
        f"{LIBRARY}/libnvidia-ml.so.1": f"-> libnvidia-ml.so.{version}",
        f"{LIBRARY}/libnvidia-ml.so.{version}": "",
        f"{LIBRARY}/libcuda.so.{version}": "",
    }


def daemon_files(name: str, version: str) -> dict[str, str]:
    check = (
        f'ExecStartPre=/bin/sh -c \'v=$(cat /usr/lib/fabricated/loaded) && [ "$v" = {version} ] || '
        f'{{ echo "{name} {version}: driver $v loaded, versions must be equal"; exit 1; }}\'\n'
    )
    return {f"/usr/lib/systemd/system/{name}.service": unit(name, "/bin/sleep infinity", extra=check)}


def nvidia(pool: Path) -> None:
    for version in DRIVERS:
        branch = version.split(".")[0]
        revision = f"{version}-1"
        deb(pool, "nvidia-kernel-open-dkms", revision, module_files(version), Depends="dkms-stands-in")
        deb(
            pool,
            "nvidia-driver-cuda",
            revision,
            userspace_files(version),
            Depends=f"nvidia-persistenced (= {revision}), libnvidia-cfg1 (= {revision})",
        )
        deb(pool, "libnvidia-cfg1", revision, {})
        deb(pool, "nvidia-persistenced", revision, daemon_files("nvidia-persistenced", version))
        # 580 dropped the branch from these names.
        suffix = f"-{branch}" if int(branch) < 580 else ""
        replaces = {"Conflicts": "nvidia-fabricmanager-570", "Replaces": "nvidia-fabricmanager-570"}
        deb(
            pool,
            f"nvidia-fabricmanager{suffix}",
            revision,
            daemon_files("nvidia-fabricmanager", version),
            **({} if suffix else replaces),
        )
        deb(pool, f"libnvidia-nscq{suffix}", revision, {})
    deb(pool, "dkms-stands-in", "3.0", {})
    deb(pool, f"linux-headers-{KERNEL}", "1", {f"/usr/src/linux-headers-{KERNEL}/Makefile": ""})
    # A version whose dependencies would bring another kernel.
    deb(
        pool,
        "nvidia-kernel-open-dkms",
        "575.57.08-1",
        module_files("575.57.08"),
        Depends="linux-image-99.0-generic",
    )
    deb(pool, "linux-image-99.0-generic", "99.0", {})
    for name in ("nvidia-driver-cuda", "nvidia-persistenced", "nvidia-fabricmanager-575", "libnvidia-nscq-575"):
        deb(pool, name, "575.57.08-1", {})


def ubuntu(pool: Path) -> None:
    version, revision = "580.95.05", "580.95.05-0ubuntu0.24.04.3"
    modules = {path: text for path, text in module_files(version).items() if "dkms" not in path}
    modules.update(
        {
            f"/usr/lib/modules/{KERNEL}/kernel/nvidia-580-server-open/{name}.ko": ""
            for name in ("nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm")
        }
    )
    deb(pool, f"linux-modules-nvidia-580-server-open-{KERNEL}", "6.8.0-1", modules)
    deb(
        pool,
        "nvidia-headless-no-dkms-580-server-open",
        revision,
        {},
        Depends=f"nvidia-compute-utils-580-server (= {revision})",
    )
    deb(pool, "nvidia-compute-utils-580-server", revision, daemon_files("nvidia-persistenced", version))
    deb(pool, "nvidia-utils-580-server", revision, userspace_files(version))


def toolkit_files(version: str) -> dict[str, str]:
    files = {"/usr/bin/nvidia-ctk": (HERE / "nvidia-ctk").read_text()}
    if version >= "1.18":
        files["/usr/lib/systemd/system/nvidia-cdi-refresh.service"] = unit(
            "Refresh CDI", "/usr/bin/nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml", "oneshot"
        )
        files["/usr/lib/systemd/system/nvidia-cdi-refresh.path"] = (
            "[Unit]\nDescription=Watch the driver\n[Path]\nPathChanged=/usr/bin/nvidia-ctk\n"
            "[Install]\nWantedBy=multi-user.target\n"
        )
    return files


def toolkit(pool: Path) -> None:
    for version in TOOLKITS:
        revision = f"{version}-1"
        deb(pool, "nvidia-container-toolkit-base", revision, toolkit_files(version))
        for name in ("nvidia-container-toolkit", "libnvidia-container-tools", "libnvidia-container1"):
            deb(pool, name, revision, {})


def index(directory: Path, origin: str) -> None:
    """Write Packages and Release of a flat repository."""
    entries = []
    for path in sorted(directory.glob("*.deb")):
        control = subprocess.run(["dpkg-deb", "-f", path], check=True, stdout=subprocess.PIPE, text=True).stdout
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append(f"{control}Filename: ./{path.name}\nSize: {path.stat().st_size}\nSHA256: {digest}\n")
    (directory / "Packages").write_text("\n".join(entries))
    data = (directory / "Packages").read_bytes()
    date = subprocess.run(["date", "-Ru"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    (directory / "Release").write_text(
        f"Origin: {origin}\nLabel: {origin}\nSuite: /\nArchitectures: amd64\nDate: {date.replace('+0000', 'UTC')}\n"
        f"SHA256:\n {hashlib.sha256(data).hexdigest()} {len(data)} Packages\n"
    )


def sign(directory: Path) -> None:
    subprocess.run(
        ["gpg", "--batch", "--yes", "--clearsign", "--output", directory / "InRelease", directory / "Release"],
        check=True,
    )


def make_key(root: Path) -> tuple[bytes, str]:
    """Make a key to sign with; return it, armored, and its fingerprint."""
    os.environ["GNUPGHOME"] = str(root / ".gnupg")
    (root / ".gnupg").mkdir(parents=True, mode=0o700)
    subprocess.run(
        ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", "nobody@example.invalid", "rsa3072"],
        check=True,
    )
    key = subprocess.run(["gpg", "--armor", "--export"], check=True, stdout=subprocess.PIPE).stdout
    listing = subprocess.run(["gpg", "--list-keys", "--with-colons"], check=True, stdout=subprocess.PIPE, text=True)
    line = next(line for line in listing.stdout.splitlines() if line.startswith("fpr"))
    return key, line.split(":")[9]


def main(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    key, fingerprint = make_key(root)
    places = {
        "nvidia/debian13/x86_64": (nvidia, "NVIDIA"),
        "toolkit/stable/deb/amd64": (toolkit, "https://nvidia.github.io/libnvidia-container"),
        "ubuntu": (ubuntu, "Ubuntu"),
    }
    for name, (make, origin) in places.items():
        make(root / name)
        index(root / name, origin)
    shutil.copytree(root / "nvidia", root / "unsigned")
    for name in places:
        sign(root / name)
    for place in ("key.asc", "nvidia/debian13/x86_64/8793F200.pub", "unsigned/debian13/x86_64/8793F200.pub"):
        (root / place).write_bytes(key)
    (root / "toolkit/gpgkey").write_bytes(key)
    (root / "fingerprint").write_text(fingerprint)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
