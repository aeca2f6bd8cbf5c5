# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a registry has an image, asked through podman without pulling it: for check mode, where nothing is pulled."""

from __future__ import annotations

import re
from typing import Optional

from .._base.errors import FleetError
from . import cli

SECONDS = 30
# What podman says of an image that the registry has and that is not one of several platforms.
SINGLE = r"parsing manifest blob|is not a manifest list"
# What it says where a pull is bound to fail. A registry that refuses to tell may only want a password.
MISSING = r"manifest unknown|name unknown|not known to registry|did not resolve to an alias|invalid reference format"


def check_registry(name: str, tls_verify: bool = True, authfile: Optional[str] = None) -> str:
    """Refuse an image that its registry does not have; return a note where it cannot be asked, else nothing."""
    arguments = ["manifest", "inspect"]
    arguments += [] if tls_verify else ["--tls-verify=false"]  # an option that older podmans have not
    arguments += ["--authfile", authfile] if authfile else []
    try:
        done = cli.run([*arguments, name], timeout=SECONDS)
    except cli.PodmanError as error:
        return f"Whether a registry has the image {name!r} is not known: {error}"
    if done.returncode == 0 or re.search(SINGLE, done.stderr):
        return ""
    said = cli.last_line(done.stderr) or "podman printed nothing"
    if re.search(MISSING, done.stderr, re.IGNORECASE):
        raise FleetError(
            f"No registry has the image {name!r}; check its name and tag, or push it first. podman: {said}"
        )
    return f"Whether a registry has the image {name!r} is not known: {said}"
