# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which digest a tag stands for, asked of the registry itself: podman tells it of no image that it does not pull.

The interface is that of the OCI distribution specification. What a host's own registries.conf says of other places is
podman's affair: where a registry does not answer here, podman is asked to pull the tag, and that counts.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from .._artifact.fingerprint import file_sha256
from .._base.errors import FleetError
from .._base.sizes import MIB

SECONDS = 20
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
LONGEST = 4 << 20  # bytes of a manifest, as registries limit them
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Where podman looks for credentials that nobody named.
AUTH_FILES = ("/run/containers/0/auth.json", "~/.config/containers/auth.json", "~/.docker/config.json")
CERTIFICATES = ("/etc/containers/certs.d", "/etc/docker/certs.d")
# What a machine calls itself, and what an image is called that runs there.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class RegistryError(FleetError):
    """The registry's own answer that it gives nothing; *status* is that of HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Name:
    """An image's name in its parts. *tag* and *digest* may be empty."""

    registry: str
    path: str
    tag: str
    digest: str

    @property
    def repository(self) -> str:
        """Registry and path: what a digest is added to."""
        return f"{self.registry}/{self.path}"


@dataclass(frozen=True)
class Manifest:
    """What a registry has under a name. *size*: bytes of all layers, 0 where that is not known."""

    digest: str
    config: str = ""
    size: int = 0


def parse(name: str) -> Optional[Name]:
    """The parts of a full name, None for a short one such as ``ubuntu:24.04``, which podman alone can complete."""
    plain, _, digest = name.partition("@")
    first, slash, rest = plain.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        return None
    head, colon, tag = rest.rpartition(":")
    path, tag = (head, tag) if colon and "/" not in tag else (rest, "")
    return Name(first, path, tag or ("" if digest else "latest"), digest)


