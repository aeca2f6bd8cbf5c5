# SPDX-License-Identifier: GPL-3.0-or-later
"""What every test of the gateway needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _close_gateways() -> Iterator[None]:
    """End the gateways that a test made."""
    yield
    from openai_gateway_fakes import OPEN

    while OPEN:
        OPEN.pop().close()
