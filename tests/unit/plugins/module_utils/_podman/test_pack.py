# SPDX-License-Identifier: GPL-3.0-or-later
"""An image as an artefact: written, taken, and refused where it is not the one that was written."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import cli
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.image_ids import Images
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.pack import PackedImage

NAME, ID = "localhost/fleet/a:1", "a" * 64
OCI = "application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"


class Podman:
    """A podman whose images are ids by names; what it saves says which image it is."""

    def __init__(self, kind: str = OCI, **names: str) -> None:
        self.kind, self.names, self.calls = kind, names, list[list[str]]()
        self.spoilt = ""

    def image(self, reference: str) -> dict[str, Any] | None:
        identity = self.names.get(reference, reference.removeprefix("sha256:"))
        if identity not in self.names.values():
            return None
        tags = [name for name, held in self.names.items() if held == identity]
        return {"Id": identity, "Size": 10, "ManifestType": self.kind, "RepoTags": tags}

    def image_id(self, reference: str) -> str | None:
        found = self.image(reference)
        return found and f"sha256:{found['Id']}"

    def check(self, argv: Sequence[str], **how: Any) -> str:
        self.calls.append(list(argv))
        if argv[0] == "save":
            place = Path(argv[argv.index("--output") + 1])
            place.mkdir()
            (place / "blob").write_text(argv[-1])
        if argv[0] == "pull":
            place = Path(argv[-1].partition(":")[2])
            identity = self.spoilt or (place / "blob").read_text()
            self.names[f"localhost{place}:latest"] = identity
            return f"{identity}\n"
        if argv[0] == "tag":
            self.names[argv[2]] = argv[1].removeprefix("sha256:")
        if argv[0] == "untag":
            for name in argv[2:]:
                del self.names[name]
        return ""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(kind: str = OCI, a: str = "") -> Podman:
        made = Podman(kind, **({NAME: a} if a else {}))
        for name in ("image", "image_id", "check"):
            monkeypatch.setattr(cli, name, getattr(made, name))
        return made

    return install


@pytest.mark.parametrize(("kind", "written", "read"), [(OCI, "oci-dir", "oci"), (DOCKER, "docker-dir", "dir")])
def test_from_one_host_to_the_other(host: Any, tmp_path: Path, kind: str, written: str, read: str) -> None:
    source = host(kind, a=ID)
    packed = PackedImage(tmp_path, "a-1", NAME, lambda path: 1000)
    assert packed.pack(check_mode=True) == (True, ID, 10) and not (tmp_path / "images").exists()
    assert packed.pack() == (True, ID, 10)
    assert source.calls[0][:5] == ["save", "--quiet", "--uncompressed", "--format", written]
    assert packed.pack(check_mode=True) == (False, ID, 10) and packed.pack() == (False, ID, 10)

    target = host()
    assert packed.unpack(ID, check_mode=True) is True and target.calls == []
    assert packed.unpack(ID, "b" * 64) is True
    assert target.calls[0] == ["pull", "--quiet", f"{read}:{tmp_path}/images/a-1/{ID}/image"]
    assert target.names == {NAME: ID}, "podman's own name for it is gone"
    assert Images(tmp_path).archive(NAME) == "b" * 64
    assert packed.unpack(ID) is False and packed.unpack(ID, check_mode=True) is False

    assert packed.clear(check_mode=True) is True and packed.store.has("a-1", ID)
    assert packed.clear() is True and not (tmp_path / "images" / "a-1").exists()
    assert packed.clear() is False and packed.clear(check_mode=True) is False


def test_another_image_than_was_packed_is_not_used(host: Any, tmp_path: Path) -> None:
    host(a=ID)
    packed = PackedImage(tmp_path, "a-1", NAME, lambda path: 1000)
    packed.pack()
    target = host()
    target.spoilt = "f" * 64
    with pytest.raises(FleetError, match=rf"holds the image sha256:f+ instead of sha256:{ID}; it is not used"):
        packed.unpack(ID)
    assert NAME not in target.names


def test_what_cannot_be_is_refused(host: Any, tmp_path: Path) -> None:
    host()
    packed = PackedImage(tmp_path, "a-1", NAME, lambda path: 1000)
    with pytest.raises(FleetError, match="is not on this host, so it cannot be handed on"):
        packed.pack()
    with pytest.raises(FleetError, match="'x' is not a fingerprint; expected 64"):
        packed.unpack("x")
    with pytest.raises(FleetError, match="cannot be taken from it; receive it first"):
        packed.unpack(ID)
    host(a=ID)
    with pytest.raises(FleetError, match=r"has no room for the .* of '.*', which has to stand there"):
        PackedImage(tmp_path, "a-1", NAME, lambda path: 9).pack()


def test_podmans_own_words_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(argv: Sequence[str], **how: Any) -> subprocess.CompletedProcess[str]:
        if argv[0] == "image":
            return subprocess.CompletedProcess(argv, 0, json.dumps([{"Id": ID, "Size": 1, "ManifestType": OCI}]), "")
        return subprocess.CompletedProcess(argv, 125, "", "Error: writing blob: no space left on device")

    monkeypatch.setattr(cli, "run", run)
    with pytest.raises(FleetError, match=rf"podman cannot write '{NAME}' .*no space left"):
        PackedImage(tmp_path, "a-1", NAME, lambda path: 1000).pack()
