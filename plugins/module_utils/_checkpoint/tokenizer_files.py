# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The few files of a checkpoint that a gateway reads, for hosts that have no use for its weights."""

from __future__ import annotations

from pathlib import Path

from .._artifact.fingerprint import file_sha256, fingerprint
from .._base.errors import FleetError
from .._base.names import check_path
from .store import CheckpointStore, Files

REQUIRED = "tokenizer.json"
# Everything that decides how text becomes tokens and a chat becomes text, and where a generation ends.
NAMES = (
    REQUIRED, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "config.json", "generation_config.json",
)  # fmt: skip


def tokenizer_files(directory: Path) -> dict[str, str]:
    """The sha256 of each such file of the checkpoint in *directory*; raises `FleetError` where it has no tokenizer."""
    found = {name: file_sha256(directory / name) for name in NAMES if (directory / name).is_file()}
    if REQUIRED not in found:
        raise FleetError(
            f"{directory} has no {REQUIRED}, which gateways need to count tokens; save the tokenizer with its fast "
            "implementation, or set trtllm_gateway to false."
        )
    return found


def digest_of(files: Files) -> str:
    """One digest of all of them."""
    return fingerprint(dict(files))


def short(digest: str) -> str:
    """What the directory of a tokenizer is called."""
    return digest[:16]


def tokenizer_store(root: str, model: str) -> CheckpointStore:
    """The tokenizers of *model* on a host without the checkpoint, each named by its content: none replaces another."""
    base = CheckpointStore(Path(check_path(root, "root")) / "tokenizers")
    return CheckpointStore(base.path(model))
