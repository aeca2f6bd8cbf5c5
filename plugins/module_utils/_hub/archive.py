# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An archive, or single files, from an address, each proved by the sha256 that the operator gives."""

from __future__ import annotations

import contextlib
import hashlib
import io
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from .._artifact.fingerprint import file_sha256
from .._base.errors import FleetError
from .._base.files import inside, remove
from .download import HALVES, Downloads
from .request import Request, name_of
from .watch import BLOCK, Expected, Watch

UNPACKED = "unpacked"
ZSTD = (".tar.zst", ".tzst")
# What the standard library raises for an archive that it cannot unpack; the last is zipfile's, for a way of packing
# that it does not know.
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError)


def fetch(request: Request, token: str, target: Path, watch: Watch) -> None:
    """Bring the files of *request* into *target*, and tell *watch* what they should be."""
    downloads = Downloads(request.title, target, watch, {"Authorization": f"Bearer {token}"} if token else {})
    if request.files:
        addresses = {name: at for at in request.files if is_chosen(name := name_of(at), request)}
        expected = {
            name: Expected(downloads.size(at), sha256=request.files[at]) for name, at in sorted(addresses.items())
        }
        watch.resolved("", expected)
        downloads.all(addresses, expected)
        return
    packed = target / HALVES / request.sha256
    packed.parent.mkdir(parents=True, exist_ok=True)
    size = downloads.size(request.url)
    watch.begin("downloading", size)
    downloads.get(request.url, packed, size)
    found = file_sha256(packed)
    if found != request.sha256:
        remove(packed)
        raise FleetError(
            f"{request.title} arrived with the sha256 {found} instead of {request.sha256}, and was removed; correct "
            "sha256, or run again."
        )
    watch.begin("unpacking", 0)
    unpacked = target / HALVES / UNPACKED
    remove(unpacked)
    digests = dict(_unpack(request, packed, unpacked))
    top = _top(digests)
    names = {name[len(top) :]: name for name in digests if is_chosen(name[len(top) :], request)}
    expected = {
        name: Expected((unpacked / held).stat().st_size, sha256=digests[held]) for name, held in sorted(names.items())
    }
    watch.resolved("", expected)
    for name, held in names.items():
        place = inside(target, name, "archive")
        place.parent.mkdir(parents=True, exist_ok=True)
        remove(place)
        (unpacked / held).rename(place)


def is_chosen(name: str, request: Request) -> bool:
    """Whether *request* takes the file, by its patterns."""
    taken = not request.include or any(fnmatch(name, pattern) for pattern in request.include)
    # What a tool keeps of its own, as a repository does in .git, is no part of a checkpoint.
    hidden = any(part.startswith(".") for part in name.split("/")[:-1])
    return taken and not hidden and not any(fnmatch(name, pattern) for pattern in request.exclude)


def _top(names: dict[str, str]) -> str:
    """The directory that all of it is in, which is none of the checkpoint's; empty where there is no such one."""
    first = {name.partition("/")[0] + "/" for name in names}
    return first.pop() if len(first) == 1 and all("/" in name for name in names) else ""


def _unpack(request: Request, packed: Path, target: Path) -> Iterator[tuple[str, str]]:
    """The path and the sha256 of each file that was unpacked below *target*."""
    try:
        members = _zip(packed) if name_of(request.url).lower().endswith(".zip") else _tar(request, packed)
        for name, kind, stream in members:
            if kind:
                raise FleetError(f"{request.title}: {name} is {kind}, which no checkpoint has; pack it without.")
            place = inside(target, name, "archive")
            place.parent.mkdir(parents=True, exist_ok=True)
            remove(place)
            digest = hashlib.sha256()
            with open(place, "wb") as out:
                while block := stream.read(BLOCK):
                    digest.update(block)
                    out.write(block)
            yield name, digest.hexdigest()
    except DAMAGED as error:
        raise FleetError(
            f"{request.title} has the right sha256, and cannot be unpacked ({' '.join(str(error).split())}); pack it "
            "again where it comes from."
        ) from None


Member = tuple[str, str, IO[bytes]]


def _tar(request: Request, packed: Path) -> Iterator[Member]:
    with contextlib.ExitStack() as held:
        process = None
        if name_of(request.url).lower().endswith(ZSTD):
            try:
                process = subprocess.Popen(["zstd", "-dcq", "--", str(packed)], stdout=subprocess.PIPE)
            except OSError:
                raise FleetError("zstd is not installed where the checkpoint is downloaded; install it.") from None
            held.callback(process.wait)
            held.callback(process.kill)
            stream: IO[bytes] = process.stdout  # type: ignore[assignment]
        else:
            stream = held.enter_context(open(packed, "rb"))
        archive = held.enter_context(tarfile.open(fileobj=stream, mode="r|" if process else "r|*"))
        for member in archive:
            name = member.name[2:] if member.name.startswith("./") else member.name
            if member.isdir():
                continue
            body = archive.extractfile(member) if member.isfile() else None
            yield name, "" if body else "a link or a device", body or io.BytesIO()
        if process is not None:
            stream.read()
            if process.wait():
                raise EOFError("zstd cannot read it to its end")


def _zip(packed: Path) -> Iterator[Member]:
    with zipfile.ZipFile(packed) as archive:
        for about in archive.infolist():
            if about.is_dir():
                continue
            mode = about.external_attr >> 16
            with archive.open(about) as body:
                yield (
                    about.filename,
                    "a link or a device" if mode and (mode & 0o170000) not in (0, 0o100000) else "",
                    body,
                )
