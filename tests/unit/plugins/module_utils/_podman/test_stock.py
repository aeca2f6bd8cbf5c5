# SPDX-License-Identifier: GPL-3.0-or-later
"""What podman tells of its images and containers, in the form of podman 4.3 and 5.4."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import cli, stock

A, B = "a" * 64, "b" * 64
LISTED = [
    {"Id": A, "ParentId": "", "RepoTags": None, "Names": ["r/a:1"], "RepoDigests": [f"r/a@sha256:{B}"], "Size": 5,
     "Created": 7},
    {"Id": A, "ParentId": "", "RepoTags": None, "Names": ["r/a:1", "r/a:2"], "RepoDigests": [f"r/a@sha256:{B}"],
     "Size": 5, "Created": 7},
    {"Id": B, "ParentId": A, "RepoTags": None, "RepoDigests": None, "Size": 6, "Created": 8},
]  # fmt: skip
CONTAINERS = [
    {"Id": "1", "Names": ["one"], "ImageID": A, "State": "running"},
    {"Id": "2", "Names": ["two"], "ImageID": B, "State": "exited"},
]
INSPECTED = [{"Id": "1", "Mounts": [{"Source": "/x/y", "Destination": "/z"}]}]


@pytest.fixture
def podman(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What podman answers, by its first two words; a number is an exit code."""
    answers: dict[str, Any] = {"images --all": LISTED, "ps --all": CONTAINERS, "container inspect": INSPECTED}
    asked: list[str] = []

    def run(arguments: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(" ".join(arguments))
        answer = answers.get(" ".join(arguments[:2]), 0)
        code = answer if isinstance(answer, int) else 0
        said = "" if isinstance(answer, int) else json.dumps(answer)
        return subprocess.CompletedProcess(list(arguments), code, said, "Error: image is in use\n" if code else "")

    monkeypatch.setattr(cli, "executable", lambda: "podman")
    monkeypatch.setattr(cli, "run", run)
    answers["asked"] = asked
    return answers


def test_images_have_ids_names_and_digests(podman: dict[str, Any]) -> None:
    first, second = stock.images()
    assert first == stock.Stored(f"sha256:{A}", ("r/a:1", "r/a:2"), (f"r/a@sha256:{B}",), 5, 7.0, "")
    assert first.keys == {f"sha256:{A}", f"sha256:{B}"}
    assert (second.names, second.digests, second.parent) == ((), (), f"sha256:{A}")


def test_containers_name_their_images_and_those_that_run_what_they_mount(podman: dict[str, Any]) -> None:
    assert stock.containers() == {"one": f"sha256:{A} /x/y", "two": f"sha256:{B} "}
    podman["ps --all"] = []
    assert stock.containers() == {}


def test_a_host_without_podman_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "executable", lambda: None)
    assert (stock.images(), stock.containers()) == ([], {})


def test_an_image_goes_by_its_names_and_never_by_force(podman: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[str] = []
    monkeypatch.setattr(cli, "image_id", lambda reference: left[0] if left else None)
    first, second = stock.images()
    assert (stock.remove(first), stock.remove(second)) == ("", "")
    assert podman["asked"][-2:] == ["image rm r/a:1 r/a:2", f"image rm sha256:{B}"]
    left.append(first.id)
    assert stock.remove(first) == "podman keeps it: another image is built on it"
    podman["image rm"] = 2
    assert stock.remove(first) == "podman keeps it: Error: image is in use"
