# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Versions as tuples of numbers, for comparing."""

from __future__ import annotations

import re

_NUMBERS = r"\d+(?:\.\d+)*"


def version_key(text: str) -> tuple[int, ...]:
    """The numbers that *text* begins with: ``0.17.0.post1`` -> ``(0, 17, 0)``, ``4.9.3-dev`` -> ``(4, 9, 3)``.

    The empty tuple, which is less than any other, where it begins with none.
    """
    match = re.match(_NUMBERS, text.strip())
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def version_in(text: str) -> tuple[int, ...]:
    """The first dotted version in *text*, as in ``podman version 5.4.2``; the empty tuple where there is none."""
    match = re.search(r"\d+(?:\.\d+)+", text)
    return version_key(match.group()) if match else ()
