# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image as its registry has it: its manifests, its configuration and its layers, each in a file named by its sha256.

podman keeps layers unpacked, and what it would pack again has other digests. So that an image has the registry's digest
on a host that never asked the registry, podman there pulls it by that digest from a port of the host's own loopback
interface, which hands out these files, and proves each of them as it does with any registry's.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import http.client
import json
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .._base.errors import FleetError
from .._base.files import remove, write_atomically
from .._base.sizes import gib
from .registry_api import DIGEST, MANIFESTS, Name, RegistryClient, RegistryError, auth_file, machine_architecture

ASKED = re.compile(r"/v2/.+/(manifests|blobs)/sha256:([0-9a-f]{64})")
LONGEST_PAUSE = 120.0  # seconds
USER = "podman"


class Layers:
    """The image with the registry's *digest*, in the directory *place*."""

    def __init__(self, place: Path, digest: str) -> None:
        self.place, self.digest = place, digest

    def path(self, digest: str) -> Path:
        """Where the file with *digest* is."""
        if not DIGEST.fullmatch(digest):
            raise FleetError(f"The registry names a part of {self.digest} by {digest!r}; name an image with sha256.")
        return self.place / digest.partition(":")[2]

    # -- from the registry ---------------------------------------------------------------------------------

    def fetch(self, clients: Sequence[RegistryClient], retries: int, delay: float, room: int | None) -> int:
        """Bring all of it, from the first of *clients* that has it; the bytes of its layers. *room*: free bytes.

        What is here already, also a part of a file, is not asked for again.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        for attempt in range(retries + 1):
            try:
                return self._fetch(clients, room)
            except (OSError, http.client.HTTPException) as error:
                if attempt == retries:
                    raise FleetError(
                        f"The registry does not send all of {self.digest} ({error}); what came is kept, run again."
                    ) from error
                time.sleep(min(delay * 2**attempt, LONGEST_PAUSE))
        raise FleetError("retries is negative; give 0 or more.")

    def _fetch(self, clients: Sequence[RegistryClient], room: int | None) -> int:
        client, body = self._found(clients, self.digest)
        known = {self.digest: body}
        if "manifests" in json.loads(body):
            own = _for_this_machine(json.loads(body), self.digest)
            known[own] = body = self._found([client], own)[1]
        parts = _parts(json.loads(body), self.digest)
        total = sum(parts.values())
        here = sum(path.stat().st_size for path in self.place.iterdir())
        if room is not None and room < total - here:
            raise FleetError(
                f"{self.place.parent} has no room for the {gib(total)} of layers that have to stand there while the "
                "image is handed on; make room there."
            )
        wanted = {self.path(digest).name for digest in [*known, *parts]}
        for stale in [path for path in self.place.iterdir() if path.name.partition(".")[0] not in wanted]:
            remove(stale)
        for digest, size in parts.items():
            client.blob(digest, size, self.path(digest))
        for digest, content in known.items():
            write_atomically(self.path(digest), content)
        return total

    def _found(self, clients: Sequence[RegistryClient], digest: str) -> tuple[RegistryClient, bytes]:
        for client in clients:
            try:
                body = client.body(digest)
            except RegistryError:
                if client is clients[-1]:
                    raise
                continue
            if body is not None:
                return client, body
        raise OSError(f"{', '.join(client.host for client in clients)} gives no manifest {digest}")

    # -- to podman -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def served(self, name: Name) -> Iterator[tuple[Path, Path]]:
        """Meanwhile podman, with this registries.conf, finds the image under its own name here and nowhere else.

        And nobody else finds it, for want of what stands in this auth file.
        """
        token = secrets.token_urlsafe(32)
        with tempfile.TemporaryDirectory(prefix="trtllm-image-") as directory, self._server(token) as port:
            configuration, authfile = Path(directory, "registries.conf"), Path(directory, "auth.json")
            authfile.write_bytes(auth_file(f"127.0.0.1:{port}", USER, token))
            location = f"127.0.0.1:{port}/{name.path}"
            configuration.write_text(
                f'[[registry]]\nprefix = "{name.repository}"\nlocation = "{location}"\ninsecure = true\n',
                encoding="utf-8",
            )
            yield configuration, authfile

    @contextlib.contextmanager
    def _server(self, token: str) -> Iterator[int]:
        place = self.place
        expected = f"Basic {base64.b64encode(f'{USER}:{token}'.encode()).decode()}".encode()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                given = self.headers.get("Authorization", "").encode("utf-8", "replace")
                if not hmac.compare_digest(given, expected):
                    self._answer(401, "application/json", 2, b"{}")
                    return
                asked = ASKED.fullmatch(self.path)
                path = place / asked[2] if asked else None
                if path is None or not path.is_file():
                    self._answer(200 if self.path == "/v2/" else 404, "application/json", 2, b"{}")
                    return
                kind, size = "application/octet-stream", path.stat().st_size
                if asked and asked[1] == "manifests":
                    kind = kind_of(json.loads(path.read_bytes()))
                self._answer(200, kind, size, digest=f"sha256:{path.name}")
                if self.command == "GET":
                    with open(path, "rb") as stream:
                        self.wfile.flush()
                        self.connection.sendfile(stream)

            def _answer(self, code: int, kind: str, size: int, body: bytes = b"", digest: str = "") -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(size))
                if digest:
                    self.send_header("Docker-Content-Digest", digest)
                if code == 401:
                    self.send_header("WWW-Authenticate", 'Basic realm="trtllm-image"')
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing: podman says what is wrong."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
            try:
                yield server.server_port
            finally:
                server.shutdown()


def kind_of(manifest: dict[str, Any]) -> str:
    """The media type of a manifest; those of OCI need not say it."""
    return str(manifest.get("mediaType") or MANIFESTS[0 if "manifests" in manifest else 2])


def _for_this_machine(index: dict[str, Any], digest: str) -> str:
    for entry in index["manifests"]:
        if (entry.get("platform") or {}).get("architecture") == machine_architecture():
            return str(entry["digest"])
    raise FleetError(f"The registry has nothing for {machine_architecture()} under {digest}; name another image.")


def _parts(manifest: dict[str, Any], digest: str) -> dict[str, int]:
    """Configuration and layers by their digests, with their sizes."""
    try:
        return {str(part["digest"]): int(part["size"]) for part in [manifest["config"], *manifest["layers"]]}
    except (KeyError, TypeError, ValueError):
        raise FleetError(
            f"The registry has {digest} in a form without digests of all its parts, which cannot be handed on; leave "
            "triton_image_distribution out."
        ) from None
