# SPDX-License-Identifier: GPL-3.0-or-later
"""The release table: one row per TensorRT-LLM version, upstream's aliases, refusals that help."""

from __future__ import annotations

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import (
    ALIASES,
    RELEASES,
    release,
    same_release,
    version_key,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from contract.facts import release_images


def test_a_release_carries_what_hangs_on_it() -> None:
    late = release("1.2.0")
    assert late.image == "nvcr.io/nvidia/tritonserver:26.03-trtllm-python-py3"
    assert (late.flow, late.template_schema, late.min_driver) == ("convert+build", "v1.x", 580)
    assert release("0.7.2") is release("v0.7.1")
    assert release("0.7.2").backend_tag == "v0.7.2"
    assert (release("0.7.1").flow, release("0.8.0").flow, release("1.3.0").flow) == (
        "build.py",
        "convert+build",
        "llmapi",
    )
    assert release("1.3.0").image is None


@pytest.mark.parametrize(
    ("given", "nearest"), [("1.2.99", LAST), ("0.10", "0.10.0"), ("0.20.1", "0.20.0"), ("0.1", "0.7.1")]
)
def test_an_unknown_release_names_the_nearest_and_the_range(given: str, nearest: str) -> None:
    with pytest.raises(FleetError) as refused:
        release(given)
    assert f"'{given}' is not known; the nearest is '{nearest}'" in str(refused.value)
    assert "0.7.1 to 1.3.0" in str(refused.value)


def test_gpus_come_and_go_with_releases() -> None:
    assert release("0.14.0").compute_capabilities == ["7.0", "8.0", "8.6", "8.9", "9.0"]
    assert release("0.16.0").compute_capabilities == ["8.0", "8.6", "8.9", "9.0"]
    assert release("1.0.0").compute_capabilities == ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0", "12.1"]
    assert "10.3" in release("1.1.0").compute_capabilities


@pytest.mark.parametrize(
    ("wanted", "reported", "same"),
    [(LAST, LAST, True), ("0.17.0", "0.17.0.post1", True), ("1.0.3", "1.0.3.2510", True),
     (LAST, "1.2.0", False), ("1.2.0", "1.2.0rc3", False), ("0.7.2", "0.7.1", True)],
)  # fmt: skip
def test_the_version_read_from_an_image_is_compared_by_its_release(wanted: str, reported: str, same: bool) -> None:
    assert same_release(release(wanted), reported) is same


def test_rows_are_in_order_and_aliases_lead_to_rows() -> None:
    assert list(RELEASES) == sorted(RELEASES, key=version_key)
    assert all(name in RELEASES for name in ALIASES.values())


def test_rows_agree_with_the_recorded_images() -> None:
    rows = [row for row in release_images() if ALIASES.get(row["trtllm"], row["trtllm"]) in RELEASES]
    assert len(rows) > 25
    for row in rows:
        entry = release(row["trtllm"])
        assert row["tag"] in entry.image_tags
        assert entry.builds_in_image is row.get("python_package_in_image", True)
        if "min_driver" in row:
            assert entry.min_driver == int(row["min_driver"])
        if row["tag"] == entry.image_tag:
            for fact, ours in (("tensorrt", entry.tensorrt), ("cuda", entry.cuda)):
                assert row.get(fact, ours) == ours
