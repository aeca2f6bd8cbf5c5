# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses that a user gives, or that a record of a host names: which are some, and what is in them."""

from __future__ import annotations

from typing import Optional
from urllib.parse import SplitResult, urlsplit

from .errors import UNSHOWN, FleetError
from .names import show

SCHEMES = ("https", "http")


def parts_of(address: object) -> Optional[SplitResult]:
    """Its parts; None where it is no http or https address of a host."""
    text = str(address or "")
    try:
        parts = urlsplit(text)
        port = parts.port  # urlsplit itself does not look at it
    except ValueError:
        return None
    known = parts.scheme in SCHEMES and parts.hostname and port != 0 and not UNSHOWN.search(text) and " " not in text
    return parts if known else None


def check_url(address: object, what: str) -> SplitResult:
    """Its parts, or a FleetError that calls it *what*."""
    parts = parts_of(address)
    if parts is None:
        raise FleetError(f"{what} is {show(str(address))}; give an address that begins with https:// or http://.")
    return parts
