# SPDX-License-Identifier: GPL-3.0-or-later
"""Versions are compared by their numbers, whatever a distribution or upstream appends."""

from __future__ import annotations

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.versions import version_in, version_key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("0.17.0.post1", (0, 17, 0)),
        ("4.9.3-dev", (4, 9, 3)),
        (" 580.95.05\n", (580, 95, 5)),
        ("580", (580,)),
        ("1.3.0rc2", (1, 3, 0)),
        ("v1.2", ()),
        ("", ()),
    ],
)
def test_the_leading_numbers_count(text: str, key: tuple[int, ...]) -> None:
    assert version_key(text) == key


@pytest.mark.parametrize(
    ("text", "key"), [("podman version 5.4.2", (5, 4, 2)), ("4.4-rhel", (4, 4)), ("podman 5", ()), ("", ())]
)
def test_a_version_within_words(text: str, key: tuple[int, ...]) -> None:
    assert version_in(text) == key
