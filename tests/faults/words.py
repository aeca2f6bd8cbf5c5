# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run that is struck says, by the name of the row: a regular expression over its output with single blanks."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "podman: another file sets a runtime that is not there, before the run": 'default OCI runtime "runc" not found',
    "podman: settings unreadable: no TOML, before the run": "does not answer: Failed to obtain podman configuration",
    "podman: podman removed behind its package's back, before the run": "has no command podman, though its packages",
    "podman: podman hangs, before the run": "podman gave no answer within",
    "podman: runtime gone, before the run": 'default OCI runtime "crun" not found',
    "podman: storage damaged: its list of images cut short, before the run": "does not answer: .*images.json",
    "podman: module killed, while it gathers facts": "the module was killed on the host",
    "podman: host lost, while it gathers facts": "Make sure this host can be reached over ssh",
    "image: registry cuts each connection at its begin, in the pull": "podman cannot pull .*EOF",
    "checkpoint: module killed, while it takes what is sent": "the module was killed on the host",
    "tokenizer: module killed, while it is installed": "the module was killed on the host",
    "engine: module killed, while it waits for a build": "the module was killed on the host",
    "model_repository: module killed, while it renders": "the module was killed on the host",
    "triton: clock a day ahead, before the run": "changed=0",
    "triton: clock a day behind, before the run": "changed=0",
    "image: registry lies about bytes, in each pull": "Digest did not match, expected",
    "image: module killed, in the middle of the pull": "the module was killed on the host",
    "image: host rebooted, in the middle of the pull": "Make sure this host can be reached over ssh",
    "checkpoint: host lost, while it is sent": "Failed to connect to the host via ssh",
    "engine: container killed, in the middle of a build": "exit code 137.; the next run starts it",
    "engine: disk read-only, before the run": "/srv/scratch/engines: Read-only file system",
    "tokenizer: inodes gone, before the run": "No space left on device; make room there",
    "verify: replica stopped, before the run": "did not answer get_server_metadata",
    "verify: replica hangs, before the run": "does not answer as expected",
    "gpu_driver: module and dpkg killed, while apt installs": "the module was killed on the host",
    "tokenizer: disk full, before the run": "/srv/scratch/.*No space left on device; make room there",
    "image: what is known of images is a directory, before the run": "/.images.json: Is a directory",
}
