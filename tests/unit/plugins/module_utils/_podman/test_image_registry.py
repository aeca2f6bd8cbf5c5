# SPDX-License-Identifier: GPL-3.0-or-later
"""In check mode an image that would be pulled has to be in its registry."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import cli
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.image import ImageManager, ImageRequest
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.registry_api import RegistryClient

# As podman 5.4 says it.
SINGLE = 'Error: parsing manifest blob "{\\"schemaVersion\\":2}" as a "application/vnd.oci.image.manifest.v1+json": x'
UNKNOWN = 'Error: reading image "docker://r:5000/a:9": reading manifest 9 in r:5000/a: manifest unknown'
SHORT = 'Error: short-name "a:1" did not resolve to an alias and no unqualified-search registries are defined'
NO_ROUTE = 'Error: reading image "docker://r:5000/a:1": pinging container registry r:5000: no route to host'
PRIVATE = "Error: reading manifest 1 in docker.io/x/a: requested access to the resource is denied"
OLD = "Error: unknown flag: --tls-verify"


class Host:
    """A host that has no image; *code* and *err* are what the question for the registry gets, a None that it hangs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int | None, err: str) -> None:
        self.code, self.err = code, err
        self.asked: list[list[str]] = []
        monkeypatch.setattr(cli, "run", self.run)
        monkeypatch.setattr(RegistryClient, "manifest", lambda client, reference: None)

    def run(self, arguments: Sequence[str], **how: Any) -> subprocess.CompletedProcess[str]:
        argv = list(arguments)
        if argv[:2] == ["image", "inspect"]:
            return subprocess.CompletedProcess(argv, 125, "", "Error: no such image")
        self.asked.append(argv)
        if self.code is None:
            raise cli.PodmanError(f"'podman manifest' gave no answer within {how['timeout']:g} s.", 124)
        return subprocess.CompletedProcess(argv, self.code, "", self.err)

    def check(self, **request: Any) -> ImageManager:
        manager = ImageManager(ImageRequest("r:5000/a:1", **request), check_mode=True)
        assert manager.ensure() == (True, None, "would be pulled")
        return manager


@pytest.mark.parametrize(("code", "err"), [(0, ""), (125, SINGLE)])
def test_an_image_that_the_registry_has_would_be_pulled(monkeypatch: pytest.MonkeyPatch, code: int, err: str) -> None:
    host = Host(monkeypatch, code, err)
    assert host.check().note == ""
    assert host.asked == [["manifest", "inspect", "r:5000/a:1"]]


@pytest.mark.parametrize("err", [UNKNOWN, SHORT])
def test_an_image_that_no_registry_has_is_refused_in_check_mode(monkeypatch: pytest.MonkeyPatch, err: str) -> None:
    with pytest.raises(FleetError, match=r"^No registry has the image 'r:5000/a:1'; check its name and tag"):
        Host(monkeypatch, 125, err).check()


@pytest.mark.parametrize(
    ("code", "err", "why"),
    [
        (125, NO_ROUTE, "no route to host"),
        (125, PRIVATE, "is denied"),
        (125, OLD, "unknown flag"),
        (None, "", "within 30 s"),
    ],
)
def test_a_registry_that_cannot_be_asked_is_a_note(
    monkeypatch: pytest.MonkeyPatch, code: int | None, err: str, why: str
) -> None:
    note = Host(monkeypatch, code, err).check().note
    assert note.startswith("Whether a registry has the image 'r:5000/a:1' is not known") and why in note


def test_the_registry_is_asked_as_the_pull_will_ask_it(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, 0, "")
    host.check(tls_verify=False, authfile="/root/auth.json")
    assert host.asked[0][2:] == ["--tls-verify=false", "--authfile", "/root/auth.json", "r:5000/a:1"]


def test_an_image_that_is_not_pulled_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, 125, UNKNOWN)
    manager = ImageManager(ImageRequest("r:5000/a:1", source="archive", archive="/a.tar"), check_mode=True)
    assert manager.ensure() == (True, None, "would be loaded")
    assert host.asked == []
