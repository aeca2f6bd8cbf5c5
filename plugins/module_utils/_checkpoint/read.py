# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files of a checkpoint count: those that a tool, a tokenizer or a server reads."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from pathlib import Path

from .._artifact.fingerprint import TreeDigest, tree_digest

# What stands beside weights and is read by no tool and no tokenizer: patterns of lower-case names, and why.
# Not here: *.json, *.txt, *.py, *.jinja, *.model, *.tiktoken and the like, which tokenizers and remote code read.
NOT_READ_FILES = {
    "*.md": "model cards and other documentation",
    "*.pdf": "licences and papers",
    "readme": "documentation",
    "readme.txt": "documentation",
    "license": "the licence",
    "license.txt": "the licence",
    "notice": "the licence",
    "notice.txt": "the licence",
    ".gitattributes": "how git stores files",
    ".gitignore": "what git leaves out",
    ".gitmodules": "where git finds more",
    ".ds_store": "how a file manager shows the directory",
    "._*": "what macOS keeps beside a file elsewhere",
    "thumbs.db": "how a file manager shows the directory",
    "desktop.ini": "how a file manager shows the directory",
    "*.lock": "held by a download while it runs",
    "*.incomplete": "an unfinished download of huggingface_hub",
    "*.aria2": "the state of a download by aria2",
    ".msc": "what modelscope has downloaded",
    ".mdl": "what modelscope has downloaded",
    ".mv": "what modelscope has downloaded",
}
NOT_READ_DIRECTORIES = {
    "._____temp": "unfinished downloads of modelscope",
    ".locks": "locks of huggingface_hub",
    "__pycache__": "Python's compiled code, made anew from what it stands beside",
    ".ipynb_checkpoints": "copies that a notebook keeps",
}


def is_read(path: str) -> bool:
    """Whether a tool or a tokenizer reads the file at the relative *path*."""
    *directories, name = path.split("/")
    if not NOT_READ_DIRECTORIES.keys().isdisjoint(directories):
        return False
    return not any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in NOT_READ_FILES)


def index_of(root: Path, tree: Path) -> Path:
    """Where the digests of *tree* are kept: beside a checkpoint of ours, else below *root*."""
    if tree.parent == Path(os.path.realpath(root / "checkpoints")):
        return tree.with_name(f"{tree.name}.digests.json")
    name = hashlib.sha256(str(tree).encode()).hexdigest()[:32]
    return root / "engines" / ".digests" / f"{name}.json"


def checkpoint_tree(root: Path, checkpoint: Path, verify: str, write_index: bool) -> TreeDigest:
    """The files of the checkpoint that are read."""
    tree = tree_digest(checkpoint, index_of(root, checkpoint), verify=verify, write_index=write_index)
    return tree.only(is_read)
