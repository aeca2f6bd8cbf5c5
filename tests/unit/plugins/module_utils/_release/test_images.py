# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image is built from, against what upstream's own Dockerfiles and documents say at each tag."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.filter.images import image_source
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.images import source_of
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
