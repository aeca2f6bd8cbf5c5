# SPDX-License-Identifier: GPL-3.0-or-later
"""The image of the test hosts: a Debian root file system by mmdebstrap, and a layer of the testbed's own files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from . import files, outer, tools
from .errors import TestbedError
from .settings import BASE_IMAGE, HOST_FILES, IMAGE, LABEL, REGISTRY_VOLUME, SUITE, Settings

PACKAGES = (
    "systemd systemd-sysv dbus libpam-systemd kmod udev pciutils procps psmisc iproute2 iputils-ping nftables "
    "iptables ca-certificates curl tzdata podman crun netavark aardvark-dns catatonit passt python3 python3-apt "
    "sudo openssh-server less logrotate zstd docker-registry"
)
# What would act on the machine's kernel and devices, or use the network unasked
MASKED = (
    "systemd-sysctl.service systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket "
    "systemd-udev-trigger.service systemd-modules-load.service modprobe@.service systemd-binfmt.service "
    "systemd-remount-fs.service dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount "
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer netavark-dhcp-proxy.socket getty.target"
)
LEFT_OUT = ("man", "doc", "locale", "info", "lintian")
HOOKS = (
    f'chroot "$1" systemctl --quiet mask {MASKED}',
    'chroot "$1" systemctl --quiet disable docker-registry.service',
    'rm -f "$1"/etc/ssh/ssh_host_* && : > "$1/etc/machine-id"',
    # storage in a volume of its own, deletable, open to the testbed's network
    "printf 'version: 0.1\\nlog: {level: warn}\\nstorage:\\n  filesystem: {rootdirectory: /var/lib/docker-registry}\\n"
    '  delete: {enabled: true}\\nhttp: {addr: ":5000"}\\n\' > "$1/etc/docker/registry/config.yml"',
)
BASE_MEGABYTES = 2500
OLD_DAYS = 14


def base_options() -> list[str]:
    """Everything that determines the root file system, as mmdebstrap's options."""
    options = ["--variant=minbase", "--mode=root", "--format=tar", f"--include={','.join(PACKAGES.split())}"]
    # a host has its package lists, so that a check-mode run, which cannot fetch them, finds what it would install
    options += ["--skip=cleanup/apt/lists"]
    options += ['--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"']
    options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
    return options + [f"--customize-hook={hook}" for hook in HOOKS]


