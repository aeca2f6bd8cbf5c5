# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception whose text is meant for a person."""

from __future__ import annotations


class TrtllmError(Exception):
    """A refusal: what was given, what was expected, what to do."""
