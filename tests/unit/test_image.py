# SPDX-License-Identifier: GPL-3.0-or-later
"""Images on a host: what podman is asked, and what a unit is told afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._image import (
    LABEL,
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
        self.calls: list[list[str]] = []

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        self.calls.append(argv)
        if argv[1:3] == ["image", "inspect"]:
            image = self.images.get(argv[3])
            return (0, json.dumps([image]), "") if image else (125, "", f"Error: {argv[3]}: image not known")
        if self.failure:
            return 125, "", f"noise\nError: {self.failure}\n"
        if self.after:
            self.images[NAME] = self.after
        return 0, "", ""


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


def test_a_unit_names_the_image_by_digest() -> None:
    podman = Podman(__=image(digests=["other/triton@sha256:1", "reg:5000/triton@sha256:2"]))
    found = inspect(podman, NAME)
    assert found
    assert found.facts() == {"id": "sha256:" + "a" * 64, "reference": "reg:5000/triton@sha256:2", "size": 7}


def test_an_image_from_no_registry_is_named_by_its_id() -> None:
    found = inspect(Podman(__=image()), NAME)
    assert found
    assert found.reference == found.id == "sha256:" + "a" * 64


def test_an_image_that_is_there_costs_one_call_and_is_never_updated() -> None:
    podman = Podman(__=image())
    assert ImageManager(ImageRequest(NAME), podman).ensure()[0] is False
    assert len(podman.calls) == 1


def test_pull() -> None:
    podman = Podman()
    podman.after = image()
    changed, found, _ = ImageManager(ImageRequest(NAME, tls_verify=False, authfile="/root/auth.json"), podman).ensure()
    assert changed and found
    pull = next(call for call in podman.calls if call[1] == "pull")
    assert "--tls-verify=false" in pull and "/root/auth.json" in pull


def test_check_mode_pulls_nothing() -> None:
    podman = Podman()
    changed, found, _ = ImageManager(ImageRequest(NAME), podman, check_mode=True).ensure()
    assert changed and found is None
    assert not any("pull" in call for call in podman.calls)


def test_pull_always_changes_only_when_the_registry_has_another() -> None:
    podman = Podman(__=image())
    podman.after = image()
    assert ImageManager(ImageRequest(NAME, pull="always"), podman).ensure()[0] is False
    podman.after = image("b" * 64)
    assert ImageManager(ImageRequest(NAME, pull="always"), podman).ensure()[0] is True


def test_a_failed_pull_says_podmans_own_words() -> None:
    podman = Podman()
    podman.failure = "connection refused"
    with pytest.raises(
        FleetError, match=r"cannot pull 'reg:5000/triton:1' \(exit code 125\): Error: connection refused"
    ):
        ImageManager(ImageRequest(NAME), podman).ensure()


def test_present_refuses_an_image_that_is_not_there() -> None:
    with pytest.raises(FleetError, match="source is 'present'"):
        ImageManager(ImageRequest(NAME, source="present"), Podman()).ensure()


def test_an_archive_without_the_image_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.touch()
    with pytest.raises(FleetError, match="holds no image called"):
        ImageManager(ImageRequest(NAME, source="archive", archive=str(archive)), Podman()).ensure()
    with pytest.raises(FleetError, match="no image archive"):
        ImageManager(ImageRequest(NAME, source="archive", archive=str(tmp_path / "b")), Podman()).ensure()


def test_a_build_is_repeated_only_when_its_inputs_differ(tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text("FROM scratch\n")
    request = ImageRequest(NAME, source="build", context=str(tmp_path), build_args={"B": "2", "A": "1"})
    podman = Podman()
    podman.after = image()
    assert ImageManager(request, podman).ensure()[0] is True
    build = next(call for call in podman.calls if call[1] == "build")
    label = build[build.index("--label") + 1]
    assert label.startswith(f"{LABEL}=")
    assert [build[i + 1] for i, word in enumerate(build) if word == "--build-arg"] == ["A=1", "B=2"]

    podman = Podman(__=image(labels={LABEL: label.split("=", 1)[1]}))
    assert ImageManager(request, podman).ensure()[0] is False
    (tmp_path / "Containerfile").write_text("FROM scratch\nENV X=1\n")
    assert ImageManager(request, podman, check_mode=True).ensure()[0] is True


def test_a_build_without_a_containerfile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"There is no .*Containerfile"):
        ImageManager(ImageRequest(NAME, source="build", context=str(tmp_path)), Podman()).ensure()
