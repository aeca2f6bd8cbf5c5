# SPDX-License-Identifier: GPL-3.0-or-later
"""Images on a host: what podman is asked, and what a unit is told afterwards."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.labels import INPUTS
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import cli
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.image import (
    ImageManager,
    ImageRequest,
    inspect,
    repository,
)

NAME = "reg:5000/triton:1"


class Podman:
    """A podman whose images are a dictionary."""

    def __init__(self, **images: dict[str, Any]) -> None:
        self.images = {name.replace("__", NAME): image for name, image in images.items()}
        self.after: dict[str, Any] | None = None
        self.failure: str | None = None
        self.unreadable = "image not known"
        self.calls: list[list[str]] = []
        self.built: list[str] = []  # the Containerfiles, which may be gone later

    def run(self, arguments: Sequence[str], *, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        argv = list(arguments)
        self.calls.append(argv)
        if argv[:2] == ["image", "inspect"]:
            image = self.images.get(argv[-1])
            if image is None:
                return subprocess.CompletedProcess(argv, 125, "", f"Error: {self.unreadable}")
            return subprocess.CompletedProcess(argv, 0, json.dumps([image]), "")
        if self.failure:
            return subprocess.CompletedProcess(argv, 125, "", f"noise\nError: {self.failure}\n")
        if argv[0] == "build":
            self.built.append(Path(argv[argv.index("--file") + 1]).read_text())
        if self.after:
            self.images[NAME] = self.after
        return subprocess.CompletedProcess(argv, 0, "", "")


Host = Callable[..., Podman]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    def install(**images: dict[str, Any]) -> Podman:
        made = Podman(**images)
        monkeypatch.setattr(cli, "run", made.run)
        return made

    return install


def image(
    identity: str = "a" * 64, digests: list[str] | None = None, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    return {"Id": identity, "RepoDigests": digests or [], "Labels": labels, "Size": 7}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reg:5000/a/b:1", "reg:5000/a/b"),
        ("reg:5000/a/b@sha256:x", "reg:5000/a/b"),
        ("localhost/x:1@sha256:y", "localhost/x"),
        ("x", "x"),
    ],
)
def test_a_repository_is_a_name_without_tag_and_digest(name: str, expected: str) -> None:
    assert repository(name) == expected


def test_a_unit_names_the_image_by_digest(host: Host) -> None:
    host(__=image(digests=["other/triton@sha256:1", "reg:5000/triton@sha256:2"]))
    found = inspect(NAME)
    assert found
    assert found.facts() == {"id": "sha256:" + "a" * 64, "reference": "reg:5000/triton@sha256:2", "size": 7}


def test_an_image_from_no_registry_is_named_by_its_id(host: Host) -> None:
    host(__=image())
    found = inspect(NAME)
    assert found
    assert found.reference == found.id == "sha256:" + "a" * 64


def test_an_image_that_is_there_costs_one_call_and_is_never_updated(host: Host) -> None:
    podman = host(__=image())
    assert ImageManager(ImageRequest(NAME)).ensure()[0] is False
    assert len(podman.calls) == 1


def test_pull(host: Host) -> None:
    podman = host()
    podman.after = image()
    changed, found, _ = ImageManager(ImageRequest(NAME, tls_verify=False, authfile="/root/auth.json")).ensure()
    assert changed and found
    pull = next(call for call in podman.calls if call[0] == "pull")
    assert "--tls-verify=false" in pull and "/root/auth.json" in pull


def test_check_mode_pulls_nothing(host: Host) -> None:
    podman = host()
    changed, found, _ = ImageManager(ImageRequest(NAME), check_mode=True).ensure()
    assert changed and found is None
    assert not any("pull" in call for call in podman.calls)


def test_pull_always_changes_only_when_the_registry_has_another(host: Host) -> None:
    podman = host(__=image())
    podman.after = image()
    assert ImageManager(ImageRequest(NAME, pull="always")).ensure()[0] is False
    podman.after = image("b" * 64)
    assert ImageManager(ImageRequest(NAME, pull="always")).ensure()[0] is True


def test_a_failed_pull_says_podmans_own_words(host: Host) -> None:
    podman = host()
    podman.failure = "connection refused"
    with pytest.raises(
        FleetError, match=r"cannot pull 'reg:5000/triton:1' \(exit code 125\): Error: connection refused"
    ):
        ImageManager(ImageRequest(NAME)).ensure()


def test_present_refuses_an_image_that_is_not_there(host: Host) -> None:
    host()
    with pytest.raises(FleetError, match="source is 'present'"):
        ImageManager(ImageRequest(NAME, source="present")).ensure()


def test_an_archive_without_the_image_is_refused(host: Host, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.touch()
    host()
    with pytest.raises(FleetError, match="holds no image called"):
        ImageManager(ImageRequest(NAME, source="archive", archive=str(archive))).ensure()
    host()
    with pytest.raises(FleetError, match="no image archive"):
        ImageManager(ImageRequest(NAME, source="archive", archive=str(tmp_path / "b"))).ensure()


def test_a_build_is_repeated_only_when_its_inputs_differ(host: Host, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text("FROM scratch\n")
    request = ImageRequest(NAME, source="build", context=str(tmp_path), build_args={"B": "2", "A": "1"})
    podman = host()
    podman.after = image()
    assert ImageManager(request).ensure()[0] is True
    build = next(call for call in podman.calls if call[0] == "build")
    label = build[build.index("--label") + 1]
    assert label.startswith(f"{INPUTS}=")
    assert [build[i + 1] for i, word in enumerate(build) if word == "--build-arg"] == ["A=1", "B=2"]

    podman = host(__=image(labels={INPUTS: label.split("=", 1)[1]}))
    assert ImageManager(request).ensure()[0] is False
    (tmp_path / "Containerfile").write_text("FROM scratch\nENV X=1\n")
    assert ImageManager(request, check_mode=True).ensure()[0] is True


def test_files_are_built_from_without_being_left_on_the_host(host: Host, tmp_path: Path) -> None:
    files = {"Containerfile": "FROM x", "app/a.py": "print(1)"}
    request = ImageRequest(NAME, source="build", context_files=files)
    podman = host()
    podman.after = image()
    assert ImageManager(request).ensure()[0]
    build = next(call for call in podman.calls if call[0] == "build")
    assert not Path(build[-1]).exists()
    label = build[build.index("--label") + 1].partition("=")[2]
    podman.images[NAME] = image(labels={INPUTS: label})
    assert ImageManager(request).ensure()[0] is False, "the same texts are the same inputs"
    other = ImageRequest(NAME, source="build", context_files={**files, "app/a.py": "print(2)"})
    assert ImageManager(other).ensure()[0] is True
    for name in ("../x", "/x", ""):
        with pytest.raises(FleetError, match="it takes paths below the context"):
            ImageManager(ImageRequest(NAME, source="build", context_files={name: ""})).ensure()


def test_a_build_without_a_containerfile_is_refused(host: Host, tmp_path: Path) -> None:
    host()
    with pytest.raises(FleetError, match=r"There is no .*Containerfile"):
        ImageManager(ImageRequest(NAME, source="build", context=str(tmp_path))).ensure()


def test_of_the_containerfile_nothing_but_its_content_counts(host: Host, tmp_path: Path) -> None:
    """It may stand anywhere, and so beside anything."""
    context, elsewhere = tmp_path / "context", tmp_path / "elsewhere"
    for directory in (context, elsewhere):
        directory.mkdir()
    (context / "app.py").touch()
    (elsewhere / "Containerfile").write_text("FROM scratch\n")
    (elsewhere / "gone").symlink_to("nowhere")  # what is not asked for may be in any state
    containerfile = str(elsewhere / "Containerfile")
    request = ImageRequest(NAME, source="build", context=str(context), containerfile=containerfile)
    host().after = image()
    assert ImageManager(request).ensure()[0] is True


def test_a_build_can_stand_on_other_base_images(host: Host, tmp_path: Path) -> None:
    text = "FROM --platform=linux/amd64 rust:1.74 as chef\nRUN true # FROM rust:1.74\nfrom debian:12\nFROM chef\n"
    (tmp_path / "Dockerfile").write_text(text)
    given: Any = {"source": "build", "context": str(tmp_path), "containerfile": str(tmp_path / "Dockerfile")}
    plain = ImageRequest(NAME, **given)
    rebased = ImageRequest(NAME, **given, base_images={"rust:1.74": "reg/rust:9", "debian:12": "reg/debian:12"})
    built = []
    for request in (plain, rebased):
        podman = host()
        podman.after = image()
        assert ImageManager(request).ensure()[0] is True
        built += podman.built
    assert built[0] == text
    assert built[1] == text.replace(" rust:1.74 as", " reg/rust:9 as").replace("from debian", "from reg/debian")
    assert (tmp_path / "Dockerfile").read_text() == text
    host()
    with pytest.raises(
        FleetError, match=r"base_images has 'rust:1', but .* is not built on it, only on chef, debian:12"
    ):
        ImageManager(ImageRequest(NAME, **given, base_images={"rust:1": "x"})).ensure()


def test_an_image_that_cannot_be_read_is_not_taken_for_a_missing_one(host: Host) -> None:
    host().unreadable = "mounting storage: no space left on device"
    with pytest.raises(FleetError, match="cannot read the image 'reg:5000/triton:1': Error: mounting storage"):
        inspect(NAME)
