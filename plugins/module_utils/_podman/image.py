# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images on a host, through the podman CLI: pulled, built, loaded or already there."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .._artifact.fingerprint import file_sha256, fingerprint, tree_digest
from .._base import labels as base_labels
from .._base.errors import FleetError
from .._base.names import show
from . import cli
from .registry import check_registry

# An image that a stage of a Containerfile is built on; a stage's own name may stand there too.
BASE_IMAGE = re.compile(r"^(?P<before>\s*FROM\s+(?:--\S+\s+)*)(?P<image>\S+)", re.IGNORECASE | re.MULTILINE)


@dataclass
class ImageRequest:
    """What the user asks for; names are those of the module's options."""

    name: str
    source: str = "pull"
    pull: str = "missing"
    tls_verify: bool = True
    authfile: str | None = None
    archive: str | None = None
    context: str | None = None
    context_files: Mapping[str, str] = field(default_factory=dict)
    containerfile: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    base_images: Mapping[str, str] = field(default_factory=dict)
    isolation: str | None = None


@dataclass
class Image:
    """An image that is on the host."""

    id: str
    reference: str
    labels: Mapping[str, str]
    size: int

    def facts(self) -> dict[str, Any]:
        """What roles pass on: ``id`` and ``reference`` (by digest where the image has one)."""
        return {"id": self.id, "reference": self.reference, "size": self.size}


def repository(name: str) -> str:
    """*name* without its tag or digest: ``host:5000/a/b:1@sha256:x`` is ``host:5000/a/b``."""
    name = name.split("@", 1)[0]
    head, _, last = name.rpartition("/")
    return f"{head}/{last.split(':', 1)[0]}" if head else last.split(":", 1)[0]


def inspect(name: str) -> Image | None:
    """The image called *name*, or None where the host has none."""
    found = cli.image(name)
    if found is None:
        return None
    identity = cli.qualified(found["Id"])
    own = repository(name)
    digests = [digest for digest in found.get("RepoDigests") or [] if repository(digest) == own]
    return Image(
        id=identity,
        reference=sorted(digests)[0] if digests else identity,
        labels=found.get("Labels") or {},
        size=int(found.get("Size") or 0),
    )


def rebased(text: str, base_images: Mapping[str, str], path: str) -> str:
    """The Containerfile *text* of *path* on other base images: its own image -> the one to take."""
    found: set[str] = set()

    def other(line: re.Match[str]) -> str:
        found.add(line["image"])
        return line["before"] + base_images.get(line["image"], line["image"])

    text = BASE_IMAGE.sub(other, text)
    for image in base_images:
        if image not in found:
            raise FleetError(
                f"base_images has {image!r}, but {path} is not built on it, only on {', '.join(sorted(found))}; name "
                "one of these."
            )
    return text


class ImageManager:
    """Brings one image onto the host, or says that it is there."""

    def __init__(self, request: ImageRequest, check_mode: bool = False) -> None:
        self.request = request
        self.check_mode = check_mode
        self.note = ""

    def ensure(self) -> tuple[bool, Image | None, str]:
        """(changed, the image or None in check mode, why)."""
        before = inspect(self.request.name)
        changed, image, reason = getattr(self, f"_ensure_{self.request.source}")(before)
        if image is None and not self.check_mode:
            raise FleetError(f"{self.request.name!r} is not on the host after podman said that it is; run again.")
        return changed, image, reason

    def _ensure_present(self, before: Image | None) -> tuple[bool, Image | None, str]:
        if before is None and not self.check_mode:
            raise FleetError(
                f"The image {self.request.name!r} is not on the host and source is 'present'; load or build it there, "
                "or give a source of pull, build or archive."
            )
        return before is None, before, "already there" if before else "not there yet"

    def _ensure_pull(self, before: Image | None) -> tuple[bool, Image | None, str]:
        if before is not None and self.request.pull == "missing":
            return False, before, "already there"
        if self.check_mode:
            self.note = check_registry(self.request.name, self.request.tls_verify, self.request.authfile)
            return before is None, before, "would be pulled" if before is None else "might be pulled anew"
        argv = ["pull", "--quiet", f"--tls-verify={str(self.request.tls_verify).lower()}"]
        if self.request.authfile:
            argv += ["--authfile", self.request.authfile]
        cli.check([*argv, self.request.name], what=f"pull {self.request.name!r}")
        after = inspect(self.request.name)
        same = before is not None and after is not None and before.id == after.id
        return not same, after, "already the newest" if same else "pulled"

    def _ensure_archive(self, before: Image | None) -> tuple[bool, Image | None, str]:
        archive = self.request.archive
        if not archive:
            raise FleetError(
                "source is 'archive' but archive is not given; give the path of an image archive of the host."
            )
        if before is not None:
            return False, before, "already there"
        if self.check_mode:
            return True, None, "would be loaded"
        if not os.path.isfile(archive):
            raise FleetError(f"There is no image archive {archive!r} on the host; put it there first.")
        cli.check(["load", "--quiet", "--input", archive], what=f"load {archive!r}")
        after = inspect(self.request.name)
        if after is None:
            raise FleetError(
                f"The archive {archive!r} holds no image called {self.request.name!r}; give the name that it holds."
            )
        return True, after, "loaded"

    def _ensure_build(self, before: Image | None) -> tuple[bool, Image | None, str]:
        with _written(self.request.context_files) as written:
            return self._build(before, written or self.request.context)

    def _build(self, before: Image | None, context: str | None) -> tuple[bool, Image | None, str]:
        if not context:
            raise FleetError("source is 'build' but context is not given; give the directory to build from.")
        containerfile = Path(self.request.containerfile or os.path.join(context, "Containerfile"))
        if not containerfile.is_file():
            if self.check_mode and not os.path.isdir(context):
                return True, before, f"{context} is not there yet"
            raise FleetError(f"There is no {containerfile}; give containerfile, the path of the file to build from.")
        text = rebased(containerfile.read_text(encoding="utf-8"), self.request.base_images, str(containerfile))
        inputs = fingerprint(
            {
                "context": tree_digest(Path(context), None).digest,
                "containerfile": file_sha256(containerfile),
                "build_args": dict(self.request.build_args),
                # Said only where it says something: images that were built before it could be said are still right.
                **({"base_images": dict(self.request.base_images)} if self.request.base_images else {}),
            }
        )
        if before is not None and base_labels.read(before.labels, "inputs") == inputs:
            return False, before, "built from the same inputs"
        if self.check_mode:
            return True, before, "would be built"
        argv = ["build", "--quiet", "--tag", self.request.name, "--label", f"{base_labels.INPUTS}={inputs}"]
        argv.append(f"--tls-verify={str(self.request.tls_verify).lower()}")
        if self.request.isolation:
            argv += ["--isolation", self.request.isolation]
        for key, value in sorted(self.request.build_args.items()):
            argv += ["--build-arg", f"{key}={value}"]
        with tempfile.NamedTemporaryFile("w", prefix="Containerfile-", encoding="utf-8") as written:
            written.write(text)
            written.flush()
            cli.check([*argv, "--file", written.name, context], what=f"build {self.request.name!r}")
        return True, inspect(self.request.name), "built"


@contextlib.contextmanager
def _written(files: Mapping[str, str]) -> Iterator[str | None]:
    """A directory with *files* while the block runs, None for none."""
    if not files:
        yield None
        return
    for name in files:
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise FleetError(f"context_files has {show(name)}; it takes paths below the context.")
    with tempfile.TemporaryDirectory(prefix="trtllm-build-", dir="/var/tmp") as directory:
        for name, text in files.items():
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        yield directory
