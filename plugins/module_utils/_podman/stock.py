# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images and containers that a host has by now."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from . import cli


@dataclass(frozen=True)
class Stored:
    """One image of the host: its id, its names with tags, its names by digest, and the bytes of all its layers."""

    id: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    size: int
    created: float = 0.0
    parent: str = ""

    @property
    def keys(self) -> set[str]:
        """The digests of its configuration and of its manifests, by which others name it."""
        return {self.id, *(f"sha256:{digest.rpartition('sha256:')[2]}" for digest in self.digests)}


def _listed(*arguments: str) -> list[dict[str, Any]]:
    if cli.executable() is None:
        return []
    return list(json.loads(cli.check([*arguments, "--format", "json"]) or "[]") or [])


def images() -> list[Stored]:
    """All images of the host; none where podman is not there. One that has several names is listed for each of them."""
    images: dict[str, Stored] = {}
    for found in _listed("images", "--all", "--no-trunc"):
        identity = cli.qualified(found["Id"])
        seen = images.get(identity)
        names = [*(seen.names if seen else ()), *(found.get("Names") or found.get("RepoTags") or ())]
        digests = [*(seen.digests if seen else ()), *(found.get("RepoDigests") or ())]
        images[identity] = Stored(
            id=identity,
            names=tuple(dict.fromkeys(names)),
            digests=tuple(dict.fromkeys(digests)),
            size=int(found.get("Size") or 0),
            created=float(found.get("Created") or 0),
            parent=cli.qualified(found.get("ParentId") or ""),
        )
    return list(images.values())


def containers() -> dict[str, str]:
    """By the name of each container, running or not, a text with its image's id and, while it runs, all it mounts."""
    found = _listed("ps", "--all", "--no-trunc")
    running = [str(one["Id"]) for one in found if one.get("State") != "exited"]
    mounts: dict[str, str] = {}
    if running:
        # One that ended meanwhile makes podman fail after it told of the others.
        told = cli.run(["container", "inspect", *running])
        for one in json.loads(told.stdout or "[]"):
            mounts[str(one["Id"])] = " ".join(str(mount.get("Source", "")) for mount in one.get("Mounts") or [])
    return {
        str((one.get("Names") or [one["Id"]])[0]): f"{cli.qualified(one['ImageID'])} {mounts.get(str(one['Id']), '')}"
        for one in found
    }


def remove(image: Stored) -> str:
    """Remove an image with its names, never by force; why podman keeps it, empty where it is gone."""
    done = cli.run(["image", "rm", *(image.names or [image.id])])
    if cli.image_id(image.id) is None:
        return ""
    return f"podman keeps it: {cli.last_line(done.stderr) if done.returncode else 'another image is built on it'}"
