# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the project's container images: base by mmdebstrap, wheels from outside, then podman.

What an image is made from is hashed and written into its label `INPUTS`; the same
inputs are never built twice. Nothing is downloaded inside the build: wheels come through the machine's pip
configuration and are copied, so an image is buildable wherever pip and a Debian mirror (or ``base``) work.

Cache (`cache_dir`): ``rootfs/<key>.tar.zst`` and ``site/<key>/``, both
content-addressed by what was asked for, both safe to delete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "collections"))

from ansible_collections.trtllm.fleet.plugins.module_utils._base import labels
from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir

RECIPE = "1"  # part of every key: raise it when this file changes what an image contains

DEBIAN_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
# The C library of a suite decides which manylinux wheels run on it.
GLIBC_MINOR = {"bullseye": 31, "bookworm": 36, "trixie": 41}
ANSWER_WITHIN = 120  # seconds; a network that swallows what is sent to it must not hold up who can do without
SLIM_PATHS = ("man", "doc", "locale", "info", "lintian", "bug")


class BuildError(Exception):
    """One sentence: what failed and what to do."""


@dataclass(frozen=True)
class BuiltImage:
    """The image that stands in podman's storage now."""

    reference: str  # localhost/<name>:<version>
    id: str  # sha256:...
    inputs: str  # sha256 of everything it was made from
    built: bool  # False: it was there already
    seconds: float
    size: int  # bytes


def podman_command() -> str:
    """``$PODMAN``, the testbed's wrapper where the checkout has one, or plain podman."""
    if chosen := os.environ.get("PODMAN"):
        return chosen
    wrapper = Path(__file__).resolve().parent.parent / "tests" / "testbed" / "podman"
    return str(wrapper) if os.access(wrapper, os.X_OK) else "podman"


def build_image(
    name: str,
    context_dir: Path,
    *,
    version: str,
    files: Sequence[str],
    base_packages: Sequence[str] = (),
    suite: str = "bookworm",
    variant: str = "minbase",
    base: str | None = None,
    wheels_requirements: Path | None = None,
    python_version: str = "3.11",
    build_args: Mapping[str, str] | None = None,
    volumes: Mapping[str, Path] | None = None,
    machine: str | None = None,
    rebuild: bool = False,
    log: Path | None = None,
) -> BuiltImage:
    """``localhost/<name>:<version>``, building it only if what it is made from has changed.

    *volumes*: directories of this machine by the place that they have while it is built; they are no part of the image.

    *files*: paths in *context_dir* (files or directories) that the build needs, the Containerfile included; a
    change in anything else builds nothing. *base_packages* with *suite* and *variant* describe the base that
    mmdebstrap makes; *base* names an existing image instead (it is pulled if absent). The Containerfile says
    ``ARG BASE`` / ``FROM ${BASE}``. *wheels_requirements* (complete, every line pinned with the sums of its files:
    dependencies are not followed) is unpacked by pip for *python_version* into ``site/`` of the build context.
    *machine* is a kernel's name for an architecture (x86_64, aarch64), this machine's by default.
    """
    machine = machine or platform.machine()
    if machine not in DEBIAN_ARCH:
        raise BuildError(f"images are built for {', '.join(DEBIAN_ARCH)}, not for {machine}")
    reference = f"localhost/{name}:{version}"
    started = time.monotonic()
    args = dict(build_args or {})
    base_key = _base_key(base, base_packages, suite, variant, machine)
    inputs = _digest(
        [RECIPE, base_key, python_version, machine, json.dumps(args, sort_keys=True), version]
        + ([_file_digest(wheels_requirements)] if wheels_requirements else [])
        + [f"{path}\0{mode:o}\0{digest}" for path, mode, digest in _context_files(context_dir, files)]
    )
    if not rebuild and _inputs(reference) == inputs:
        return _built(reference, inputs, False, started)
    base_reference = base or _base_image(base_packages, suite, variant, machine, base_key)
    site = wheels_requirements and unpack_wheels(wheels_requirements, python_version, suite, machine)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=_made(cache_dir() / "build")) as staged:
        stage = Path(staged)
        for path, _mode, _sha256 in _context_files(context_dir, files):
            target = stage / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(context_dir / path, target)
        if site:
            shutil.copytree(site, stage / "site", copy_function=_link_or_copy)
        options = [f"--build-arg={key}={value}" for key, value in {**args, "BASE": base_reference}.items()]
        for place, directory in (volumes or {}).items():
            options.append(f"--volume={_made(directory)}:{place}")
        # chroot isolation: the RUN steps only move and compile files, and it also works where no user
        # namespace or cgroup can be made for a build container.
        _run(
            [podman_command(), "build", "--isolation", "chroot", "--layers=false", "--tag", reference]
            + [f"--label={labels.INPUTS}={inputs}", "--file", str(stage / "Containerfile")]
            + [*options, str(stage)],
            f"podman could not build {reference}",
            log,
        )
    return _built(reference, inputs, True, started)


