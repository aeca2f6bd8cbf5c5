# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory of the controller in which this project keeps what is expensive to make again.

Needs Python's own library only: the tools of the checkout use it too, also where there is no Ansible.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """``$TRTLLM_FLEET_CACHE``, else ``trtllm-fleet`` in the user's cache directory; tools/setup has the same rule."""
    if environment.get("TRTLLM_FLEET_CACHE"):
        return Path(environment["TRTLLM_FLEET_CACHE"])
    home = environment.get("HOME") or Path.home()
    return Path(environment.get("XDG_CACHE_HOME") or Path(home, ".cache")) / "trtllm-fleet"
