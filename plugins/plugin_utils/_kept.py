# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small files that the controller hands from one host to others, each kept by its sha256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fingerprint import file_sha256
from ansible_collections.trtllm.fleet.plugins.module_utils._base.files import write_atomically
from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir


class Kept:
    """What this user's runs have fetched so far."""

    def __init__(self) -> None:
        self.directory = cache_dir() / "tokenizers"

    def path(self, sha256: str) -> Path:
        """Where the file with this content is, or will be."""
        return self.directory / sha256

    def has(self, sha256: str) -> bool:
        """Whether it is there, and still what it was."""
        return self.path(sha256).is_file() and file_sha256(self.path(sha256)) == sha256

    def put(self, sha256: str, content: bytes) -> bool:
        """Keep *content*; False where it is not what it should be."""
        if hashlib.sha256(content).hexdigest() != sha256:
            return False
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path(sha256), content)
        return True
