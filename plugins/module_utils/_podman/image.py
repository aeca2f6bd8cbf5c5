# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images on a host, through the podman CLI: pulled, built, loaded or already there."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Optional

from .._artifact.fingerprint import file_sha256, fingerprint, tree_digest
from .._base import labels as base_labels
from .._base.errors import FleetError
from .._base.names import DEFAULT_ROOT, show
from . import cli
from .context import unpack
from .image_ids import Images
from .job import Job
from .registry import check_registry
from .registry_api import (
    DIGEST,
    Manifest,
    Name,
    RegistryClient,
    RegistryError,
    auth_file,
    environment,
    parse,
)  # fmt: skip

# How a registry is reached, as options of modules.
ACCESS: dict[str, dict[str, Any]] = {
    "tls_verify": {"type": "bool", "default": True},
    "authfile": {"type": "path"},
    "username": {"type": "str", "default": ""},
    "password": {"type": "str", "default": "", "no_log": True},
    "mirrors": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"location": {"type": "str", "required": True}, "insecure": {"type": "bool", "default": False}},
    },
    "proxy": {"type": "dict", "default": {}, "no_log": True},
    "retries": {"type": "int", "default": 5},
    "retry_delay": {"type": "int", "default": 5},
}
# An image that a stage of a Containerfile is built on; a stage's own name may stand there too.
BASE_IMAGE = re.compile(r"^(?P<before>\s*FROM\s+(?:--\S+\s+)*)(?P<image>\S+)", re.IGNORECASE | re.MULTILINE)


@dataclass
class ImageRequest:
    """What the user asks for; names are those of the module's options."""

    name: str
    source: str = "pull"
    pull: str = "missing"
    digest: str = ""
    tls_verify: bool = True
    authfile: str | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    mirrors: Sequence[Mapping[str, Any]] = ()
    proxy: Mapping[str, str] = field(default_factory=dict, repr=False)
    retries: int = 5
    retry_delay: int = 5
    archive: str | None = None
    archive_sha256: str = ""
    context: str | None = None
    context_files: Mapping[str, str] = field(default_factory=dict)
    context_location: str = "host"
    context_archive: str | None = None
    containerfile: str | None = None
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    base_images: Mapping[str, str] = field(default_factory=dict)
    isolation: str | None = None
    target: str | None = None
    inputs: str = ""
    program: Sequence[str] = ()
    chdir: str | None = None
    push: str = ""
    root: str = DEFAULT_ROOT
    when_missing: str = "bring"
    wait: bool = True
    attach: bool = False


@dataclass
class Image:
    """An image that is on the host. *digests*: of the registries that it was pulled from, by repository."""

    id: str
    reference: str
    labels: Mapping[str, str]
    size: int
    architecture: str = ""
    digests: Sequence[str] = ()
    environment: Sequence[str] = ()

    @property
    def digest(self) -> str:
        """The digest that units name it by; empty where it came from no registry."""
        return self.reference.partition("@")[2]

    def facts(self) -> dict[str, Any]:
        """What roles pass on: ``id`` and ``reference`` (by digest where the image has one)."""
        return {
            "id": self.id, "reference": self.reference, "digest": self.digest, "size": self.size,
            "architecture": self.architecture,
        }  # fmt: skip


class Missing(Exception):
    """The image has to be brought, and was only asked for; *digest* is the one that would be, where that is known."""

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(reason)
        self.digest, self.reason = digest, reason


def repository(name: str) -> str:
    """*name* without its tag or digest: ``host:5000/a/b:1@sha256:x`` is ``host:5000/a/b``."""
    name = name.split("@", 1)[0]
    head, _, last = name.rpartition("/")
    return f"{head}/{last.split(':', 1)[0]}" if head else last.split(":", 1)[0]


