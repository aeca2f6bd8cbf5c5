# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a release's own templates are: in a checkout on the host, or taken out of the image once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .._artifact.artifact_store import ArtifactStore
from .._artifact.fingerprint import walk
from .._base.errors import FleetError
from .._podman import cli
from .._podman.image_ids import Images
from .._release.releases import Release
from .entry import NotBuiltYet
from .schema import MULTIMODAL

CONFIG = "config.pbtxt"
IN_IMAGE = "/app/all_models"
# Below a checkout of tensorrtllm_backend, of TensorRT-LLM, or all_models itself.
PARENTS = ("", "all_models", "triton_backend/all_models")
MAX_FILE = 1 << 20  # bytes; templates are code and configuration
IGNORED = frozenset({"__pycache__", ".git"})


@dataclass
class ModelTemplate:
    """One model's directory: its config.pbtxt as text, and the content of every other file by relative path."""

    name: str
    directory: Path
    config: str
    files: dict[str, bytes] = field(default_factory=dict)


def checkout(templates: Path) -> Path:
    """The directory of the host that was given for the templates; raises where it is not there."""
    if not templates.is_dir():
        raise NotBuiltYet(
            f"The directory of templates {templates} does not exist on the host; bring a checkout of the backend there."
        )
    return templates


def layout_directory(templates: Path, layout: str) -> Path:
    """The directory of *layout*: *templates* itself, or below it where a checkout has it."""
    for parent in PARENTS:
        candidate = templates / parent / layout
        if candidate.is_dir():
            return candidate
    if (templates / "tensorrt_llm" / CONFIG).is_file():
        return templates
    raise FleetError(
        f"{templates} holds no {layout} templates; expected {layout}/ below it, below all_models/ or below "
        "triton_backend/all_models/."
    )


def read_templates(directory: Path, models: Sequence[str]) -> dict[str, ModelTemplate]:
    """The templates of *models* in the layout's *directory*."""
    return {model: _read_model(directory, model) for model in models}


def _read_model(directory: Path, model: str) -> ModelTemplate:
    place = directory / model
    if model == MULTIMODAL and not place.is_dir():
        place = directory.parent / "multimodal" / model  # upstream keeps it in a directory of its own
    if not (place / CONFIG).is_file():
        raise FleetError(
            f"{place / CONFIG} does not exist, so {directory} has no template for {model}; leave it out of models, or "
            "give the templates of the release."
        )
    files: dict[str, bytes] = {}
    for relative, status in walk(place, IGNORED):
        if status.st_size > MAX_FILE:
            raise FleetError(
                f"{place / relative} has {status.st_size} bytes, which no template has; keep a model's own data "
                "elsewhere and give its path as a parameter."
            )
        files[relative] = (place / relative).read_bytes()
    try:
        config = files.pop(CONFIG).decode()
    except UnicodeDecodeError as error:
        raise FleetError(f"{place / CONFIG} is not UTF-8 text ({error}); give the templates of the release.") from error
    return ModelTemplate(model, place, config, files)


class ImageTemplates:
    """Templates taken out of images, once per image: ``<root>/templates/<first 12 of the id>/<id>``."""

    def __init__(self, root: Path) -> None:
        self.store = ArtifactStore(root / "templates")
        self.images = Images(root)

    def find(self, reference: str, *, learn: bool = False) -> tuple[str | None, Path | None]:
        """(image id, directory) of *reference*; None for what is not on the host.

        A reference by digest is looked up without podman once its templates are there.
        """
        known = self.images.remembered_id(reference)
        place = self._published(known) if known else None
        if place is not None:
            return known, place
        identity = self.images.ask_id(reference, learn=learn)
        return identity, self._published(identity) if identity else None

    def _published(self, identity: str) -> Path | None:
        """The templates of an image by its id, where they have been taken out of it."""
        place = self.store.path(*_key(identity))
        return place if self.store.manifest(place) is not None else None

    def take(self, reference: str, rel: Release) -> Path:
        """The directory with the templates of *reference*; they are taken out of the image where they are missing."""
        identity, place = self.find(reference, learn=True)
        if identity is None:
            raise NotBuiltYet(f"The image {reference} is not on the host; bring it there first (role triton_image).")
        if place is not None:
            return place
        name, digits = _key(identity)
        with self.store.lock(name):
            return self._published(identity) or self._extract(reference, name, digits, rel)

    def _extract(self, reference: str, name: str, digits: str, rel: Release) -> Path:
        staging = self.store.staging(name, digits)
        container = cli.check(["create", "--pull=never", "--network=none", reference, "/bin/true"]).split()[-1]
        try:
            done = cli.run(["cp", f"{container}:{IN_IMAGE}/.", str(staging)])
        finally:
            cli.run(["rm", "--force", "--time=0", container])
        if done.returncode or not any(staging.iterdir()):
            self.store.remove(name, digits)
            raise FleetError(
                f"The image {reference} holds no {IN_IMAGE} ({done.stderr.strip() or 'it is empty'}); images before "
                f"25.05 and those built from the backend's Dockerfile do not: give templates, the directory of a "
                f"checkout of tensorrtllm_backend at tag {rel.backend_tag} on the host."
            )
        return self.store.publish(name, digits, {"image": reference, "image_id": f"sha256:{digits}"})

    def verify(self, place: Path) -> None:
        """Raise where templates taken out of an image were altered afterwards; the next run takes them out anew."""
        problems = self.store.verify(place, full=True)
        if problems:
            self.store.remove(place.parent.name, place.name)
            raise FleetError(
                f"The templates in {place} are not those of the image any more ({problems[0]}); they have been "
                "removed: run again, and they are taken out of the image anew."
            )


def _key(identity: str) -> tuple[str, str]:
    """Name and fingerprint under which the templates of an image are kept."""
    digits = identity.rpartition(":")[2]
    return digits[:12], digits
