# SPDX-License-Identifier: GPL-3.0-or-later
"""What a registry is asked for a tag, against a server that speaks its interface."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import registry_api
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.registry_api import (
    Name,
    RegistryClient,
    RegistryError,
    auth_file,
    auth_of,
    environment,
    parse,
)

LAYERS = [{"digest": "sha256:a", "size": 5}, {"digest": "sha256:b", "size": 7}, {"digest": "sha256:a", "size": 5}]
SINGLE = json.dumps({"config": {"digest": "sha256:c"}, "layers": LAYERS}).encode()
RIGHT = f"Basic {base64.b64encode(b'u:p').decode()}"


def digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


INDEX = json.dumps(
    {
        "manifests": [
            {"digest": "sha256:other", "platform": {"architecture": "s390x"}},
            {"digest": digest(SINGLE), "platform": {"architecture": registry_api.machine_architecture()}},
        ]
    }
).encode()
FOREIGN = json.dumps({"manifests": [{"digest": "sha256:other", "platform": {"architecture": "s390x"}}]}).encode()


class Registry(BaseHTTPRequestHandler):
    """Images of ``open``, ``basic`` (a password) and ``bearer`` (a token for a password, as NGC has it)."""

    asked: list[str] = []

    def do_GET(self) -> None:
        Registry.asked.append(self.path)
        given = self.headers.get("Authorization", "")
        if self.path.startswith("/token"):
            return self.say(200, b'{"token": "t"}') if given == RIGHT else self.refuse("wrong key")
        _, _, repository, _, reference = self.path.split("/")
        if repository == "basic" and given != RIGHT:
            return self.refuse("authentication required", "Basic realm=x")
        if repository == "bearer" and given != "Bearer t":
            realm = f"http://127.0.0.1:{self.server.server_port}/token"  # type: ignore[attr-defined]
            return self.refuse("no token", f'Bearer realm="{realm}",service="s",scope="repository:bearer:pull"')
        if repository == "broken":
            return self.say(503, b"")
        if repository == "liar":
            return self.say(200, SINGLE, "sha256:" + "0" * 64)
        bodies = {"1": SINGLE, "many": INDEX, "foreign": FOREIGN, digest(SINGLE): SINGLE}
        if reference not in bodies:
            return self.say(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}')
        return self.say(200, bodies[reference], digest(bodies[reference]))

    def refuse(self, words: str, challenge: str = "") -> None:
        self.say(401, json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": words}]}).encode(), "", challenge)

    def say(self, status: int, body: bytes, digest: str = "", challenge: str = "") -> None:
        self.send_response(status)
        for header, value in (("Docker-Content-Digest", digest), ("WWW-Authenticate", challenge)):
            if value:
                self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_api, "AUTH_FILES", ())
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def client(host: str, path: str, **options: Any) -> RegistryClient:
    return RegistryClient(Name(host, path, "1", ""), tls_verify=False, **options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nvcr.io/nvidia/tritonserver:26.07-py3", Name("nvcr.io", "nvidia/tritonserver", "26.07-py3", "")),
        ("reg:5000/a", Name("reg:5000", "a", "latest", "")),
        ("reg:5000/a@sha256:x", Name("reg:5000", "a", "", "sha256:x")),
        ("localhost/a:1@sha256:x", Name("localhost", "a", "1", "sha256:x")),
        ("ubuntu:24.04", None),
        ("library/ubuntu", None),
    ],
)
def test_names(name: str, expected: Name | None) -> None:
    assert parse(name) == expected


@pytest.mark.parametrize("path", ["open", "basic", "bearer"])
def test_a_tag_has_a_digest_and_a_size(host: str, path: str) -> None:
    found = client(host, path, credentials="u:p").manifest("1")
    assert found and (found.digest, found.config, found.size) == (digest(SINGLE), "sha256:c", 12)


def test_an_image_for_several_machines_has_the_digest_of_its_list(host: str) -> None:
    found = client(host, "open").manifest("many")
    assert found and (found.digest, found.size) == (digest(INDEX), 12)
    foreign = client(host, "open").manifest("foreign")
    assert foreign and (foreign.digest, foreign.size) == (digest(FOREIGN), 0)


@pytest.mark.parametrize(
    ("path", "tag", "words"),
    [
        ("basic", "1", "401: authentication required"),
        ("bearer", "1", "401: wrong key"),
        ("open", "9", "404: manifest unknown"),
    ],
)
def test_a_refusal_has_the_registrys_own_words(host: str, path: str, tag: str, words: str) -> None:
    with pytest.raises(RegistryError, match=f"^{words}$"):
        client(host, path, credentials="u:wrong").manifest(tag)


@pytest.mark.parametrize("path", ["broken", "liar"])
def test_a_registry_that_is_out_of_order_has_said_nothing(host: str, path: str) -> None:
    assert client(host, path).manifest("1") is None


def test_a_registry_that_is_not_there_has_said_nothing() -> None:
    assert client("127.0.0.1:9", "open").manifest("1") is None


def test_one_without_tls_is_asked_only_where_that_was_allowed(host: str) -> None:
    Registry.asked.clear()
    assert RegistryClient(Name(host, "open", "1", "")).manifest("1") is None
    assert not Registry.asked


def test_credentials_are_read_as_podman_reads_them(host: str, tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    file.write_bytes(auth_file(host, "u", "p"))
    assert client(host, "basic", authfile=str(file)).manifest("1")
    texts = json.dumps({"auths": {"r": {"auth": "YTox"}, "r/a": {"auth": "YToy"}, "r/ab": {"auth": "YToz"}}})
    assert auth_of(texts, "r", "a/b") == "a:2"
    assert auth_of(texts, "r", "x") == "a:1"
    assert auth_of(texts, "s", "x") == auth_of("nonsense", "r", "x") == ""


def test_proxies_are_given_in_both_spellings() -> None:
    given = environment({"https_proxy": "http://p:1"})
    assert given["https_proxy"] == given["HTTPS_PROXY"] == "http://p:1"
