# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the testbed share."""

from __future__ import annotations

from pathlib import Path

import pytest
from testbed import settings


@pytest.fixture()
def config(tmp_path: Path) -> settings.Settings:
    """Settings with a cache of their own."""
    return settings.from_environment({"TRTLLM_FLEET_CACHE": str(tmp_path)})
