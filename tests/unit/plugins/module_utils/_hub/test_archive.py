# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives and single files over HTTP: what is right arrives, what is not is found, a kill costs nothing twice."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.download import Downloads
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.job import Fetch
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.request import request_of
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.watch import Watch
from hub_server import Hub
from unit.plugins.module_utils._hub.hub_files import BIG, SECRET, files, weights
from unit.plugins.module_utils._hub.running import NO_CONSENT, download, kill_once_arrived, received, run_here

PLACE = "archives"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub(tmp_path / "hub").start()
    yield server
    server.shutdown()


def tar(
    members: dict[str, bytes], mode: str = "w", prefix: str = "model/", more: tuple[tarfile.TarInfo, ...] = ()
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, body in members.items():
            about = tarfile.TarInfo(prefix + name)
            about.size = len(body)
            archive.addfile(about, io.BytesIO(body))
        for about in more:
            archive.addfile(about)
    return out.getvalue()


def zstd(members: dict[str, bytes]) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=tar(members), check=True, capture_output=True).stdout


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, body in members.items():
            archive.writestr(f"model/{name}", body)
    return out.getvalue()


def put(hub: Hub, name: str, body: bytes, **faults: Any) -> dict[str, Any]:
    """What to ask for, once the server has it."""
    place = hub.root / PLACE / "x" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(body)
    (place.parent / "hub.json").write_text("{}")
    hub.change(f"{PLACE}/x", **faults)
    url = f"http://127.0.0.1:{hub.storage.server_address[1]}/_lfs/{PLACE}/x/{name}"
    return {"source": "url", "url": url, "sha256": hashlib.sha256(body).hexdigest()}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("m.tar", tar(files())),
        ("m.tgz", tar(files(), "w:gz")),
        ("m.tar.xz", tar(files(), "w:xz")),
        ("m.tar.zst", zstd(files())),
        ("m.zip", zipped(files())),
        ("flat.tar", tar(files(), prefix="./")),
    ],
)
def test_an_archive_is_proved_unpacked_and_kept(hub: Hub, tmp_path: Path, name: str, body: bytes) -> None:
    asked = put(hub, name, body)
    fetch = download(tmp_path / "root", asked)
    assert {path.name: path.read_bytes() for path in fetch.path.iterdir()} == files()
    assert received(fetch) == len(body) and not fetch.staging.exists()
    assert fetch.current(request_of(asked, ""), "full", True)[2] == []
    other = {**asked, "url": "https://mirror.example.com/other.tar"}
    assert fetch.current(request_of(other, ""), "stat", True)[2] == [], "the same bytes from elsewhere are the same"


def test_files_that_are_left_out_and_code_that_is_not(hub: Hub, tmp_path: Path) -> None:
    asked = put(hub, "m.tar", tar(files(modeling__py=b"import os")))
    with pytest.raises(FleetError, match=r"m.tar brings code that runs .*\(modeling.py\).*trust_remote_code: true"):
        download(tmp_path / "root", asked)
    fetch = download(tmp_path / "root", {**asked, "exclude": ["*.py"]})
    assert {path.name for path in fetch.path.iterdir()} == set(files())


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("m.tar", tar(files(), prefix="../"), r"'../config.json' leads out of the archive"),
        ("m.tar", tar(files(), prefix="/etc/"), r"leads out of the archive"),
        ("m.zip", zipped({"../../x": b"y"}), r"leads out of the archive"),
        ("m.tar", tar(files())[:-BIG], r"has the right sha256, and cannot be unpacked \(unexpected end of data\)"),
        ("m.tar.gz", tar(files(), "w:gz")[:-400], r"has the right sha256, and cannot be unpacked"),
        ("m.tar.zst", zstd(files())[:-4], r"has the right sha256, and cannot be unpacked"),
        ("m.zip", zipped(files())[:-9], r"has the right sha256, and cannot be unpacked"),
        ("m.tar", tar({"x": b"y"}), r"config.json"),
    ],
)
def test_what_is_no_archive_of_a_checkpoint(hub: Hub, tmp_path: Path, name: str, body: bytes, said: str) -> None:
    with pytest.raises(FleetError, match=said) as refused:
        download(tmp_path / "root", put(hub, name, body))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "root" / "checkpoints" / "m").exists() and not (tmp_path / "etc").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(hub: Hub, tmp_path: Path, kind: bytes) -> None:
    link = tarfile.TarInfo("model/evil")
    link.type, link.linkname = kind, "/etc/shadow" if kind == tarfile.SYMTYPE else "model/config.json"
    with pytest.raises(FleetError, match=r"model/evil is a link or a device, which no checkpoint has"):
        download(tmp_path / "root", put(hub, "m.tar", tar(files(), more=(link,))))


