# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes in bytes, and how a sentence gives them."""

from __future__ import annotations

MIB = 1 << 20
GIB = 1 << 30
MB = 1_000_000  # of rates, as networks count


def gib(size: float) -> str:
    """Bytes for a sentence: ``26.0 GiB``, or MiB below one."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"
