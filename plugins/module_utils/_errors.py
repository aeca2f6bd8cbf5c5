# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error that users see: a sentence with what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FleetError(Exception):
    """A refusal that an operator can act on; modules turn it into C(fail_json(msg=...))."""


def nearest(given: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to *given*, or an empty string."""
    match = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""
