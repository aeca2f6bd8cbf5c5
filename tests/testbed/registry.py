# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry from which test hosts pull: Debian's docker-registry on a test host of its own."""

from __future__ import annotations

import http.client
import json
import time

from . import hosts, outer
from .errors import TestbedError
from .settings import REGISTRY_PORT, Settings

START_SECONDS = 20
MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


def up(settings: Settings) -> None:
    """Bring the registry up and wait until it answers."""
    if _get(settings, "/v2/")[0] == 200:
        return
    hosts.registry(settings)
    deadline = time.monotonic() + START_SECONDS
    while _get(settings, "/v2/")[0] != 200:
        if time.monotonic() > deadline:
            raise TestbedError(f"the registry at {settings.registry} does not answer; see `testbed logs bed-registry`.")
        time.sleep(0.05)


def _get(settings: Settings, path: str, accept: str = "*/*") -> tuple[int, bytes]:
    """Status (0: no answer) and body of a GET."""
    connection = http.client.HTTPConnection(settings.registry_ip, REGISTRY_PORT, timeout=5)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def default_name(image: str) -> str:
    """NAME:TAG in the registry of an image of the machine: its own, without the registry's part."""
    if image.startswith("sha256:") or "@" in image:
        raise TestbedError(f"{image} has no tag; say what to call it: testbed push IMAGE NAME:TAG.")
    first, slash, rest = image.partition("/")
    name = rest if slash and ("." in first or ":" in first or first == "localhost") else image
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def image_there(settings: Settings, name: str) -> str | None:
    """Id of the image that the registry has under NAME:TAG, or None."""
    repository, _, tag = name.rpartition(":")
    status, body = _get(settings, f"/v2/{repository}/manifests/{tag}", MANIFESTS)
    if status != 200:
        return None
    digest = json.loads(body).get("config", {}).get("digest", "")
    return str(digest).removeprefix("sha256:") or None


def compression(manifest_type: str) -> str:
    """How to compress layers.

    343 MB on 2 cores, push and pull: zstd 8 s of CPU, gzip 11 s, and as long on the clock. Docker's manifests have
    no zstd: podman would convert the image, and its id would change.
    """
    return "gzip" if "docker" in manifest_type else "zstd"


def push(settings: Settings, image: str, name: str | None = None) -> tuple[str, bool]:
    """Push an image of the machine's podman. Returns its reference and whether anything was sent."""
    name = name or default_name(image)
    if ":" not in name.rpartition("/")[2]:
        name += ":latest"
    found = outer.podman(settings, "image", "inspect", "-f", "{{.ManifestType}} {{.Id}}", image, check=False)
    if found.returncode:
        raise TestbedError(f"there is no image {image} on this machine; build it with tests/testbed/podman first.")
    kind, identity = found.stdout.split()
    up(settings)
    reference = f"{settings.registry}/{name}"
    if image_there(settings, name) == identity:
        return reference, False
    outer.podman(
        settings, "push", "-q", "--tls-verify=false", f"--compression-format={compression(kind)}", image,
        f"docker://{reference}",
    )  # fmt: skip
    return reference, True