def digest(parts: Iterable[str | bytes]) -> str:
    """Short hash of a sequence of texts."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "big") + data)
    return sha.hexdigest()[:12]


def base_key(suite: str = SUITE) -> str:
    """Name of the root file system by what it is made from."""
    return digest([suite, *base_options()])


def host_key(settings: Settings, context: dict[str, tuple[bytes, int]], suite: str = SUITE) -> str:
    """Name of the image by its base and every file laid over it."""
    parts: list[str | bytes] = [base_key(suite)]
    for name, (content, mode) in sorted(context.items()):
        parts += [name, oct(mode), content]
    return digest(parts)


def context(settings: Settings, suite: str = SUITE) -> dict[str, tuple[bytes, int]]:
    """The build context: path -> content and mode. What a release has of its own finds the common file beside it."""
    found: dict[str, tuple[bytes, int]] = {}
    for path in sorted(p for p in HOST_FILES.rglob("*") if p.is_file()):
        found[str(path.relative_to(HOST_FILES))] = (path.read_bytes(), path.stat().st_mode & 0o755)
    own = HOST_FILES.with_name(f"{HOST_FILES.name}-{suite}")
    for path in sorted(p for p in own.rglob("*") if p.is_file()):
        name = str(path.relative_to(own))
        if name in found:
            found[f"files/usr/local/lib/testbed/common/{path.name}"] = found[name]
        found[name] = (path.read_bytes(), path.stat().st_mode & 0o755)
    public = Path(f"{settings.key}.pub").read_bytes()
    found["files/root/.ssh/authorized_keys"] = (public, 0o600)
    found["files/etc/ssh/ssh_host_ed25519_key"] = (settings.host_key.read_bytes(), 0o600)
    found["files/etc/ssh/ssh_host_ed25519_key.pub"] = (Path(f"{settings.host_key}.pub").read_bytes(), 0o644)
    found["files/etc/apt/apt.conf.d/00testbed"] = (machine_apt().encode(), 0o644)
    for path in sorted(Path("/usr/local/share/ca-certificates").glob("*.crt")):
        found[f"files{path}"] = (path.read_bytes(), 0o644)
    return found


def machine_apt() -> str:
    """The machine's own way to its package mirror (proxy, clock checks), for the hosts' apt."""
    wanted = ("Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::Check-Valid-Until", "Acquire::Check-Date")
    dump = subprocess.run(["apt-config", "dump"], text=True, capture_output=True, check=False).stdout
    return "".join(f"{line}\n" for line in dump.splitlines() if line.startswith(wanted))


def current_image(settings: Settings, suite: str = SUITE) -> str:
    """Reference of the image that the checkout asks for. Raises TestbedError if `prepare` has not made the keys yet."""
    if not settings.key.exists() or not settings.host_key.exists():
        raise TestbedError("there are no test hosts on this machine yet; run `testbed prepare` first.")
    return f"{IMAGE}:{host_key(settings, context(settings, suite), suite)}"


def exists(settings: Settings, image: str) -> bool:
    """Whether podman has the image."""
    return outer.podman(settings, "image", "exists", image, check=False).returncode == 0


def prepare(settings: Settings, refresh: bool = False, suite: str = SUITE) -> None:
    """Make everything that `testbed up` needs; what is there already is kept."""
    settings.logs.mkdir(parents=True, exist_ok=True)
    with files.lock(settings.cache / "prepare.lock") as held:
        absent = tools.missing()
        if absent:
            tools.install(settings, absent)
        tools.require_podman()
        outer.forget_lost(settings)
        _keys(settings)
        if refresh or not exists(settings, current_image(settings, suite)):
            files.empty_directory(settings.tmp)
            _build(settings, held, refresh, suite)


def _keys(settings: Settings) -> None:
    """Make the ssh keys, once."""
    for path in (settings.key, settings.host_key):
        if not path.exists():
            partial = path.with_name("partial-key")
            for stale in (partial, Path(f"{partial}.pub")):
                stale.unlink(missing_ok=True)
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f", str(partial)], check=True
            )
            Path(f"{partial}.pub").rename(f"{path}.pub")
            partial.rename(path)
    public = Path(f"{settings.host_key}.pub").read_text()
    files.write(settings.known_hosts, f"* {' '.join(public.split()[:2])}\n")


def _build(settings: Settings, held: int, refresh: bool, suite: str) -> None:
    base = f"{BASE_IMAGE}:{base_key(suite)}"
    archive = settings.cache / f"base-{base_key(suite)}.tar.zst"
    if refresh or not exists(settings, base):
        tools.require_space(settings.cache, BASE_MEGABYTES)
        tools.require_space(Path("/var/lib/containers"), BASE_MEGABYTES)
        if refresh or not archive.exists():
            _debootstrap(settings, held, archive, suite)
        archive.touch()
        _import(settings, archive, base)
    started = time.monotonic()
    staged = settings.tmp / "context"
    for name, (content, mode) in context(settings, suite).items():
        target = staged / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode)
    (staged / "files/root/.ssh").chmod(0o700)
    image = current_image(settings, suite)
    # the CLI, because the API has no way to choose the isolation
    outer.podman(
        settings, "build", "-q", "--layers=false", "--build-arg", f"BASE={base}", "--label", f"{LABEL}=image",
        "-t", image, str(staged),
    )  # fmt: skip
    shutil.rmtree(staged)
    _forget_old(settings, base, image)
    print(f"image of the test hosts made in {time.monotonic() - started:.1f} s", flush=True)


def _debootstrap(settings: Settings, held: int, archive: Path, suite: str) -> None:
    """Make the root file system. No mirror is named: mmdebstrap takes Debian's, by the machine's apt settings.

    mmdebstrap is given the lock `held`: if we are killed it works on for a while, and nobody should interfere.
    """
    print(f"making a Debian {suite} root file system with mmdebstrap (about half a minute)", flush=True)
    started = time.monotonic()
    log = settings.logs / "mmdebstrap.log"
    partial = settings.tmp / "base.tar.zst"
    fail_soon = ['--aptopt=Acquire::Retries "1"', '--aptopt=Acquire::http::Timeout "20"']
    argv = ["mmdebstrap", *base_options(), *fail_soon, suite, "-"]
    env = {**os.environ, "TMPDIR": str(settings.tmp), "LC_ALL": "C"}
    with open(log, "w") as errors:
        maker = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, env=env, pass_fds=[held]
        )
        packer = subprocess.Popen(
            ["zstd", "-q", "-T0", "-3", "-o", str(partial)], stdin=maker.stdout, stderr=errors, pass_fds=[held]
        )
        assert maker.stdout is not None
        maker.stdout.close()
        try:
            failed = packer.wait() | maker.wait()
        except BaseException:
            maker.terminate()  # it removes what it made
            maker.wait()
            packer.wait()
            partial.unlink(missing_ok=True)
            raise
    if failed:
        partial.unlink(missing_ok=True)
        raise TestbedError(f"mmdebstrap could not make the root file system ({tools.first_error(log)}); see {log}.")
    partial.rename(archive)
    size = archive.stat().st_size // 10**6
    print(f"root file system made in {time.monotonic() - started:.1f} s, {size} MB", flush=True)


def _import(settings: Settings, archive: Path, base: str) -> None:
    started = time.monotonic()
    reader = subprocess.Popen(["zstd", "-dcq", str(archive)], stdout=subprocess.PIPE)
    argv = outer.command(settings, "import", "-q", "--change", f"LABEL {LABEL}=base", "-", base)
    done = subprocess.run(
        argv, stdin=reader.stdout, env=outer.environment(settings), text=True, capture_output=True, check=False
    )
    if reader.wait() or done.returncode:
        archive.unlink(missing_ok=True)
        raise TestbedError(f"podman could not import {archive.name} ({done.stderr.strip()[-200:]}); run it again.")
    print(f"root file system imported in {time.monotonic() - started:.1f} s", flush=True)


def _forget_old(settings: Settings, *keep: str) -> None:
    """Remove root file systems and images that were made long ago and are neither wanted nor used."""
    for archive in settings.cache.glob("base-*.tar.zst"):
        if time.time() - archive.stat().st_mtime > OLD_DAYS * 86400:
            archive.unlink()
    old = ["--filter", f"label={LABEL}", "--filter", f"until={OLD_DAYS * 24}h"]
    listed = outer.podman(settings, "images", "-q", "--no-trunc", *old, check=False).stdout
    kept = outer.podman(settings, "image", "inspect", "-f", "sha256:{{.Id}}", *keep).stdout.split()
    for image in dict.fromkeys(listed.split()):
        if image not in kept:
            outer.podman(settings, "rmi", image, check=False)


def purge(settings: Settings) -> None:
    """Remove the images and the registry's storage."""
    with files.lock(settings.cache / "prepare.lock"):
        outer.podman(settings, "volume", "rm", "-f", REGISTRY_VOLUME, check=False)
        listed = outer.podman(settings, "images", "-q", "--no-trunc", "--filter", f"label={LABEL}").stdout
        # an image before the one that it is made from
        for image in dict.fromkeys(listed.split()):
            outer.podman(settings, "rmi", "-f", image, check=False)
