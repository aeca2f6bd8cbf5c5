# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image of a host as an artefact, which goes from host to host as engines do.

The fingerprint of one that was built or loaded is its id, the digest of its configuration, in which stand the digests
of all its layers: what podman makes of an artefact is the image that was packed, or it is refused. Layers stay
uncompressed, as they are on the host: such an image has the same manifest digest on each host then. That of one that
was pulled is the registry's digest, and the artefact has what stands under it there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .._artifact.artifact_store import ArtifactStore
from .._artifact.transfer import KINDS
from .._base.background import giving_way
from .._base.errors import FleetError
from .._base.files import remove
from .._base.sizes import gib
from . import cli
from .image_ids import Images
from .layers import Layers
from .registry_api import RegistryClient, parse

LAYOUT = "image"  # the directory of an artefact with the image
# How podman calls what it writes, and what it reads, by whether the image's manifest is one of OCI. In the other form,
# its configuration would be another, and so its id.
FORMATS = {True: ("oci-dir", "oci"), False: ("docker-dir", "dir")}


@dataclass(frozen=True)
class Pulled:
    """What of an image is asked of its registry, and of whom."""

    digest: str
    clients: Sequence[RegistryClient]
    retries: int
    delay: float

    @property
    def fingerprint(self) -> str:
        """That of the artefact."""
        return self.digest.partition(":")[2]


class PackedImage:
    """The image called *image* as the artefact *name* below *root*."""

    def __init__(self, root: Path, name: str, image: str, free: Callable[[Path], Optional[int]]) -> None:
        """*free* tells the free bytes of the file system that a path is, or would be, on."""
        self.root, self.name, self.image, self.free = root, name, image, free
        self.store = ArtifactStore(root / KINDS["image"])

    # -- as its registry has it ----------------------------------------------------------------------------

    def pack_pulled(self, pulled: Pulled, check_mode: bool = False) -> tuple[bool, str, int]:
        """(changed, the fingerprint, bytes of its layers): what the registry has is in the artefact afterwards."""
        fingerprint = pulled.fingerprint
        if check_mode or self.store.has(self.name, fingerprint):
            return not self.store.has(self.name, fingerprint), fingerprint, 0
        with self.store.lock(self.name), giving_way():
            # What a run that was ended has left there is taken up.
            layers = Layers(self.store.partial(self.name, fingerprint) / LAYOUT, pulled.digest)
            size = layers.fetch(pulled.clients, pulled.retries, pulled.delay, self.free(self.root))
            known = {f"{LAYOUT}/{path.name}": path.name for path in layers.place.iterdir()}
            about = {"kind": "image", "image": self.image, "digest": pulled.digest}
            self.store.publish(self.name, fingerprint, about, known)
        return True, fingerprint, size

    def unpack_pulled(self, digest: str, check_mode: bool = False) -> bool:
        """Whether anything changed: the image is on the host, under its name and by the registry's *digest*."""
        name, images = parse(self.image), Images(self.root)
        if name is None:
            raise FleetError(f"image is {self.image!r}; give its full name, with its registry.")
        reference = f"{name.repository}@{digest}"
        there, kept = cli.image_id(reference), name.digest or images.digest(self.image)
        if there and kept == digest and (name.digest or cli.image_id(self.image) == there):
            return False
        if check_mode:
            return True
        path = self.store.path(self.name, digest.partition(":")[2])
        if not there:
            if (self.store.manifest(path) or {}).get("digest") != digest:
                raise FleetError(f"{path} is not there, so {self.image!r} cannot be taken from it; receive it first.")
            with giving_way(), Layers(path / LAYOUT, digest).served(name) as (configuration, authfile):
                alone = {"CONTAINERS_REGISTRIES_CONF": str(configuration)}
                argv = ["pull", "--quiet", "--authfile", str(authfile), reference]
                cli.check(argv, what=f"take {self.image!r} from {path}", environment=alone)
            if cli.image_id(reference) is None:
                raise FleetError(f"podman took {self.image!r} from {path}, and not as {digest}; pack it again.")
        if not name.digest:
            cli.check(["tag", reference, self.image])
            images.keep_digest(self.image, digest)
        return True

    # -- as this host has it -------------------------------------------------------------------------------

    def pack(self, check_mode: bool = False) -> tuple[bool, str, int]:
        """(changed, the fingerprint, bytes of the image): the artefact is there afterwards."""
        found = cli.image(self.image)
        if found is None:
            raise FleetError(f"{self.image!r} is not on this host, so it cannot be handed on; bring it here first.")
        fingerprint, size = cli.qualified(found["Id"]).partition(":")[2], int(found.get("Size") or 0)
        if self.store.has(self.name, fingerprint):
            return False, fingerprint, size
        if check_mode:
            return True, fingerprint, size
        room = self.free(self.root)
        if room is not None and room < size:
            raise FleetError(
                f"{self.root} has no room for the {gib(size)} of {self.image!r}, which has to stand there while it is "
                "handed on; make room there."
            )
        oci = "oci" in str(found.get("ManifestType") or "oci")
        with self.store.lock(self.name), giving_way():
            place = self.store.staging(self.name, fingerprint) / LAYOUT
            argv = [
                "save",
                "--quiet",
                "--uncompressed",
                "--format",
                FORMATS[oci][0],
                "--output",
                str(place),
                fingerprint,
            ]
            cli.check(argv, what=f"write {self.image!r}")
            self.store.publish(self.name, fingerprint, {"kind": "image", "image": self.image, "oci": oci})
        return True, fingerprint, size

    def unpack(self, fingerprint: str, archive_sha256: str = "", check_mode: bool = False) -> bool:
        """Whether anything changed: the image that was packed is on the host afterwards, under its name."""
        path, wanted = self.store.path(self.name, fingerprint), f"sha256:{fingerprint}"
        if cli.image_id(self.image) == wanted:
            return False
        if check_mode:
            return True
        manifest = self.store.manifest(path)
        if manifest is None:
            raise FleetError(f"{path} is not there, so {self.image!r} cannot be taken from it; receive it first.")
        with giving_way():
            argv = ["pull", "--quiet", f"{FORMATS[bool(manifest.get('oci'))][1]}:{path / LAYOUT}"]
            said = cli.check(argv, what=f"take {self.image!r} from {path}").strip().splitlines()
        came = cli.qualified(said[-1] if said else "")
        if came != wanted:
            raise FleetError(
                f"{path} holds the image {came or 'without an id'} instead of {wanted}; it is not used. Pack it again "
                "where it comes from."
            )
        # podman names it after the directory.
        names = [name for name in (cli.image(came) or {}).get("RepoTags") or [] if name.startswith(f"localhost{path}/")]
        cli.check(["tag", came, self.image])
        if names:
            cli.check(["untag", came, *names])
        if archive_sha256:
            Images(self.root).keep_archive(self.image, archive_sha256)
        return True

    def clear(self, check_mode: bool = False) -> bool:
        """Whether anything was there: nothing is left of the artefact, nor of any other of this name."""
        home = self.store.home(self.name)
        if check_mode or not home.is_dir():
            return home.is_dir()
        with self.store.lock(self.name):
            remove(home)
        return True