def debian_base(packages: Sequence[str], suite: str) -> str:
    """The reference of an image of Debian's with *packages*, for this machine; it is made where it is absent."""
    machine = platform.machine()
    if machine not in DEBIAN_ARCH:
        raise BuildError(f"images are built for {', '.join(DEBIAN_ARCH)}, not for {machine}")
    return _base_image(packages, suite, "minbase", machine, _base_key(None, packages, suite, "minbase", machine))


def fetch_tree(path: Path, commit: str, url: str, variable: str, parts: Sequence[str] = ()) -> Path:
    """*path* as a git tree at *commit*; what was fetched once is kept.

    It comes from the git address or directory that the environment variable *variable* names, or from *url*: all of it,
    or of that commit alone no more than *parts*. Raises BuildError.
    """
    git = ["git", "-C", str(_made(path))]
    if not (path / ".git").exists():
        _run([*git, "init", "--quiet"], f"git could not make {path}")
    if all((path / part).exists() for part in (".complete", *parts)) and (path / ".complete").read_text() == commit:
        return path
    address = os.environ.get(variable) or url
    failure = f"git could not fetch {address} (or name another one as {variable})"
    if parts:
        subprocess.run([*git, "remote", "remove", "given"], capture_output=True, check=False)
        _run([*git, "remote", "add", "given", address], failure)
        ask([*git, "fetch", "--quiet", "--depth=1", "--filter=blob:none", "given", commit], failure)
        ask([*git, "checkout", "--quiet", commit, "--", *parts], failure)
    else:
        if subprocess.run([*git, "cat-file", "-e", commit], capture_output=True, check=False).returncode:
            ask([*git, "fetch", "--quiet", address, "+refs/heads/*:refs/remotes/given/*"], failure)
        _run([*git, "checkout", "--quiet", "--force", commit], f"{path} lacks the commit {commit}")
    (path / ".complete").write_text(commit)
    return path


def ask(argv: Sequence[str], failure: str) -> None:
    """Run a command that asks the network; raise with the last line of what it said."""
    unattended = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=unattended, timeout=ANSWER_WITHIN)
    except FileNotFoundError:
        raise BuildError(f"{failure}: '{argv[0]}' is not installed") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{failure}: it took more than {ANSWER_WITHIN} s") from None
    if done.returncode:
        raise BuildError(f"{failure}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")


def unpack_wheels(requirements: Path, python_version: str, suite: str, machine: str) -> Path:
    """A directory with the wheels of *requirements* unpacked as site-packages (cached)."""
    minor = GLIBC_MINOR[suite]
    key = _digest([RECIPE, _requirement_lines(requirements), python_version, str(minor), machine])[:32]
    target = cache_dir() / "site" / key
    with _lock(target):
        if target.is_dir():
            return target
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        tag = python_version.replace(".", "")
        platforms = [f"manylinux_2_{m}_{machine}" for m in range(minor, 16, -1)]
        platforms.append(f"manylinux2014_{machine}")
        _run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
            + ["--only-binary=:all:", "--require-hashes", "--target", str(partial), "--implementation", "cp"]
            + ["--python-version", python_version]
            + [f"--abi={abi}" for abi in (f"cp{tag}", "abi3", "none")]
            + [f"--platform={p}" for p in platforms]
            + ["--requirement", str(requirements)],
            f"pip could not fetch the wheels of {requirements}",
        )
        shutil.rmtree(partial / "bin", ignore_errors=True)  # console scripts point at the wrong interpreter
        partial.rename(target)
    return target


