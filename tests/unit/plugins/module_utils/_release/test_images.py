# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image is built from, against what upstream's own Dockerfiles and documents say at each tag."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.filter.images import image_server, image_source
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.images import server_build, source_of
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import FLOW_LLMAPI, RELEASES

ENGINES = [row.version for row in RELEASES.values() if row.flow != FLOW_LLMAPI]


@pytest.mark.parametrize("version", ENGINES)
def test_every_release_with_engines_has_one_source(version: str) -> None:
    found = source_of(version, "x86_64")
    backend = RELEASES[version].key < (0, 20)
    assert ("tensorrtllm_backend" in found.repository) == backend
    assert found.containerfile.startswith("dockerfile/" if backend else "docker/")
    assert re.fullmatch(r"v\d+\.\d+\.\d+", found.version)
    assert bool(found.base_image) == backend
    assert found.target == (None if backend else "tritonrelease")


@pytest.mark.parametrize(
    ("version", "tag", "base"),
    [
        ("0.7.2", "v0.7.2", "23.10"), ("0.8.0", "v0.8.0", "23.12"), ("0.9.0", "v0.9.0", "24.02"),
        ("0.10.0", "v0.10.0", "24.03"), ("0.11.0", "v0.11.0", "24.05"), ("0.12.0", "v0.12.0", "24.07"),
        ("0.14.0", "v0.14.0", "24.07"), ("0.15.0", "v0.15.0", "24.10"), ("0.16.0", "v0.16.0", "24.11"),
        ("0.17.0", "v0.17.0", "25.01"), ("0.18.0", "v0.18.0", "25.02"), ("0.18.1", "v0.18.1", "25.03"),
        ("0.19.0", "v0.19.0", "25.03"),
    ],
)  # fmt: skip
def test_the_backends_tags_are_built_on_what_their_dockerfile_names(version: str, tag: str, base: str) -> None:
    found = source_of(version, "x86_64")
    assert (found.version, found.base_image) == (tag, f"nvcr.io/nvidia/tritonserver:{base}-py3")
    assert found.build_args == {}


@pytest.mark.parametrize(
    ("version", "machine", "arguments"),
    [
        ("0.8.0", "aarch64", {"TORCH_INSTALL_TYPE": "src_non_cxx11_abi"}),
        # From 0.17 on torch comes out of NVIDIA's PyTorch image, and the Dockerfile itself says "skip".
        ("0.19.0", "aarch64", {}),
        ("0.20.0", "x86_64", {"DEVEL_IMAGE": "tritondevel", "TRT_LLM_VER": "0.20.0"}),
    ],
)
def test_arguments_are_upstreams(version: str, machine: str, arguments: dict[str, str]) -> None:
    assert source_of(version, machine).build_args == arguments


def test_a_release_without_engines_is_refused() -> None:
    with pytest.raises(FleetError, match="has no engines any more"):
        source_of("1.3.0", "x86_64")


def test_the_fingerprint_tells_what_would_make_another_image() -> None:
    plain = image_source("0.8.0", "x86_64")
    given: list[dict[str, Any]] = [{"repository": "http://x"}, {"version": "abc"}, {"build_args": {"BASE_TAG": "1"}}]
    prints = {image_source("0.8.0", "x86_64", one)["inputs"] for one in given}
    prints |= {plain["inputs"], image_source("0.8.0", "aarch64")["inputs"], image_source("0.9.0", "x86_64")["inputs"]}
    assert len(prints) == 6
    assert image_source("0.8.0", "x86_64", {"mirrors": {"a": "b"}, "version": None})["inputs"] == plain["inputs"]


# Option -> what each branch of the server's build.py knows.
RECORDED = Path(__file__).resolve().parents[5] / "tests" / "contract" / "data" / "server_build_options.json"
BY_SERVER = [
    "0.7.2",
    "0.10.0",
    "0.11.0",
    *(v for v in ENGINES if (0, 12) <= RELEASES[v].key < (0, 20) and v != "0.18.1"),
]


@pytest.mark.parametrize("version", BY_SERVER)
def test_build_py_is_told_nothing_that_its_branch_does_not_know(version: str) -> None:
    recorded = json.loads(RECORDED.read_text())
    found = server_build(version, "r/base:1", organization="http://git.example.com/triton")
    known = {*recorded["all"], *recorded["more"][found.version]}
    assert {option.partition("=")[0] for option in found.options} <= known
    assert f"--backend=python:{found.version}" in found.options
    assert f"--image=base,{found.base}" in found.options
    assert found.options[-1] == "--github-organization=http://git.example.com/triton"


@pytest.mark.parametrize(
    ("version", "server", "backend", "base"),
    [
        ("0.7.2", "r24.01", "v0.7.2", "nvcr.io/nvidia/tritonserver:24.01-py3-min"),
        ("0.10.0", "r24.06", "v0.10.0", "nvcr.io/nvidia/pytorch:24.03-py3"),
        ("0.11.0", "r24.07", "v0.11.0", "nvcr.io/nvidia/tritonserver:24.05-py3-min"),
        ("0.12.0", "r24.08", "v0.12.0", None),
        ("0.17.0", "r25.01", "v0.17.0", None),
        ("0.19.0", "r25.05", "v0.19.0", None),
    ],
)
def test_servers_branches_and_addresses(version: str, server: str, backend: str, base: str | None) -> None:
    found = server_build(version, "r/base:1")
    assert (found.version, found.build_args.get("BASE_IMAGE")) == (server, base)
    assert f"--backend=tensorrtllm:{backend}" in found.options
    assert ("--cache=redis" in found.options) == (RELEASES.get(version, RELEASES["0.7.1"]).key >= (0, 14))
    addresses = [value for name, value in found.build_args.items() if name.startswith("RELEASE_URL")]
    assert len(addresses) == (2 if base else 0)
    assert all(found.build_args["TRT_VER"] in address for address in addresses)


@pytest.mark.parametrize("version", ["0.8.0", "0.9.0", "0.18.1", "0.20.0", "1.0.0"])
def test_what_the_server_cannot_build_is_refused(version: str) -> None:
    with pytest.raises(FleetError, match=rf"TensorRT-LLM {version} cannot be built by Triton's server \(.+\); take"):
        server_build(version, "r/base:1")


def test_every_release_is_built_by_the_server_or_refused() -> None:
    refused = []
    for version in ENGINES:
        try:
            server_build(version, "r/base:1")
        except FleetError:
            refused.append(version)
    assert [v for v in ENGINES if v not in refused] == ["0.7.1", *BY_SERVER[1:]]


def test_a_mirror_is_the_organization_that_build_py_clones_from() -> None:
    plain = image_server("0.7.2", "x86_64")
    mirrored = image_server("0.7.2", "x86_64", {"mirrors": {"https://github.com/": "http://git/"}})
    assert mirrored["options"][-1] == "--github-organization=http://git/triton-inference-server"
    other = {"version": "abc", "build_args": {"TRT_VER": "1"}, "containerfile": "D", "repository": "http://x/b.git"}
    given = image_server("0.7.2", "x86_64", other)
    assert given["build_args"]["TRT_VER"] == "1" and given["build_args"]["BASE_IMAGE"].endswith("24.01-py3-min")
    assert "--backend=tensorrtllm:abc" in given["options"]
    assert (given["version"], given["containerfile"], given["repository"]) == ("abc", "D", "http://x/b.git")
    assert len({found["inputs"] for found in (plain, mirrored, given, image_server("0.7.2", "aarch64"))}) == 4
