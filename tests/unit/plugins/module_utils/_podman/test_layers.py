# SPDX-License-Identifier: GPL-3.0-or-later
"""An image as its registry has it: brought from a registry that breaks off, and handed to podman unchanged."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import cli
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.image_ids import Images
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.layers import Layers
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.pack import PackedImage, Pulled
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.registry_api import (
    MANIFESTS,
    RegistryClient,
    machine_architecture,
    parse,
)

LAYER, CONFIG = os.urandom(300_000), b'{"architecture": "any"}'


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def part(body: bytes) -> dict[str, Any]:
    return {"digest": digest_of(body), "size": len(body)}


MANIFEST = json.dumps({"mediaType": MANIFESTS[3], "config": part(CONFIG), "layers": [part(LAYER)]}).encode()
INDEX = json.dumps(
    {"manifests": [{"digest": digest_of(MANIFEST), "platform": {"architecture": machine_architecture()}}]}
).encode()
FOREIGN = json.dumps({"manifests": [{"digest": "sha256:x", "platform": {"architecture": "s390x"}}]}).encode()
BARE = json.dumps({"fsLayers": []}).encode()
HELD = {digest_of(body): body for body in (LAYER, CONFIG, MANIFEST, INDEX, FOREIGN, BARE)}


class Registry(BaseHTTPRequestHandler):
    """Hands out `HELD`; of the next *broken* layers it sends *broken_at* bytes, or with *false* other ones."""

    broken, broken_at, false = 0, 100_000, False
    asked: list[tuple[str, str]] = []

    def do_GET(self) -> None:
        Registry.asked.append((self.path.split("/")[-2], self.headers.get("Range", "")))
        body = HELD.get(self.path.rpartition("/")[2])
        if body is None:
            self.send_error(404)
            return
        begin = int(self.headers.get("Range", "bytes=0-")[6:-1])
        content = bytes(len(body)) if Registry.false and body == LAYER else body
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        if body == LAYER and Registry.broken:
            Registry.broken -= 1
            self.wfile.write(content[begin : begin + Registry.broken_at])
            self.close_connection = True
            return
        self.wfile.write(content[begin:])

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def client() -> Iterator[RegistryClient]:
    Registry.broken, Registry.false, Registry.asked = 0, False, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        name = parse(f"127.0.0.1:{server.server_port}/llm/a:1")
        assert name is not None
        yield RegistryClient(name, tls_verify=False, proxies={})
        server.shutdown()


def opened(url: str, authfile: Path, method: str = "GET") -> Any:
    """As podman asks, with what the auth file has for the place."""
    (credentials,) = json.loads(authfile.read_text())["auths"].values()
    request = urllib.request.Request(url, method=method, headers={"Authorization": f"Basic {credentials['auth']}"})
    return urllib.request.urlopen(request)


def held(place: Path) -> set[str]:
    for path in place.iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    return {path.name for path in place.iterdir()}


@pytest.mark.parametrize("asked", [INDEX, MANIFEST])
def test_all_that_stands_under_the_digest_comes(client: RegistryClient, tmp_path: Path, asked: bytes) -> None:
    layers = Layers(tmp_path / "image", digest_of(asked))
    assert layers.fetch([client], 0, 0, None) == len(LAYER) + len(CONFIG)
    wanted = {asked, MANIFEST, CONFIG, LAYER}
    assert held(layers.place) == {digest_of(body)[7:] for body in wanted}
    (layers.place / ("0" * 64)).write_text("of another image")
    layers.fetch([client], 0, 0, None)
    assert len(held(layers.place)) == len(wanted)
    assert [what for what, _ in Registry.asked].count("blobs") == 2, "what is there does not come again"


def test_a_layer_goes_on_where_it_broke_off(client: RegistryClient, tmp_path: Path) -> None:
    Registry.broken = 2
    layers = Layers(tmp_path / "image", digest_of(MANIFEST))
    with pytest.raises(FleetError, match=r"broke off after 100000 of 300000 .*; what came is kept, run again"):
        layers.fetch([client], 0, 0, None)
    layers.fetch([client], 1, 0, None)
    ranges = [range_ for what, range_ in Registry.asked if what == "blobs" and range_]
    assert ranges == ["bytes=100000-", "bytes=200000-"]
    held(layers.place)


def test_what_is_not_the_registrys_is_not_kept(client: RegistryClient, tmp_path: Path) -> None:
    Registry.false = True
    layers = Layers(tmp_path / "image", digest_of(MANIFEST))
    with pytest.raises(FleetError, match=r"sends something else as sha256:"):
        layers.fetch([client], 0, 0, None)
    assert held(layers.place) == {digest_of(CONFIG)[7:]}


@pytest.mark.parametrize(
    ("asked", "room", "said"),
    [
        (FOREIGN, None, "has nothing for"),
        (BARE, None, "in a form without digests of all its parts"),
        (MANIFEST, 1000, "has no room for the"),
        (b"none", None, "404"),
    ],
    ids=["another machine", "an old form", "no room", "not there"],
)
def test_what_cannot_be_handed_on_is_refused(
    client: RegistryClient, tmp_path: Path, asked: bytes, room: int | None, said: str
) -> None:
    with pytest.raises(FleetError, match=said):
        Layers(tmp_path / "image", digest_of(asked)).fetch([client], 0, 0, room)
    assert "blobs" not in [what for what, _ in Registry.asked]


def test_podman_gets_it_unchanged_and_nothing_else(client: RegistryClient, tmp_path: Path) -> None:
    layers = Layers(tmp_path / "image", digest_of(INDEX))
    layers.fetch([client], 0, 0, None)
    name = parse("registry.example.com/llm/a:1")
    assert name is not None
    with layers.served(name) as (configuration, authfile):
        assert stat.S_IMODE(configuration.parent.stat().st_mode) == 0o700
        lines = dict(line.split(" = ") for line in configuration.read_text().splitlines()[1:])
        assert lines["prefix"] == '"registry.example.com/llm/a"' and lines["insecure"] == "true"
        base = "http://" + lines["location"].strip('"').replace("/llm/a", "/v2/llm/a")
        for kind, body, media in (
            ("manifests", INDEX, MANIFESTS[0]), ("manifests", MANIFEST, MANIFESTS[3]),
            ("blobs", LAYER, "application/octet-stream"),
        ):  # fmt: skip
            with opened(f"{base}/{kind}/{digest_of(body)}", authfile) as answer:
                assert answer.read() == body and answer.headers["Content-Type"] == media
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{base}/{kind}/{digest_of(body)}")
            with opened(f"{base}/{kind}/{digest_of(body)}", authfile, "HEAD") as answer:
                assert answer.headers["Content-Length"] == str(len(body))
        (tmp_path / "secret").write_text("x")
        for path in ("manifests/1", f"blobs/sha256:{'0' * 64}", "blobs/../../secret"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                opened(f"{base}/{path}", authfile)
    assert not configuration.exists() and not authfile.exists()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{base}/blobs/{digest_of(LAYER)}")


def test_from_the_registry_to_a_host_that_does_not_reach_it(
    client: RegistryClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, digest = "registry.example.com/llm/a:1", digest_of(MANIFEST)
    reference = f"registry.example.com/llm/a@{digest}"
    pulled = Pulled(digest, [client], 0, 0)
    packed = PackedImage(tmp_path, "a-1", image, lambda path: 1_000_000)
    assert packed.pack_pulled(pulled, check_mode=True)[0] is True and Registry.asked == []
    assert packed.pack_pulled(pulled) == (True, digest[7:], len(LAYER) + len(CONFIG))
    assert packed.pack_pulled(pulled)[0] is False and packed.pack_pulled(pulled, check_mode=True)[0] is False
    assert packed.store.verify(packed.store.path("a-1", digest[7:]), full=True) == []

    names: dict[str, str] = {}

    def check(argv: list[str], *, what: str = "", environment: dict[str, str] | None = None) -> str:
        if argv[0] == "pull":
            location = Path((environment or {})["CONTAINERS_REGISTRIES_CONF"]).read_text().split('location = "')[1]
            host, _, path = location.split('"')[0].partition("/")
            authfile = Path(argv[argv.index("--authfile") + 1])
            with opened(f"http://{host}/v2/{path}/manifests/{argv[-1].partition('@')[2]}", authfile) as answer:
                names[argv[-1]] = f"sha256:{json.load(answer)['config']['digest'][7:]}"
        if argv[0] == "tag":
            names[argv[2]] = names[argv[1]]
        return ""

    monkeypatch.setattr(cli, "check", check)
    monkeypatch.setattr(cli, "image_id", names.get)
    assert packed.unpack_pulled(digest, check_mode=True) is True and names == {}
    assert packed.unpack_pulled(digest) is True
    assert names == {reference: digest_of(CONFIG), image: digest_of(CONFIG)}
    assert Images(tmp_path).digest(image) == digest
    assert packed.unpack_pulled(digest) is False and packed.unpack_pulled(digest, check_mode=True) is False

    packed.clear()
    names.clear()
    with pytest.raises(FleetError, match="cannot be taken from it; receive it first"):
        packed.unpack_pulled(digest)
    assert packed.pack_pulled(pulled)[0] is True
    by_digest = PackedImage(tmp_path, "a-1", reference, lambda path: None)
    assert by_digest.unpack_pulled(digest) is True and names == {reference: digest_of(CONFIG)}
    assert by_digest.unpack_pulled(digest) is False