def _base_key(base: str | None, packages: Sequence[str], suite: str, variant: str, machine: str) -> str:
    """Identify the base: the ID of a named image, or what mmdebstrap is asked for."""
    if base is None:
        return _digest([RECIPE, suite, variant, machine, *sorted(packages)])
    found = _image_field(base, "{{.Id}}")
    if found is None:
        _run([podman_command(), "pull", "--quiet", base], f"podman could not pull the base image {base}")
        found = _image_field(base, "{{.Id}}")
    return str(found)


def _base_image(packages: Sequence[str], suite: str, variant: str, machine: str, key: str) -> str:
    """The reference of the base made from Debian packages; make and import it where it is absent."""
    reference = f"localhost/trtllm-fleet/base:{suite}-{key[:16]}"
    if _image_field(reference, "{{.Id}}"):
        return reference
    archive = cache_dir() / "rootfs" / f"{suite}-{key[:32]}.tar.zst"
    with _lock(archive):
        if not archive.exists():
            _require("mmdebstrap", "zstd")
            partial = archive.with_name(f"partial-{archive.name}")
            partial.unlink(missing_ok=True)
            slim = [f"--dpkgopt=path-exclude=/usr/share/{path}/*" for path in SLIM_PATHS]
            _run(
                ["mmdebstrap", f"--variant={variant}", f"--architectures={DEBIAN_ARCH[machine]}", *slim]
                + ['--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"']
                + ["--customize-hook=rm -rf $1/var/cache/* $1/var/lib/apt/lists/* $1/var/log/*"]
                + [f"--include={','.join(packages)}", suite, str(partial)],
                f"mmdebstrap could not make a {suite} base (is a Debian mirror reachable?)",
            )
            partial.rename(archive)
        command = [podman_command(), "import", "--quiet", str(archive), reference]
        _run(command, "podman could not import the base")
    return reference


def _context_files(context: Path, files: Sequence[str]) -> Iterator[tuple[str, int, str]]:
    """Yield (path, permission bits, sha256) of what the build takes from *context*.

    Byte code and the caches of tools (hidden directories) come and go beside the sources; they are no inputs.
    """
    for wanted in sorted(files):
        root = context / wanted
        if not root.exists():
            raise BuildError(f"{root} is missing from the sources of the image")
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            hidden = any(part.startswith(".") for part in path.relative_to(root).parts[:-1])
            if path.is_file() and path.suffix != ".pyc" and not hidden:
                yield str(path.relative_to(context)), path.stat().st_mode & 0o755, _file_digest(path)


def _requirement_lines(requirements: Path) -> str:
    """The pins and their sums without comments: a comment must not fetch anything again."""
    lines = (line.split("#", 1)[0].strip() for line in requirements.read_text().replace("\\\n", "").splitlines())
    pins = [line for line in lines if line]
    for pin in pins:
        if "==" not in pin or "--hash=sha256:" not in pin:
            raise BuildError(f"{requirements}: '{pin[:80]}' is not pinned; write NAME==VERSION --hash=sha256:SUM")
    return "\n".join(sorted(pins))


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Let one process at a time make *target*."""
    with open(_made(target.parent) / f".{target.name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _require(*tools: str) -> None:
    for tool in tools:
        if not shutil.which(tool):
            raise BuildError(f"'{tool}' is not installed; install it, or name a base image with --base")


def _image_field(reference: str, template: str) -> str | None:
    command = [podman_command(), "image", "inspect", "--format", template, reference]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(f"'{command[0]}' is not installed; install the package podman") from None
    return done.stdout.strip() if done.returncode == 0 else None


def _inputs(reference: str) -> str | None:
    """What the image was made from, as its label says; None where there is no such image, or no label."""
    return labels.read(json.loads(_image_field(reference, "{{json .Labels}}") or "null"), "inputs")


def _built(reference: str, inputs: str, built: bool, started: float) -> BuiltImage:
    identity, _, size = (_image_field(reference, "{{.Id}} {{.Size}}") or "").partition(" ")
    image_id = identity if identity.startswith("sha256:") else f"sha256:{identity}"
    seconds = round(time.monotonic() - started, 1)
    return BuiltImage(reference, image_id, inputs, built, seconds, int(size or 0))


def _run(command: Sequence[str], failure: str, log: Path | None = None) -> None:
    """Run *command*; on failure raise with the end of what it said."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(f"{failure}: '{command[0]}' is not installed") from None
    if log:
        log.write_text(done.stdout)
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise BuildError(f"{failure} (exit {done.returncode}):\n{tail}")
