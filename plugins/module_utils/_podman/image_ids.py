# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of images: the id behind a reference, and the TensorRT-LLM version that an image holds.

An id and a digest stand for a content, so what was learnt of them once stays true and is kept. A run in which
nothing changes then needs no podman at all.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .._base.errors import FleetError
from .._base.files import write_atomically
from . import cli

ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
# What is kept: the id of a digest, the version that an id holds, and for names what was last asked for and is kept.
PARTS = ("ids", "versions", "digests", "archives", "programs")
VERSION_TIMEOUT = 600  # seconds; the first start of a 20 GB image from a slow disk
# What Python, or podman where there is none, says of an image without the package.
NO_PACKAGE = r"No module named|executable file .*not found"
VERSION_PROBE = (
    "import importlib.metadata as m\n"
    "try:\n    print(m.version('tensorrt_llm'))\n"
    "except m.PackageNotFoundError:\n    import tensorrt_llm; print(tensorrt_llm.__version__)"
)


class Images:
    """Knowledge about images, in one file below the root."""

    def __init__(self, root: Path) -> None:
        self.path = root / "engines" / ".images.json"

    def _known(self) -> dict[str, dict[str, str]]:
        try:
            known: Any = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            known = None
        found = known if isinstance(known, dict) else {}
        parts = {part: found.get(part) for part in PARTS}
        return {part: dict(held) if isinstance(held, dict) else {} for part, held in parts.items()}

    def _learn(self, part: str, key: str, value: str) -> None:
        known = self._known()
        if known[part].get(key) != value:
            known[part][key] = value
            write_atomically(self.path, json.dumps(known, indent=1, sort_keys=True).encode())

    def remembered_id(self, reference: str) -> str | None:
        """The id behind *reference* where that needs no asking: it is an id, or a digest that was asked before."""
        match = ID.fullmatch(reference)
        if match:
            return f"sha256:{match.group(1)}"
        return self._known()["ids"].get(reference) if "@sha256:" in reference else None

    def ask_id(self, reference: str, *, learn: bool) -> str | None:
        """The id behind *reference* as podman tells it; None where the host does not have the image."""
        found = cli.image_id(reference)
        if found is not None and learn and "@sha256:" in reference:
            self._learn("ids", reference, found)
        return found

    def digest(self, name: str) -> str:
        """The digest that the tag *name* was resolved to, and that is kept; empty for none."""
        return self._known()["digests"].get(name, "")

    def keep_digest(self, name: str, digest: str) -> None:
        """Keep it, until it is resolved anew."""
        self._learn("digests", name, digest)

    def archive(self, name: str) -> str:
        """The sha256 of the archive that *name* was loaded from; empty where it was not given."""
        return self._known()["archives"].get(name, "")

    def keep_archive(self, name: str, sha256: str) -> None:
        """Remember from which archive it was loaded."""
        self._learn("archives", name, sha256)

    def program(self, name: str) -> str:
        """What a program built *name* from, with the id that came of it; empty where none did."""
        return self._known()["programs"].get(name, "")

    def keep_program(self, name: str, inputs: str) -> None:
        """Remember from what a program built it."""
        self._learn("programs", name, inputs)

    def known_version(self, image_id: str) -> str | None:
        """The TensorRT-LLM version of an image that was asked before."""
        return self._known()["versions"].get(image_id)

    def holds(self, image_id: str) -> str:
        """The same, empty for an image without the package; that is asked once too."""
        known = self._known()["versions"].get(image_id)
        if known is not None:
            return known
        try:
            return self.version(image_id, image_id)
        except FleetError as error:
            said = getattr(error.__cause__, "stderr", "")
            if re.search(NO_PACKAGE, said):
                self._learn("versions", image_id, "")
            return ""

    def version(self, image_id: str, reference: str) -> str:
        """The TensorRT-LLM version that the image itself reports; it is asked once. *reference* is for the error."""
        known = self.known_version(image_id)
        if known:
            return known
        try:
            printed = cli.run_once(image_id, ["python3", "-c", VERSION_PROBE], network="none", timeout=VERSION_TIMEOUT)
        except cli.PodmanError as error:
            lines = error.stderr.strip().splitlines()
            raise FleetError(
                f"The image {reference} does not say which TensorRT-LLM it holds ({lines[-1] if lines else error}); "
                "use an image with the tensorrt_llm Python package (NVIDIA's have it from 24.04, release 0.9.0, on), "
                "or give the model an engine_image that has it."
            ) from error
        found = (printed.strip().splitlines() or [""])[-1].strip()
        self._learn("versions", image_id, found)
        return found