def inspect(name: str, digest: str = "", repositories: Sequence[str] = ()) -> Image | None:
    """The image called *name*, or None where the host has none. *digest*: of several the one to name it by.

    *repositories*: others than its own whose digests may name it, in front of its own.
    """
    found = cli.image(name)
    if found is None:
        return None
    identity = cli.qualified(found["Id"])
    known = found.get("RepoDigests") or []
    places = [*repositories, repository(name)]
    own = sorted((one for one in known if repository(one) in places), key=lambda one: places.index(repository(one)))
    by_digest = [one for one in own if digest and one.endswith(f"@{digest}")] or sorted(own, key=_order(places))
    return Image(
        id=identity,
        reference=by_digest[0] if by_digest else identity,
        labels=found.get("Labels") or {},
        size=int(found.get("Size") or 0),
        architecture=str(found.get("Architecture") or ""),
        digests=[one.partition("@")[2] for one in own],
        environment=list((found.get("Config") or {}).get("Env") or []),
    )


def _order(places: Sequence[str]) -> Any:
    return lambda one: (places.index(repository(one)), one)


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

    def __init__(self, request: ImageRequest, check_mode: bool = False, free: Callable[[], int] = int) -> None:
        """*free* tells the free bytes where images are; it is asked before something is done."""
        self.request = request
        self.check_mode = check_mode
        self.note = ""
        self.free = free
        self.free_before: Optional[int] = None
        self.job = Job(request.name)
        self.images = Images(Path(request.root))
        self.name = parse(request.name)
        self.target = parse(request.push) if request.push else None
        self._refuse()

    def _refuse(self) -> None:
        request = self.request
        for option in ("username", "password"):
            if any(character in getattr(request, option) for character in "\r\n"):
                raise FleetError(f"{option} has a line break in it; give it without, as 'trim' of Jinja leaves it.")
        if bool(request.username) != bool(request.password):
            raise FleetError("Only one of username and password is given; give both, or an authfile.")
        if request.username and request.authfile:
            raise FleetError("Both authfile and password are given; give one of them.")
        if ":" in request.username:
            raise FleetError(f"username is {show(request.username)}; a registry takes none with ':' in it.")
        if request.digest and not DIGEST.fullmatch(request.digest):
            raise FleetError(f"digest is {show(request.digest)}; give sha256: and 64 hexadecimal digits.")
        if request.retries < 0 or request.retry_delay < 0:
            raise FleetError(f"retries is {request.retries} and retry_delay {request.retry_delay}; give 0 or more.")
        if request.push and (self.target is None or self.target.digest):
            raise FleetError(f"push is {show(request.push)}; give a full name with registry and tag, without digest.")

    # -- one after the other: bring, push, pull back -------------------------------------------------------

    def ensure(self) -> tuple[bool, Image | None, str]:
        """(changed, the image or None in check mode, why); raises `Running` and `Missing`."""
        running = self.job.running()
        if running and (self.check_mode or self.request.when_missing == "tell"):
            if self.request.when_missing == "tell":
                raise Missing(self.request.digest, "is being brought by another run")
            return True, self._inspect(), "is being brought by another run"
        if running or (self.request.attach and self.job.status()):
            return self._after(self.job.collect(self._what(self.job.status()), self.request.wait))
        before = self._inspect()
        changed, image, reason = getattr(self, f"_ensure_{self.request.source}")(before)
        if image is None and not self.check_mode:
            raise FleetError(f"{self.request.name!r} is not on the host after podman said that it is; run again.")
        if image is not None and self.request.push:
            pushed = self._push(image)
            changed, image, reason = changed or pushed[0], pushed[1], pushed[2] if pushed[0] else reason
        return changed, image, reason

    def _what(self, said: Mapping[str, Any]) -> str:
        about = self.job.about
        return str(about.get("what") or f"{said.get('step') or 'bring'} {self.request.name!r}")

    def _work(
        self, argv: Sequence[str], step: str, what: str, *, tries: int | None = None, total: int = 0,
        cwd: str | None = None, **about: Any,
    ) -> tuple[bool, Image | None, str]:  # fmt: skip
        """Run a long command; its directory was prepared. What follows it is `_after`, now or in a later call."""
        request = self.request
        if self.free_before is None:
            self.free_before = self.free()
        home = {key: os.environ[key] for key in ("HOME", "XDG_RUNTIME_DIR") if os.environ.get(key)}
        self.job.start(
            argv, step=step, attempts=request.retries + 1 if tries is None else tries, delay=request.retry_delay,
            env={"HOME": os.path.expanduser("~"), **home, **environment(request.proxy)}, total=total,
            measured=step == "pull", cwd=cwd, about={**about, "what": what, "disk_before": self.free_before},
        )  # fmt: skip
        return self._after(self.job.collect(what, request.wait))

    def _after(self, said: Mapping[str, Any]) -> tuple[bool, Image | None, str]:
        """What is to be done when a long command has ended, and what comes next."""
        about, log = self.job.about, self.job.log()
        self.free_before = about.get("disk_before", self.free_before)
        image, reason = getattr(self, f"_after_{said['step']}")(about, log)
        self.job.forget()
        if image is None:
            raise FleetError(f"{self.request.name!r} is not on the host after podman said that it is; run again.")
        changed = about.get("before") != image.id
        if self.request.push and not about.get("pushed"):
            pushed = self._push(image)
            changed, image, reason = changed or pushed[0], pushed[1], pushed[2] if pushed[0] else reason
        return changed, image, reason if changed else "already the newest"

    def _inspect(self) -> Image | None:
        """The image as the host has it, named by the digest that is kept."""
        name, kept = self.request.name, self.images.digest(self.request.name)
        if self.name is not None and self.name.digest:  # podman reads no name with both
            name, kept = f"{self.name.repository}@{self.name.digest}", self.name.digest
        return inspect(name, kept, [self.target.repository] if self.target else [])

    # -- the registry --------------------------------------------------------------------------------------

    def _client(self, name: Name, insecure: bool = False) -> RegistryClient:
        request = self.request
        own = name.registry in (self.name and self.name.registry, self.target and self.target.registry)
        return RegistryClient(
            name, credentials=f"{request.username}:{request.password}" if request.username and own else "",
            authfile=request.authfile, tls_verify=request.tls_verify and not insecure, proxies=request.proxy,
        )  # fmt: skip

    def clients(self, name: Name) -> list[RegistryClient]:
        """Who is asked for *name*: of the image itself the mirrors first, and in any case its registry at last."""
        mirrors = self.request.mirrors if name is self.name else ()
        return [
            *(self._client(_at(mirror["location"], name), bool(mirror.get("insecure"))) for mirror in mirrors),
            self._client(name),
        ]

    def _manifest(self, name: Optional[Name], reference: str = "") -> Manifest | None:
        """What the registry has; None where that cannot be asked. Wrong credentials are refused here and now."""
        if name is None:
            return None
        *mirrors, own = self.clients(name)
        for mirror in mirrors:
            with contextlib.suppress(RegistryError):
                found = mirror.manifest(reference or name.digest or name.tag)
                if found is not None:
                    return found
        try:
            return own.manifest(reference or name.digest or name.tag)
        except RegistryError as error:
            if error.status in (401, 403) and self.request.username:
                raise FleetError(
                    f"The registry {name.registry} refuses user {self.request.username!r} for {name.repository} "
                    f"({error}); give the username and password that it knows."
                ) from error
            return None  # podman may know other places, and otherwise says it

    def _access(self, name: Optional[Name]) -> list[str]:
        """podman's options for a registry. The credentials are written to where the job removes them."""
        argv = [f"--tls-verify={str(self.request.tls_verify).lower()}"]
        if self.request.username and name is not None:
            content = auth_file(name.registry, self.request.username, self.request.password)
            descriptor = os.open(self.job.authfile, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            return [*argv, "--authfile", str(self.job.authfile)]
        return [*argv, "--authfile", self.request.authfile] if self.request.authfile else argv

    # -- sources -------------------------------------------------------------------------------------------

    def _ensure_present(self, before: Image | None) -> tuple[bool, Image | None, str]:
        if before is None and not self.check_mode:
            raise FleetError(
                f"The image {self.request.name!r} is not on the host and source is 'present'; load or build it there, "
                "or give a source of pull, build or load."
            )
        return before is None, before, "already there" if before else "not there yet"

    def _ensure_pull(self, before: Image | None) -> tuple[bool, Image | None, str]:
        request, fixed = self.request, self.name.digest if self.name else ""
        kept = fixed or (self.images.digest(request.name) if request.pull == "missing" else "")
        asked = request.pull == "always" and not fixed
        # An image without a digest was put there under this name by hand.
        if before is not None and not asked and (not kept or not before.digests or kept in before.digests):
            if not kept and before.digest and not self.check_mode:
                self.images.keep_digest(request.name, before.digest)
            return False, before, "already there"
        wanted = kept or request.digest
        found = self._manifest(self.name, wanted)
        wanted = wanted or (found.digest if found else "")
        if before is not None and wanted and wanted in before.digests:
            if not self.check_mode:
                self.images.keep_digest(request.name, wanted)
            return False, self._inspect(), "already the newest"
        if request.when_missing == "tell":
            raise Missing(wanted, "would be pulled" if before is None else "might be pulled anew")
        if self.check_mode:
            if found is None:
                self.note = check_registry(request.name, request.tls_verify, request.authfile)
            return (
                before is None or bool(wanted),
                before,
                "would be pulled" if before is None else "would be pulled anew",
            )
        reference = f"{self.name.repository}@{wanted}" if self.name and wanted else request.name
        known: dict[str, Any] = {"reference": reference, "digest": wanted, "before": before.id if before else ""}
        if wanted and inspect(reference) is not None:
            image, _ = self._after_pull(known, "")
            return True, image, "named by the digest that is kept"
        self.job.prepare()
        argv = ["pull", *self._access(self.name), reference]
        return self._work(argv, "pull", f"pull {request.name!r}", total=found.size if found else 0, **known)

    def _after_pull(self, about: Mapping[str, Any], log: str) -> tuple[Image | None, str]:
        """The name stands for what came, and its digest is kept."""
        fixed = self.name is not None and bool(self.name.digest)
        if about["reference"] != self.request.name and not fixed and not about.get("pushed"):
            cli.check(["tag", about["reference"], self.request.name])
        image = self._inspect()
        if image is not None and not fixed:
            digest = about["digest"] or image.digest
            if digest:
                self.images.keep_digest(self.request.name, digest)
                image = self._inspect()
        return image, "pushed" if about.get("pushed") else "pulled"

    def _pushed_to(self) -> Name:
        if self.target is None:
            raise ValueError("nothing is to be pushed")
        return self.target

    def _push(self, image: Image) -> tuple[bool, Image, str]:
        """Have it in the registry under the name of push, and name it by the digest that it has there."""
        target = self._pushed_to()
        there = self._manifest(target)
        if there is not None and there.config == image.id and there.digest in image.digests:
            return False, image, "already pushed"
        if self.check_mode:
            return True, image, "would be pushed"
        self.job.prepare()
        access = self._access(target)
        if there is not None and there.config == image.id:
            return self._pull_back(image, there.digest, access)
        digestfile = self.job.directory / "digest"
        argv = ["push", *access, "--digestfile", str(digestfile), image.id.removeprefix("sha256:"), self.request.push]
        changed, pushed, reason = self._work(
            argv, "push", f"push {self.request.name!r} to {self.request.push!r}", pushed=True
        )
        return changed, pushed or image, reason

    def _after_push(self, about: Mapping[str, Any], log: str) -> tuple[Image | None, str]:
        digest = (self.job.directory / "digest").read_text(encoding="utf-8").strip()
        image = self._inspect()
        if image is None:
            return None, "pushed"
        self.job.prepare()
        _, image, reason = self._pull_back(image, digest, self._access(self._pushed_to()))
        return image, reason

    def _pull_back(self, image: Image, digest: str, access: Sequence[str]) -> tuple[bool, Image, str]:
        """Pull by digest what was pushed: proves that it is there, and nothing but its manifest is transferred."""
        reference = f"{self._pushed_to().repository}@{digest}"
        changed, pulled, reason = self._work(
            ["pull", *access, reference], "pull", f"pull {reference!r}", pushed=True, reference=reference, digest=digest
        )
        if pulled is not None and pulled.id != image.id:
            raise FleetError(
                f"{reference} is not the image that was pushed (its id is {pulled.id}, not {image.id}); push it to "
                "another tag, or see what the registry does with it."
            )
        return changed, pulled or image, reason

    def _ensure_load(self, before: Image | None) -> tuple[bool, Image | None, str]:
        archive, sha256 = self.request.archive, self.request.archive_sha256.lower()
        if not archive:
            raise FleetError("source is 'load' but archive is not given; give the path of an image archive.")
        if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise FleetError(f"archive_sha256 is {show(sha256)}; give the 64 hexadecimal digits that sha256sum prints.")
        if before is not None and (not sha256 or self.images.archive(self.request.name) == sha256):
            return False, before, "already there"
        if self.request.when_missing == "tell":
            raise Missing("", "would be loaded")
        if self.check_mode:
            return True, before, "would be loaded"
        if not os.path.isfile(archive):
            raise FleetError(f"There is no image archive {archive!r} on the host; put it there first.")
        if sha256:
            found = file_sha256(Path(archive))
            if found != sha256:
                raise FleetError(
                    f"The image archive {archive!r} has the sha256 {found}, and not {sha256} as archive_sha256 says; "
                    "nothing was loaded, so fetch it again or correct the sum."
                )
        self.job.prepare()
        argv = ["load", "--input", archive]
        return self._work(argv, "load", f"load {archive!r}", tries=1, archive=archive, sha256=sha256)

    _ensure_archive = _ensure_load

    def _after_load(self, about: Mapping[str, Any], log: str) -> tuple[Image | None, str]:
        names = re.findall(r"^Loaded images?(?:\(s\))?: *(.+)$", log, re.MULTILINE)
        held = [name.strip() for line in names for name in line.split(",")]
        # An archive may hold an image without a name, which then is what it was asked for.
        if len(held) == 1 and re.fullmatch(r"(sha256:)?[0-9a-f]{64}", held[0]):
            cli.check(["tag", held[0], self.request.name])
        image = self._inspect()
        if image is None:
            raise FleetError(
                f"The archive {about['archive']!r} holds no image called {self.request.name!r}, but "
                f"{', '.join(held) or 'one without a name'}; give the name that it holds."
            )
        if about.get("sha256"):
            self.images.keep_archive(self.request.name, about["sha256"])
        return image, "loaded"

    def _ensure_build(self, before: Image | None) -> tuple[bool, Image | None, str]:
        files, context = self.request.context_files, self.request.context
        given = self.request.inputs
        if given and before is not None and base_labels.read(before.labels, "inputs") == given:
            return False, before, "built from the same inputs"
        if given and self.request.when_missing == "tell":
            raise Missing("", "would be built")
        if given and self.check_mode:
            return True, before, "would be built"
        if self.request.context_location == "controller":
            archive = self.request.context_archive
            if not given or not archive:
                raise FleetError(
                    "The context is on the controller, which has not sent it; run this as a task of a play."
                )
            self.job.prepare()
            place, file = unpack(Path(archive), self.job.context)
            text = rebased(file.read_text(encoding="utf-8"), self.request.base_images, "the Containerfile")
            return self._build(str(place), text, given)
        if not files and not context:
            raise FleetError("source is 'build' but context is not given; give the directory to build from.")
        text, inputs = self._inputs(context)
        if not text:
            return True, before, f"{context} is not there yet"
        if before is not None and base_labels.read(before.labels, "inputs") == inputs:
            return False, before, "built from the same inputs"
        if self.request.when_missing == "tell":
            raise Missing("", "would be built")
        if self.check_mode:
            return True, before, "would be built"
        directory = self.job.prepare()
        return self._build(str(_written(files, directory / "context") or context), text, inputs)

    def _build(self, context: str, text: str, inputs: str) -> tuple[bool, Image | None, str]:
        """Build by the Containerfile *text*; the job's directory was prepared."""
        argv = ["build", "--tag", self.request.name, "--label", f"{base_labels.INPUTS}={inputs}"]
        argv += self._access(self.name)
        argv += ["--isolation", self.request.isolation] if self.request.isolation else []
        argv += ["--target", self.request.target] if self.request.target else []
        for key, value in sorted(self.request.build_args.items()):
            # One without a value is taken from the environment, as proxies are, which may hold a password.
            argv += ["--build-arg", key if value is None else f"{key}={value}"]
        file = self.job.directory / "Containerfile"
        file.write_text(text, encoding="utf-8")
        argv += ["--file", str(file), context]
        return self._work(argv, "build", f"build {self.request.name!r}", tries=1)

    def _after_build(self, about: Mapping[str, Any], log: str) -> tuple[Image | None, str]:
        return self._inspect(), "built"

    def _ensure_program(self, before: Image | None) -> tuple[bool, Image | None, str]:
        program, chdir, inputs = self.request.program, self.request.chdir, self.request.inputs
        if not program or not chdir or not inputs:
            raise FleetError(
                "source is 'program', which takes program (what builds the image, with its arguments), chdir (the "
                "directory to run it in) and inputs (the fingerprint of what it builds from); give all of them."
            )
        if before is not None and self.images.program(self.request.name) == f"{inputs} {before.id}":
            return False, before, "built from the same inputs"
        if self.request.when_missing == "tell":
            raise Missing("", "would be built")
        if self.check_mode:
            return True, before, "would be built"
        if not os.path.isdir(chdir):
            raise FleetError(f"There is no directory {chdir!r} on the host to run the program in; put it there first.")
        self.job.prepare()
        tool = os.path.basename(next((word for word in program if word.endswith(".py")), program[0]))
        return self._work(
            program, "program", f"build {self.request.name!r}", tries=1, cwd=chdir, tool=tool, inputs=inputs
        )

    def _after_program(self, about: Mapping[str, Any], log: str) -> tuple[Image | None, str]:
        image = self._inspect()
        if image is not None:
            self.images.keep_program(self.request.name, f"{about['inputs']} {image.id}")
        return image, "built"

    def _inputs(self, context: str | None) -> tuple[str, str]:
        """The Containerfile's text as it is built, and the fingerprint of all that is; two empty ones without it."""
        request = self.request
        if request.context_files:
            with tempfile.TemporaryDirectory(prefix="trtllm-build-") as directory:
                return self._inputs_of(_written(request.context_files, Path(directory)) or Path(directory))
        return self._inputs_of(Path(context or ""))

    def _inputs_of(self, context: Path) -> tuple[str, str]:
        request = self.request
        containerfile = Path(request.containerfile or context / "Containerfile")
        if not containerfile.is_file():
            if self.check_mode and not context.is_dir():
                return "", ""
            raise FleetError(f"There is no {containerfile}; give containerfile, the path of the file to build from.")
        text = rebased(containerfile.read_text(encoding="utf-8"), request.base_images, str(containerfile))
        return text, request.inputs or build_inputs(
            tree_digest(context, None).digest, file_sha256(containerfile), request.build_args, request.base_images,
            request.target,
        )  # fmt: skip


def _at(location: str, name: Name) -> Name:
    """*name* at a mirror, which may have a path of its own."""
    host, _, path = location.rstrip("/").partition("/")
    return replace(name, registry=host, path=f"{path}/{name.path}".lstrip("/"))


def build_inputs(
    context: str, containerfile: str, build_args: Mapping[str, Any], base_images: Mapping[str, str], target: str | None
) -> str:
    """The fingerprint of all that an image is built from; *context* and *containerfile* are digests."""
    return fingerprint(
        {
            "context": context,
            "containerfile": containerfile,
            "build_args": dict(build_args),
            # Said only where they say something: images that were built before they could be said are still right.
            **({"base_images": dict(base_images)} if base_images else {}),
            **({"target": target} if target else {}),
        }
    )


def _written(files: Mapping[str, str], directory: Path) -> Path | None:
    """*directory* with *files* in it, None for none."""
    for name in files:
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise FleetError(f"context_files has {show(name)}; it takes paths below the context.")
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return directory if files else None
