# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error that `bed` reports."""

from __future__ import annotations


class BedError(Exception):
    """One sentence: what was found, what was expected, what to do."""
