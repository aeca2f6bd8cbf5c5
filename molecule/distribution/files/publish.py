# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish random bytes as if they were an engine: publish.py FINGERPRINT MEBIBYTES."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.artifact_store import ArtifactStore

fingerprint, size = sys.argv[1:]
store = ArtifactStore(Path("/var/lib/trtllm/engines"))
with open(store.staging("big", fingerprint) / "rank0.engine", "wb") as stream:
    for _ in range(int(size)):
        stream.write(os.urandom(1 << 20))
store.publish("big", fingerprint, {})
