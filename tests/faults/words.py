# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run that is struck says, by the name of the row: a regular expression over its output with single blanks."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "podman: another file sets a runtime that is not there, before the run": 'default OCI runtime "runc" not found',
    "podman: settings unreadable: no TOML, before the run": "does not answer: Failed to obtain podman configuration",
    "podman: podman removed behind its package's back, before the run": "has no command podman, though its packages",
    "podman: podman hangs, before the run": "podman gave no answer within",
    "image: registry cuts each connection at its begin, in the pull": "podman cannot pull .*EOF",
    "checkpoint: module killed, while it takes what is sent": "the module was killed on the host",
    "tokenizer: module killed, while it is installed": "the module was killed on the host",
    "image: registry lies about bytes, in each pull": "Digest did not match, expected",
    "checkpoint: host lost, while it is sent": "Failed to connect to the host via ssh",
    "engine: container killed, in the middle of a build": "exit code 137.; the next run starts it",
    "engine: disk read-only, before the run": "/srv/scratch/engines: Read-only file system",
    "tokenizer: inodes gone, before the run": "No space left on device; make room there",
    "verify: replica stopped, before the run": "did not answer get_server_metadata",
    "verify: replica hangs, before the run": "does not answer as expected",
}
