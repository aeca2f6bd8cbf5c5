# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error that `testbed` reports."""

from __future__ import annotations


class TestbedError(Exception):
    """One sentence: what was found, what was expected, what to do."""

    __test__ = False  # a name that pytest would collect