def machine_architecture() -> str:
    """What images for this host are called: ``amd64``."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def auth_of(text: str, registry: str, path: str) -> str:
    """The ``user:password`` that the content of an auth file has for an image; the longest matching entry counts."""
    try:
        auths = json.loads(text).get("auths") or {}
    except (ValueError, AttributeError):
        return ""
    whole = f"{registry}/{path}"
    matching = [key for key in auths if whole == key or whole.startswith(f"{key.rstrip('/')}/")]
    for key in sorted(matching, key=len, reverse=True):
        with contextlib.suppress(ValueError, AttributeError):
            return base64.b64decode(auths[key].get("auth") or "").decode()
    return ""


class RegistryClient:
    """One registry, asked as podman would ask it."""

    def __init__(
        self, name: Name, *, credentials: str = "", authfile: Optional[str] = None, tls_verify: bool = True,
        proxies: Optional[Mapping[str, str]] = None,
    ) -> None:  # fmt: skip
        self.name, self.tls_verify = name, tls_verify
        self.credentials = credentials or self._kept(authfile)
        # The registry that is meant by docker.io has another name.
        self.host = "registry-1.docker.io" if name.registry == "docker.io" else name.registry
        self._token, self._scheme = "", "https"
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=self._context()), urllib.request.ProxyHandler(self._proxies(proxies))
        )

    @staticmethod
    def _proxies(given: Optional[Mapping[str, str]]) -> dict[str, str]:
        return {**urllib.request.getproxies(), **{key.replace("_proxy", ""): url for key, url in (given or {}).items()}}

    def _kept(self, authfile: Optional[str]) -> str:
        for path in [authfile] if authfile else AUTH_FILES:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found = auth_of(Path(path).expanduser().read_text(), self.name.registry, self.name.path)
                if found:
                    return found
        return ""

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        # Python 3.13 asks more of a certificate than podman does, which certificates of one's own often lack.
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        if not self.tls_verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return context
        for directory in CERTIFICATES:
            for path in sorted(Path(directory, self.name.registry).glob("*.crt")):
                with contextlib.suppress(OSError, ssl.SSLError):
                    context.load_verify_locations(path)
        return context

    def manifest(self, reference: str) -> Optional[Manifest]:
        """What the registry has under a tag or digest; None where it does not answer. A refusal raises."""
        body = self.body(reference)
        return None if body is None else self._read(f"sha256:{hashlib.sha256(body).hexdigest()}", json.loads(body))

    def body(self, reference: str) -> Optional[bytes]:
        """The manifest itself under a tag or digest; None where the registry does not answer. A refusal raises."""
        for scheme in ("https",) if self.tls_verify else ("https", "http"):
            self._scheme = scheme
            try:
                return self._get(reference)
            except RegistryError:
                raise
            except (OSError, ValueError):  # no answer, or none that is HTTP
                continue
        return None

    def _read(self, digest: str, body: dict[str, Any]) -> Manifest:
        if "manifests" in body:  # of several machines; what this one takes says how large it is
            own = next(
                (
                    entry for entry in body["manifests"]
                    if (entry.get("platform") or {}).get("architecture") == machine_architecture()
                ),
                None,
            )  # fmt: skip
            if own is None:
                return Manifest(digest)
            body = json.loads(self._get(own["digest"]))
        layers = {layer["digest"]: int(layer.get("size") or 0) for layer in body.get("layers") or []}
        return Manifest(digest, str((body.get("config") or {}).get("digest") or ""), sum(layers.values()))

    def _get(self, reference: str) -> bytes:
        url = self._url("manifests", reference)
        with self._asked(url, {"Accept": ", ".join(MANIFESTS)}) as answer:
            digest, body = answer.headers.get("Docker-Content-Digest", ""), answer.read(LONGEST)
        computed = f"sha256:{hashlib.sha256(body).hexdigest()}"
        said = reference if DIGEST.fullmatch(reference) else digest
        if not isinstance(json.loads(body), dict) or (DIGEST.fullmatch(said) and said != computed):
            raise ValueError(f"{url} answers with something else than it says")
        return bytes(body)

    def blob(self, digest: str, size: int, path: Path) -> None:
        """Bring a part of an image to *path*, from where an earlier attempt broke off: the right one, or it raises."""
        if path.is_file() and path.stat().st_size == size:
            return
        part = path.with_name(f"{path.name}.part")
        with open(part, "ab") as stream:
            have = stream.tell()
            if have < size:
                headers = {"Range": f"bytes={have}-"} if have else {}
                with self._asked(self._url("blobs", digest), headers) as answer:
                    if answer.status != 206:
                        stream.truncate(0)
                    shutil.copyfileobj(answer, stream, MIB)
            stream.flush()
            came = os.fstat(stream.fileno()).st_size
        if came < size:
            raise OSError(f"{self.host} broke off after {came} of {size} bytes of {digest}")
        if file_sha256(part) != digest.partition(":")[2]:
            part.unlink()
            raise OSError(f"{self.host} sends something else as {digest}")
        part.rename(path)

    def _url(self, what: str, reference: str) -> str:
        return f"{self._scheme}://{self.host}/v2/{self.name.path}/{what}/{reference}"

    def _asked(self, url: str, headers: Mapping[str, str]) -> Any:
        """The answer, with a token where the registry wants one; a refusal raises."""
        try:
            return self._open(url, self._authorization(), headers)
        except urllib.error.HTTPError as error:
            challenge = error.headers.get("WWW-Authenticate", "")
            if error.code != 401 or not challenge.lower().startswith("bearer"):
                raise self._refusal(error) from error
            self._token = self._fetch_token(challenge)
        try:
            return self._open(url, self._authorization(), headers)
        except urllib.error.HTTPError as again:
            raise self._refusal(again) from again

    def _open(self, url: str, authorization: str, headers: Mapping[str, str]) -> Any:
        request = urllib.request.Request(url, headers=dict(headers))
        if authorization:
            # Not passed on to where a registry redirects to.
            request.add_unredirected_header("Authorization", authorization)
        return self._opener.open(request, timeout=SECONDS)

    def _authorization(self) -> str:
        if self._token:
            return f"Bearer {self._token}"
        return f"Basic {base64.b64encode(self.credentials.encode()).decode()}" if self.credentials else ""

    def _fetch_token(self, challenge: str) -> str:
        parts = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        query = urllib.parse.urlencode({key: parts[key] for key in ("service", "scope") if key in parts})
        basic = f"Basic {base64.b64encode(self.credentials.encode()).decode()}" if self.credentials else ""
        try:
            with self._open(f"{parts.get('realm', '')}?{query}", basic, {}) as answer:
                body = answer.read(LONGEST)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from error
        said = json.loads(body)
        return str(said.get("token") or said.get("access_token") or "")

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        """The registry's own words; a server that is out of order has answered nothing."""
        if error.code >= 500 or error.code == 429:
            return OSError(f"{self.host} answers {error.code}")
        words = error.reason
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            said = json.loads(error.read(LONGEST))["errors"][0]
            words = said.get("message") or said["code"]
        return RegistryError(f"{error.code}: {words}", error.code)


def auth_file(registry: str, username: str, password: str) -> bytes:
    """The content of an auth file with the credentials for one registry."""
    pair = base64.b64encode(f"{username}:{password}".encode()).decode()
    return json.dumps({"auths": {registry: {"auth": pair}}}).encode()


def environment(proxies: Mapping[str, str]) -> dict[str, str]:
    """Proxies as variables, in both spellings: which of them is read differs between programs."""
    given = {key: value for key, value in os.environ.items() if key.lower() in PROXIES}
    return {**given, **{name: url for key, url in proxies.items() for name in (key.lower(), key.upper())}}


PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
