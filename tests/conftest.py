# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo_dir() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Where upstream's own template texts are (``templates/TAG/MODEL``), which are under its licence and so not here.

    Tests against them skip where they are absent. All that is recorded as data is in ``contract.facts``.
    """
    path = Path(os.environ.get("TRTLLM_SHARED", REPO.parent / "shared"))
    if not (path / "templates").is_dir():
        pytest.skip(f"upstream's template texts are not at {path}; set TRTLLM_SHARED to test against them")
    return path