@pytest.mark.parametrize("fault", ["altered", "truncated"])
def test_bytes_that_are_not_those_of_the_sha256(hub: Hub, tmp_path: Path, fault: str) -> None:
    asked = put(hub, "m.tar", tar(files()), **{fault: ["m.tar"]})
    with pytest.raises(FleetError, match=r"arrived with the sha256 .* instead of|does not send the rest"):
        download(tmp_path / "root", asked)
    assert not (tmp_path / "root" / "checkpoints" / "m").exists()
    hub.change(f"{PLACE}/x", **{fault: []})
    assert (download(tmp_path / "root", asked).path / "model.safetensors").read_bytes() == weights()


def test_killed_in_the_middle_it_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    size = 4 << 20
    asked = put(hub, "m.tar", tar(files(model__safetensors=weights(size))), rate=1 << 21)
    fetch = Fetch(tmp_path / "root", "m")
    process = run_here(fetch, request_of(asked, ""), NO_CONSENT, "")
    kill_once_arrived(fetch, process, size // 2)
    hub.change(f"{PLACE}/x", rate=0)
    before = hub.sent
    assert download(tmp_path / "root", asked).record() is not None
    assert hub.sent - before < size * 3 // 4, "what had arrived was downloaded again"


@pytest.mark.parametrize("size", [2000, 3 << 20])
def test_a_server_without_ranges_sends_it_from_its_beginning(hub: Hub, tmp_path: Path, size: int) -> None:
    body = os.urandom(size)
    asked = put(hub, "m.bin", body, no_ranges=True)
    half = tmp_path / "half"
    half.write_bytes(body[: size // 2])
    watch = Watch(tmp_path, lambda status: None, lambda names: None)
    Downloads("m", tmp_path, watch, {}).get(asked["url"], half, size)
    assert half.read_bytes() == body


def test_single_files(hub: Hub, tmp_path: Path) -> None:
    asked = [put(hub, name, body) for name, body in files().items()]
    fetch = download(tmp_path / "root", {"source": "url", "files": {one["url"]: one["sha256"] for one in asked}})
    assert {path.name: path.read_bytes() for path in fetch.path.iterdir()} == files()
    wrong = {one["url"]: "0" * 64 for one in asked}
    with pytest.raises(FleetError, match=r"config.json arrived damaged"):
        download(tmp_path / "other", {"source": "url", "files": wrong})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "url or files is needed, and not both"),
        ({"url": "https://h/m.tar"}, "sha256 of https://h/m.tar is ''; give its 64 hexadecimal digits"),
        ({"url": "https://h/m.bin", "sha256": "0" * 64}, "is no .tar, .tar.gz,"),
        ({"url": "https://h/m.tar", "sha256": "0" * 64, "files": {"https://h/x": "0" * 64}}, "and not both"),
        ({"files": {"https://h/x": "0"}}, "sha256 of https://h/x is '0'"),
        ({"files": {"https://h/x": "0" * 64, "https://i/x": "1" * 64}}, "files has 'x' twice"),
        ({"files": {f"https://me:{SECRET}@h/x": "0" * 64}}, "holds a name or a password"),
        ({"files": ["https://h/x"]}, "files is no dictionary"),
        ({"repo": "a/b"}, "repo is given, but source url takes url, sha256, files, include, exclude"),
    ],
)
def test_bad_input(given: dict[str, Any], said: str) -> None:
    with pytest.raises(FleetError) as refused:
        request_of({"source": "url", **given}, "")
    assert said in str(refused.value) and SECRET not in str(refused.value)
